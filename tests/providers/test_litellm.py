from __future__ import annotations

import pytest
from pydantic import ValidationError

from faregate.errors import ConfigError
from faregate.meter import meter_for
from faregate.providers import litellm
from faregate.providers.litellm import LiteLLMProvider
from faregate.providers.openai import ProviderOptions
from faregate.providers.upstream import Upstream
from faregate.settings import Settings


def provider(api_key: str | None = None, **own: object) -> LiteLLMProvider:
    options = ProviderOptions(name="lib", kind="litellm", api_key=api_key, own=own)
    return LiteLLMProvider(options, Upstream(), meter_for)


def test_without_the_library_the_start_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litellm, "is_installed", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install 'faregate\[litellm\]'"):
        provider()


@pytest.mark.parametrize(
    ("endpoint", "model", "vendors", "can"),
    [
        ("chat.completions", "mistral/mistral-small", (), True),
        ("embeddings", "cohere/embed-v4.0", (), True),
        ("responses", "mistral/mistral-small", (), False),
        ("chat.completions", "openai/gpt-4o", ("mistral",), False),
        ("chat.completions", "mistral", ("mistral",), False),
        ("chat.completions", "huggingface/https://elsewhere.example/x", (), False),
    ],
)
def test_what_is_served(endpoint: str, model: str, vendors: tuple[str, ...], can: bool) -> None:
    assert provider(vendors=vendors).serves(endpoint, model) == can


def test_an_error_shows_no_secret() -> None:
    text = b"bad key a-key-of-ours, not gsk_0123456789"
    assert provider(api_key="a-key-of-ours").redact(text) == b"bad key [redacted], not [redacted]"


def test_a_key_without_an_owner_is_refused() -> None:
    with pytest.raises(ValidationError, match="vendors must say whose key"):
        Settings.model_validate({"providers": {"p": {"kind": "litellm", "api_key": "k"}}})


@pytest.mark.parametrize("name", ["model", "messages", "stream", "api_key", "api_base", "callbacks", "num_retries"])
def test_arguments_that_are_not_the_operators_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot be set here"):
        Settings.model_validate({"providers": {"p": {"kind": "litellm", "params": {name: "x"}}}})
