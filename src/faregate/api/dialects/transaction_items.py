"""One usage transaction: checked, with every problem and its path, and translated into counts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from faregate.api.counted import MOST_COUNTED, MOST_SECONDS, Counted, attributes, moment_of
from faregate.api.dialects.raw_usage import split_by
from faregate.api.fields import MAX_METADATA_BYTES, Metadata
from faregate.api.http import encode
from faregate.core.usage import Usage
from faregate.errors import InvalidRequest
from faregate.pricing.entries import TOKEN_CLASSES
from faregate.pricing.names import kind_of

PROVIDERS = ("openai", "gemini", "bedrock", "anthropic", "xai", "deepseek", "custom")
ENDPOINT = "usage.transactions"
_MOST_PROBLEMS = 20
_SEARCHES = {
    "web_search": "web_search_requests",
    "x_search": "x_search_calls",
    "file_search": "file_search_calls",
}
_AGENTS = ("agent", "agent_id")


class ItemError(Exception):
    """What is wrong with a transaction: (path, message) of each problem. `code` is for programs."""

    def __init__(self, problems: list[tuple[str, str]], code: str = "validation_error") -> None:
        super().__init__(problems[0][1])
        self.problems = problems[:_MOST_PROBLEMS]
        self.code = code


# What is sent -------------------------------------------------------------------------------------------


def _quantity(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("must be a number")  # noqa: TRY004 - as pydantic wants it
    number = Decimal(value)
    exponent = number.as_tuple().exponent
    if not 0 <= number <= MOST_SECONDS or not isinstance(exponent, int) or exponent < -9:
        raise ValueError(f"must be from 0 to {MOST_SECONDS}, to 9 places")
    return number


def _raw(value: dict[str, Any]) -> dict[str, Any]:
    if len(encode(value)) > MAX_METADATA_BYTES:
        raise ValueError(f"is longer than {MAX_METADATA_BYTES} bytes of JSON")
    return value


Count = Annotated[int, Field(ge=0, le=MOST_COUNTED)]
Quantity = Annotated[Decimal, BeforeValidator(_quantity)]
Label = Annotated[str, Field(min_length=1, max_length=200)]


class _Part(BaseModel):
    """Strict; what a newer client adds is left alone."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        defer_build=True,  # megabytes and a part of the start, for a dialect that not everybody speaks
    )


class Tokens(_Part):
    """Totals, and what lies inside them."""

    input_tokens: Count
    output_tokens: Count
    total_tokens: Count | None = None
    cached_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    audio_input_tokens: Count | None = None
    audio_output_tokens: Count | None = None
    image_input_tokens: Count | None = None
    image_output_tokens: Count | None = None


class Images(_Part):
    """Pictures made; `size_px` is one edge."""

    generated: Count
    size_px: Annotated[int, Field(ge=1, le=100_000)] | None = None
    quality: Label | None = None


class Audio(_Part):
    """Either its length or the characters spoken."""

    seconds: Quantity | None = None
    characters: Count | None = None


class Video(_Part):
    """Its length."""

    seconds: Quantity
    resolution: Label | None = None


class Requests(_Part):
    """Calls, or searches of a kind."""

    count: Count
    request_type: Label | None = None


class Custom(_Part):
    """A metric of the organization's own."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][\w.:-]{0,63}$")]
    quantity: Quantity
    unit: Label | None = None


class Metered(_Part):
    """One entry of `usage`; its metrics are checked by its type."""

    type: Literal["tokens", "images", "audio", "video", "requests", "custom"]
    metrics: dict[str, Any]


class Transaction(_Part):
    """One transaction, but for its metrics."""

    provider: Label
    model: Label
    usage: Annotated[list[Metered], Field(min_length=1, max_length=6)]
    context: Metadata
    model_tier: Label | None = None
    provider_usage_raw: Annotated[dict[str, Any], AfterValidator(_raw)] | None = None
    idempotency_key: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    timestamp: Label | None = None

    @property
    def customer(self) -> str:
        return str(self.context["billable_customer_id"])


METRICS: Mapping[str, type[_Part]] = {
    "tokens": Tokens,
    "images": Images,
    "audio": Audio,
    "video": Video,
    "requests": Requests,
    "custom": Custom,
}


# Checking -----------------------------------------------------------------------------------------------


def read(body: object, kinds: Mapping[str, str], now_us: int) -> tuple[Transaction, Counted]:
    """The transaction and its counts; `kinds` of the configured providers. Raises ItemError."""
    try:
        item = Transaction.model_validate(body)
    except ValidationError as error:
        raise ItemError(_problems(error)) from None
    metrics = _metrics(item)
    problems = [*_of_item(item, kinds), *_of_metrics(item, metrics)]
    try:
        occurred_us = moment_of(item.timestamp, "timestamp", now_us)
    except InvalidRequest as error:
        problems.append(("timestamp", error.message))
    if problems:
        raise ItemError(problems)
    return item, _counted(item, metrics, kinds.get(item.provider) or kind_of(item.provider), occurred_us)


def _problems(error: ValidationError, *prefix: str | int) -> list[tuple[str, str]]:
    return [_problem(found, prefix) for found in error.errors(include_url=False, include_input=False)]


def _problem(found: ErrorDetails, prefix: tuple[str | int, ...]) -> tuple[str, str]:
    path = ".".join(str(part) for part in (*prefix, *found["loc"]))[:200]
    cause = found.get("ctx", {}).get("error")
    message = cause.args[0] if isinstance(cause, ValueError) and cause.args else found["msg"]
    return path, "is required" if found["type"] == "missing" else message


def _metrics(item: Transaction) -> dict[str, Any]:
    """By type. Raises ItemError."""
    found: dict[str, Any] = {}
    problems: list[tuple[str, str]] = []
    for place, part in enumerate(item.usage):
        if part.type in found:
            problems.append((f"usage.{place}.type", f"{part.type} is there twice: each type at most once"))
        try:
            found[part.type] = METRICS[part.type].model_validate(part.metrics)
        except ValidationError as error:
            problems += _problems(error, "usage", place, "metrics")
    if problems:
        raise ItemError(problems)
    return found


def _of_item(item: Transaction, kinds: Mapping[str, str]) -> list[tuple[str, str]]:
    problems = []
    if item.provider not in PROVIDERS and item.provider not in kinds:
        problems.append(("provider", f"must be one of {', '.join(PROVIDERS)}, or a configured provider"))
    customer = item.context.get("billable_customer_id")
    if customer is None:
        problems.append(("context.billable_customer_id", "is required"))
    elif not isinstance(customer, str) or not 0 < len(customer) <= 200:
        problems.append(("context.billable_customer_id", "must be a text of 1 to 200 characters"))
    return problems


def _of_metrics(item: Transaction, metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the fields say together."""
    places = {part.type: f"usage.{place}.metrics" for place, part in enumerate(item.usage)}
    problems = []
    tokens: Tokens | None = metrics.get("tokens")
    if tokens is not None and not _outside(item) and (tokens.cached_tokens or 0) > tokens.input_tokens:
        problems.append((f"{places['tokens']}.cached_tokens", "lie inside input_tokens: they cannot be more"))
    if tokens is not None and (tokens.reasoning_tokens or 0) > tokens.output_tokens:
        problems.append((f"{places['tokens']}.reasoning_tokens", "lie inside output_tokens: they cannot be more"))
    audio: Audio | None = metrics.get("audio")
    if audio is not None and (audio.seconds is None) == (audio.characters is None):
        problems.append((places["audio"], "must have either seconds or characters"))
    custom: Custom | None = metrics.get("custom")
    if custom is not None and custom.name in TOKEN_CLASSES:
        problems.append((f"{places['custom']}.name", f"{custom.name} is a class of tokens: use the type tokens"))
    return problems


def _outside(item: Transaction) -> bool:
    """Anthropic counts cached tokens beside its input, and so do those who hand its numbers on."""
    return item.provider == "anthropic"


# Translating --------------------------------------------------------------------------------------------


def _counted(item: Transaction, metrics: Mapping[str, Any], kind: str, occurred_us: int) -> Counted:
    usage = _usage(item, metrics)
    if item.provider_usage_raw and "tokens" in metrics:
        usage = split_by(usage, item.provider_usage_raw, kind=kind, model=item.model)
    return Counted(
        provider=item.provider,
        model=item.model,
        usage=usage,
        occurred_us=occurred_us,
        endpoint=ENDPOINT,
        picture=_picture(metrics.get("images")),
        tier=(item.model_tier or "default").lower(),
        attribution=_attribution(item.context),
        raw_usage=encode(item.provider_usage_raw).decode() if item.provider_usage_raw else None,
    )


def _usage(item: Transaction, metrics: Mapping[str, Any]) -> Usage:
    found: dict[str, Any] = {}
    for part in metrics.values():
        if isinstance(part, Tokens):
            found |= _tokens(part, outside=_outside(item))
        elif isinstance(part, Images):
            found["images"] = part.generated
            found["pixels"] = None if part.size_px is None else part.generated * part.size_px**2
        elif isinstance(part, Audio):
            found |= {"audio_seconds": part.seconds, "characters": part.characters}
        elif isinstance(part, Video):
            found["video_seconds"] = part.seconds
        elif isinstance(part, Requests):
            found[_SEARCHES.get(part.request_type or "", "requests")] = part.count
        elif isinstance(part, Custom):
            found["custom"] = {part.name: part.quantity}
    return Usage(**found)


def _picture(part: Images | None) -> str | None:
    """What says which picture it was: its quality and one edge, as far as they are told."""
    if part is None:
        return None
    quality = "standard" if part.quality in (None, "auto") else part.quality
    return f"image:{quality}:{part.size_px or 1024}x"


def _tokens(part: Tokens, *, outside: bool) -> dict[str, int | None]:
    cached = part.cached_tokens
    return {
        "input_tokens": part.input_tokens + (cached or 0) if outside else part.input_tokens,
        "output_tokens": part.output_tokens,
        "cached_input_tokens": cached,
        "reasoning_tokens": part.reasoning_tokens,
        "cache_write_tokens": part.cache_write_tokens,
        "audio_input_tokens": part.audio_input_tokens,
        "audio_output_tokens": part.audio_output_tokens,
        "image_input_tokens": part.image_input_tokens,
        "image_output_tokens": part.image_output_tokens,
    }


def _attribution(context: Mapping[str, Any]) -> dict[str, str]:
    """The whole context as metadata; who did it for what also under the names that usage is grouped by."""
    found = attributes(context)
    agent = next((context[name] for name in _AGENTS if isinstance(context.get(name), str)), None)
    if agent is not None:
        found["agent"] = agent
    if isinstance(context.get("feature"), str):
        found["feature"] = context["feature"]
    return found
