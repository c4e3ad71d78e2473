"""One frozen settings object, and the only reader of the environment.

`load` puts the layers together, the later wins: defaults, the file, FAREGATE_<SECTION>__<KEY>, the command
line. Every mistake is one ConfigError that names where it stands, the key and what is allowed, and no value.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Final, cast

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from faregate.configfile import Document, KeyPath, dotted, read
from faregate.errors import ConfigError
from faregate.settings_model import (
    IMPLEMENTED_KINDS,
    PROVIDERS,
    Auth,
    AzureProvider,
    BaseProvider,
    Credits,
    Journal,
    OpenAIProvider,
    ProviderConfig,
    Replay,
    SandboxProvider,
    Section,
    Server,
    Settings,
    Stripe,
    Timing,
)

__all__ = [
    "IMPLEMENTED_KINDS",
    "PROVIDERS",
    "Auth",
    "AzureProvider",
    "BaseProvider",
    "Credits",
    "Journal",
    "OpenAIProvider",
    "ProviderConfig",
    "Replay",
    "SandboxProvider",
    "Server",
    "Settings",
    "Stripe",
    "Timing",
    "child_environment",
    "example",
    "json_schema",
    "load",
]

ADMIN_KEY_LENGTH: Final = (32, 4096)

_PREFIX = "FAREGATE_"
_OWN_NAMES = frozenset({"FAREGATE_CONFIG", "FAREGATE_ADMIN_KEY"})
_BY_NAME: Final = ("providers", "models")
"""Sections whose keys are names of the operator's choice."""
_STRUCTURED: Final = (("deployments",), ("params",), ("vendors",))
"""Keys of providers that are mappings or lists."""

_USUAL_VARIABLES: Final[Mapping[str, Mapping[str, str]]] = {
    "openai": {"api_key": "OPENAI_API_KEY", "base_url": "OPENAI_BASE_URL"},
    "anthropic": {"api_key": "ANTHROPIC_API_KEY", "base_url": "ANTHROPIC_BASE_URL"},
    "gemini": {"api_key": "GEMINI_API_KEY"},
    "deepseek": {"api_key": "DEEPSEEK_API_KEY"},
    "xai": {"api_key": "XAI_API_KEY"},
    "azure": {
        "api_key": "AZURE_OPENAI_API_KEY",
        "base_url": "AZURE_OPENAI_ENDPOINT",
        "api_version": "OPENAI_API_VERSION",
    },
    "bedrock": {"region": "AWS_REGION", "api_key": "AWS_BEARER_TOKEN_BEDROCK"},
}
_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {"azure": ("api_key", "base_url"), "bedrock": ("region",)}


def load(
    path: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """The settings of this process. The file is `path`, else FAREGATE_CONFIG, else none. Raises ConfigError.

    `overrides` are the command line's: `{"server.port": 9000}`; a None overrides nothing.
    """
    chosen = path or (Path(environ["FAREGATE_CONFIG"]) if environ.get("FAREGATE_CONFIG") else None)
    document = _from_file(chosen, environ) if chosen else _from_usual_variables(environ)
    _apply_environment(document, environ)
    _apply_overrides(document, overrides or {})
    _infer_kinds(document)
    try:
        settings = Settings.model_validate(document.data)
    except ValidationError as error:
        raise _explain(error, document) from None
    return settings.model_copy(update={"admin_key": _admin_key(environ)})


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """What a process started by us finds in its environment: ours, and `extra`."""
    return {**os.environ, **extra}


def _from_file(path: Path, environ: Mapping[str, str]) -> Document:
    document = read(path, environ)
    if "admin_key" in document.data:
        raise ConfigError(f"{document.origins['admin_key',]}: admin_key: is read from FAREGATE_ADMIN_KEY only")
    document.data = _without_nulls(document.data)
    if isinstance(prices := document.data.get("prices"), str) and prices.strip():
        document.data["prices"] = str((path.parent / Path(prices).expanduser()).absolute())
    return document


def _without_nulls(data: Mapping[str, object]) -> dict[str, object]:
    """A key without a value is unset: its default holds. An operator's own names must have a value."""
    kept = {key: value for key, value in data.items() if value is not None}
    for key, value in kept.items():
        if isinstance(value, dict):
            kept[key] = {name: _set(item) for name, item in value.items() if item is not None or key in _BY_NAME}
    return kept


def _set(value: object) -> object:
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


def _from_usual_variables(environ: Mapping[str, str]) -> Document:
    """Without a file: the providers whose usual variables are set, as far as this release implements them."""
    document = Document(data={"providers": {}})
    for kind in sorted(IMPLEMENTED_KINDS & _USUAL_VARIABLES.keys()):
        found = {field: name for field, name in _USUAL_VARIABLES[kind].items() if environ.get(name, "").strip()}
        if found.keys() >= set(_NEEDED.get(kind, ("api_key",))):
            _put(document, ("providers", kind, "kind"), kind, "environment")
            for field, name in found.items():
                _put(document, ("providers", kind, field), environ[name].strip(), name)
    return document


def _apply_environment(document: Document, environ: Mapping[str, str]) -> None:
    """FAREGATE_<SECTION>__<KEY>. Others that begin so, such as Kubernetes' FAREGATE_PORT, are not ours."""
    for name in sorted(environ):
        segments = name.removeprefix(_PREFIX).lower().split("__")
        ours = len(segments) > 1 or segments[0] in Settings.model_fields
        if name.startswith(_PREFIX) and name not in _OWN_NAMES and ours:
            path = _environment_path(segments, document)
            _put(document, path, _environment_value(name, path, environ[name]), name)


def _environment_path(segments: Sequence[str], document: Document) -> tuple[str, ...]:
    """`PROVIDERS__AZURE_2__API_KEY` reaches a provider called azure-2: variables' names hold no - or dot."""
    if len(segments) < 2 or segments[0] not in _BY_NAME:
        return tuple(segments)
    named = document.data.get(segments[0])
    names = [str(name) for name in named] if isinstance(named, dict) else []
    same = [name for name in names if re.sub(r"[^a-z0-9]", "_", name.lower()) == segments[1]]
    return (segments[0], same[0] if same else segments[1], *segments[2:])


def _environment_value(name: str, path: tuple[str, ...], text: str) -> object:
    """Text as it is; JSON where a mapping or list belongs (a section, a model, a provider's deployments)."""
    if len(path) == 1:
        structured = path[0] not in ("data_dir", "redis_url", "database_url", "prices")
    else:
        structured = (path[0] in _BY_NAME and len(path) == 2) or path[2:] in _STRUCTURED
    if not structured:
        return text
    try:
        return json.loads(text, parse_float=str, parse_int=str)
    except ValueError:
        raise ConfigError(f"{name}: must be JSON") from None


def _apply_overrides(document: Document, overrides: Mapping[str, object]) -> None:
    for key, value in overrides.items():
        if value is not None:
            _put(document, tuple(key.split(".")), value, f"command line, --{key.rpartition('.')[2]}")


def _put(document: Document, path: tuple[str, ...], value: object, origin: str) -> None:
    target: dict[str, object] = document.data
    for depth, segment in enumerate(path[:-1], start=1):
        inner = target.setdefault(segment, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{origin}: {dotted(path[:depth])} has no keys of its own")
        document.origins.setdefault(path[:depth], origin)
        target = inner
    target[path[-1]] = value
    document.origins = {known: at for known, at in document.origins.items() if known[: len(path)] != path}
    document.origins[path] = origin


def _infer_kinds(document: Document) -> None:
    """A provider that says no kind is of the kind it is called by, so that one variable can configure it."""
    providers = document.data.get("providers")
    for name, config in providers.items() if isinstance(providers, dict) else ():
        if isinstance(config, dict) and name in PROVIDERS:
            config.setdefault("kind", name)


def _admin_key(environ: Mapping[str, str]) -> SecretStr | None:
    text = environ.get("FAREGATE_ADMIN_KEY", "").strip()
    shortest, longest = ADMIN_KEY_LENGTH
    if text and not shortest <= len(text) <= longest:
        raise ConfigError(f"FAREGATE_ADMIN_KEY: must have {shortest} to {longest} characters")
    return SecretStr(text) if text else None


# Explaining ---------------------------------------------------------------------------------------------


def _explain(error: ValidationError, document: Document) -> ConfigError:
    """The first mistake in the order of the file, on one line; how many more there are, in brackets."""
    mistakes = [_Mistake(details) for details in error.errors(include_url=False, include_input=False)]
    first = min(mistakes, key=lambda mistake: mistake.order(document))
    more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    key = dotted(first.path)
    return ConfigError(f"{first.place(document)}: {key}: {first.message()}{more}", param=key)


class _Mistake:
    """One of pydantic's errors, in the operator's terms."""

    def __init__(self, details: ErrorDetails) -> None:
        self.type = details["type"]
        self.context = details.get("ctx", {})
        self.text = details["msg"]
        self.kind: str | None = None
        self.path = self._path(details["loc"])

    def _path(self, loc: KeyPath) -> KeyPath:
        """The key path: without pydantic's marks for union members (a provider's kind) and mapping keys."""
        if "path" in self.context:
            return cast(KeyPath, self.context["path"])
        if loc[:1] == ("providers",) and len(loc) > 2 and loc[2] in PROVIDERS:
            self.kind = str(loc[2])
            loc = (*loc[:2], *loc[3:])
        if self.type in ("union_tag_invalid", "union_tag_not_found"):
            loc = (*loc, "kind")
        return tuple(part for part in loc if part != "[key]")

    def place(self, document: Document) -> str:
        """Where it stands: the nearest key that was written down."""
        for end in range(len(self.path), 0, -1):
            if self.path[:end] in document.origins:
                return document.origins[self.path[:end]]
        return "configuration"

    def order(self, document: Document) -> tuple[str, int]:
        name, _, line = self.place(document).rpartition(":")
        return (name, int(line)) if line.isdigit() else (line, 0)

    def message(self) -> str:
        """What is wrong and what is allowed; never the value."""
        match self.type:
            case "extra_forbidden":
                return self._unknown_key(sorted(_fields_at(self.path[:-1], self.kind)))
            case "missing":
                return "is missing"
            case "union_tag_invalid" | "union_tag_not_found":
                return f"must be one of {', '.join(PROVIDERS)}"
            case "literal_error":
                return f"must be one of {str(self.context['expected']).replace(' or ', ', ')}"
            case "model_type" | "model_attributes_type" | "mapping_type" | "dict_type":
                return "must be a mapping of keys to values"
            case "path_type":
                return "must be a path"
            case "tuple_type":
                return "must be a list"
        if self.type == "string_pattern_mismatch":
            return _PATTERNS.get(str(self.context["pattern"]), self.text)
        text = self.text.removeprefix("Value error, ").replace("Input should", "must").replace("String should", "must")
        return text.replace("Decimal input should", "must")

    def _unknown_key(self, allowed: Sequence[str]) -> str:
        near = get_close_matches(str(self.path[-1]), allowed, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"unknown key; {hint}allowed: {', '.join(allowed)}"


_PATTERNS: Final[Mapping[str, str]] = {
    r"^[a-z0-9][a-z0-9._-]*$": "provider names are lower-case letters, digits, '.', '_' and '-', not first",
    r"^\S+$": "model names have no spaces and are not empty",
    r"^[a-z0-9][a-z0-9._-]*/\S+$": 'must be "provider/model"',
    r"^[a-z0-9-]+$": "must be lower-case letters, digits and '-'",
    r"^(v1|[0-9]{4}-[0-9]{2}-[0-9]{2}(-[a-z0-9]+)?)$": "must be v1 or a date as in 2024-10-21 or 2025-03-01-preview",
}


def _fields_at(path: KeyPath, kind: str | None) -> set[str]:
    """The keys allowed beneath a path."""
    if len(path) == 2 and kind is not None:
        return set(PROVIDERS[kind].model_fields)
    if len(path) == 1:
        section = Settings.model_fields[str(path[0])].annotation
        return set(section.model_fields) if isinstance(section, type) and issubclass(section, Section) else set()
    return set(Settings.model_fields) - {"admin_key"}


# What is shipped ----------------------------------------------------------------------------------------


def json_schema() -> dict[str, object]:
    """The JSON Schema of faregate.yaml, as values stand in the file before `${…}` is filled in."""
    schema = Settings.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "faregate.yaml"}


def example() -> str:
    """The commented configuration `faregate init` writes: config/faregate.yaml, shipped as package data."""
    return (files("faregate") / "data" / "faregate.yaml").read_text("utf-8")
