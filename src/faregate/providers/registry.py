"""Providers from the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Literal, Protocol

from faregate.errors import ConfigError
from faregate.ports import Provider, Timeouts
from faregate.providers import sandbox
from faregate.providers.openai import MeterFactory, ProviderOptions, Secret
from faregate.providers.upstream import Upstream


class ProviderConfig(Protocol):
    """What the registry reads of one entry under `providers` in the settings."""

    @property
    def kind(self) -> str: ...
    @property
    def base_url(self) -> str | None: ...
    @property
    def api_key(self) -> Secret | None: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def connect_timeout_s(self) -> float: ...
    @property
    def idle_timeout_s(self) -> float: ...
    @property
    def retries(self) -> int: ...
    @property
    def on_disconnect(self) -> Literal["drain", "cancel"]: ...
    @property
    def own(self) -> Mapping[str, object]: ...


class Build(Protocol):
    """A kind's class: what its module is loaded for."""

    def __call__(self, options: ProviderOptions, upstream: Upstream, meter_for: MeterFactory) -> Provider: ...


KINDS: Mapping[str, str] = {
    "anthropic": "anthropic:AnthropicProvider",
    "azure": "azure:AzureProvider",
    "bedrock": "bedrock:BedrockProvider",
    "deepseek": "deepseek:DeepSeekProvider",
    "gemini": "gemini:GeminiProvider",
    "litellm": "litellm:LiteLLMProvider",
    "openai": "openai:OpenAIProvider",
    "sandbox": "sandbox:SandboxProvider",
    "xai": "xai:XAIProvider",
}
"""Module and class by kind. A module is loaded when a configured provider needs it: some bring heavy libraries."""


def build_providers(
    configs: Mapping[str, ProviderConfig], upstream: Upstream, meter_for: MeterFactory
) -> dict[str, Provider]:
    """Every configured provider by name, and a `sandbox` for test keys unless one is configured.

    Raises ConfigError for a kind that is not implemented.
    """
    built = {name: _build(_options(name, config), upstream, meter_for) for name, config in configs.items()}
    if not any(provider.kind == sandbox.KIND for provider in built.values()):
        if sandbox.OPTIONS.name in built:
            raise ConfigError("providers.sandbox: this name belongs to the kind sandbox")
        built[sandbox.OPTIONS.name] = _build(sandbox.OPTIONS, upstream, meter_for)
    return built


def sandbox_name(providers: Mapping[str, Provider]) -> str:
    """The provider of test keys: the first of kind sandbox."""
    return next(name for name, provider in providers.items() if provider.kind == sandbox.KIND)


def _build(options: ProviderOptions, upstream: Upstream, meter_for: MeterFactory) -> Provider:
    place = KINDS.get(options.kind)
    if place is None:
        kinds = ", ".join(sorted(KINDS))
        raise ConfigError(
            f"providers.{options.name}.kind: {options.kind!r} is not implemented yet; implemented: {kinds}"
        )
    module, _, name = place.partition(":")
    build: Build = getattr(import_module(f"faregate.providers.{module}"), name)
    return build(options, upstream, meter_for)


def _options(name: str, config: ProviderConfig) -> ProviderOptions:
    return ProviderOptions(
        name=name,
        kind=config.kind,
        base_url=config.base_url,
        api_key=config.api_key.get_secret_value() if config.api_key is not None else None,
        timeouts=Timeouts(
            connect_s=config.connect_timeout_s, first_byte_s=config.timeout_s, idle_s=config.idle_timeout_s
        ),
        retries=config.retries,
        on_disconnect=config.on_disconnect,
        own=config.own,
    )
