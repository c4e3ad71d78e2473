"""OpenAI's usage object and its many cousins, normalised: one table of names, then what one provider does differently.

Cached reads, cache writes and audio are slices of the input, reasoning and audio of the output. The exceptions (xAI
chat, Gemini's compatible endpoint, Perplexity) are functions of their own, by provider kind and endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal

from faregate.core.money import plain
from faregate.core.usage import Usage
from faregate.meter.reader import Source
from faregate.meter.values import Counts, add, child, decimal, spellings

_USD_TICKS = -10  # xAI: 10^10 ticks are 1 USD


def _details(side: tuple[str, ...], key: str) -> tuple[str, ...]:
    return tuple(f"{name}.{key}" for name in side)


_IN = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
_OUT = ("completion_tokens_details", "output_tokens_details", "output_token_details")

NAMES: Mapping[str, tuple[str, ...]] = {
    "input_tokens": ("prompt_tokens", "input_tokens"),
    "output_tokens": ("completion_tokens", "output_tokens"),
    # DeepSeek, Moonshot and Mistral say it twice under two names: the first that is known, never the sum.
    "cached_input_tokens": (
        *_details(_IN, "cached_tokens"),
        "prompt_cache_hit_tokens",
        "cached_tokens",
        "num_cached_tokens",
    ),
    "cache_write_tokens": (*_details(_IN, "cache_write_tokens"), *_details(_IN, "cache_creation_tokens")),
    "audio_input_tokens": _details(_IN, "audio_tokens"),
    "image_input_tokens": _details(_IN, "image_tokens"),
    "cached_audio_input_tokens": _details(_IN, "cached_tokens_details.audio_tokens"),
    "cached_image_input_tokens": _details(_IN, "cached_tokens_details.image_tokens"),
    "reasoning_tokens": (*_details(_OUT, "reasoning_tokens"), "reasoning_tokens"),
    "audio_output_tokens": _details(_OUT, "audio_tokens"),
    "image_output_tokens": _details(_OUT, "image_tokens"),
    "accepted_prediction_tokens": _details(_OUT, "accepted_prediction_tokens"),
    "rejected_prediction_tokens": _details(_OUT, "rejected_prediction_tokens"),
    "citation_tokens": ("citation_tokens",),
    "web_search_requests": (
        "tool_usage.web_search.num_requests",
        "server_side_tool_usage_details.web_search_calls",
        "server_tool_use.web_search_requests",
        "num_search_queries",
    ),
    "x_search_calls": ("server_side_tool_usage_details.x_search_calls",),
    "file_search_calls": ("server_side_tool_usage_details.file_search_calls",),
    "num_sources_used": ("num_sources_used",),
}

_PATHS = {field: spellings(names) for field, names in NAMES.items()}
_TOTAL = spellings(("total_tokens",))
_FIELDS_AT: dict[str, dict[str, set[str]]] = {}
"""By the first two steps of a name ("" for none): the fields that may be found there. Most answers have a few."""
for _field, _names in NAMES.items():
    for _name in _names:
        _outer, _, _rest = _name.partition(".")
        _FIELDS_AT.setdefault(_outer, {}).setdefault(_rest.partition(".")[0], set()).add(_field)


def normalise(raw: Mapping[str, object], source: Source) -> tuple[Usage, str | None]:
    """The usage and its anomaly."""
    counts = Counts(raw)
    found = {field: counts.first(_PATHS[field]) for field in _fields_in(raw)}
    total = counts.first(_TOTAL)
    if found.get("input_tokens") is None and found.get("output_tokens") is None:
        found["total_tokens"] = total
    usage = Usage(**found)  # type: ignore[arg-type]
    quirk = _quirk(source)
    if quirk is not None:
        usage = quirk(usage, raw, total)
    usage = _fill_output(usage, total, source)
    if "prompt_audio_seconds" in raw:
        usage = replace(usage, audio_seconds=decimal(raw["prompt_audio_seconds"]))
    return usage, anomaly(usage, negative=counts.negative)


def _fields_in(raw: Mapping[str, object]) -> set[str]:
    """The fields that a usage object has names of."""
    fields: set[str] = set()
    for name, value in raw.items():
        known = _FIELDS_AT.get(name)
        if known is not None:
            for inner in value if isinstance(value, dict) else ("",):
                fields.update(known.get(inner, ()))
    return fields


def _fill_output(usage: Usage, total: int | None, source: Source) -> Usage:
    """Embeddings have no output; elsewhere what is missing is the total's rest (echo with max_tokens 0)."""
    if usage.output_tokens is not None or usage.input_tokens is None:
        return usage
    if source.endpoint == "embeddings":
        return replace(usage, output_tokens=0)
    if total is not None and total >= usage.input_tokens:
        return replace(usage, output_tokens=total - usage.input_tokens)
    return usage


def anomaly(usage: Usage, *, negative: bool) -> str | None:
    """What cannot be: a count below zero, or more cached than there was input."""
    if negative:
        return "negative_tokens"
    cached = (usage.cached_input_tokens or 0) + (usage.cache_write_tokens or 0)
    return "cached_gt_input" if usage.input_tokens is not None and cached > usage.input_tokens else None


# Quirks -------------------------------------------------------------------------------------------------

Quirk = Callable[[Usage, Mapping[str, object], int | None], Usage]


def _quirk(source: Source) -> Quirk | None:
    chat = source.endpoint in ("chat.completions", "completions")
    if source.kind == "xai" and chat:
        return _xai_chat
    if source.kind == "gemini" and chat:
        return _gemini_compat
    if source.kind == "perplexity" and chat:
        return _perplexity
    return None


def _xai_chat(usage: Usage, raw: Mapping[str, object], total: int | None) -> Usage:
    """xAI chat: reasoning comes on top of completion_tokens, unless the total says that it is inside."""
    if usage.output_tokens is None or not usage.reasoning_tokens:
        return usage
    inside = total is not None and total == (usage.input_tokens or 0) + usage.output_tokens
    return usage if inside else replace(usage, output_tokens=usage.output_tokens + usage.reasoning_tokens)


def _gemini_compat(usage: Usage, raw: Mapping[str, object], total: int | None) -> Usage:
    """Gemini's OpenAI endpoint: thoughts are neither in completion_tokens nor listed, only in the total."""
    if total is None or usage.input_tokens is None:
        return usage
    shown, output = usage.output_tokens, total - usage.input_tokens
    if shown is None or output <= shown:
        return usage
    return replace(usage, output_tokens=output, reasoning_tokens=usage.reasoning_tokens or output - shown)


def _perplexity(usage: Usage, raw: Mapping[str, object], total: int | None) -> Usage:
    """Perplexity deep research: reasoning_tokens stands beside completion_tokens and is billed apart."""
    if not usage.reasoning_tokens or "reasoning_tokens" not in raw:
        return usage
    return replace(usage, output_tokens=add((usage.output_tokens, usage.reasoning_tokens)))


# Money --------------------------------------------------------------------------------------------------


def provider_cost_usd(raw: Mapping[str, object]) -> Decimal | None:
    """What the provider says the answer cost: xAI's ticks, OpenRouter's number, Perplexity's object."""
    ticks = decimal(raw.get("cost_in_usd_ticks"))
    if ticks is not None:
        return plain(ticks.scaleb(_USD_TICKS))
    cost = raw.get("cost")
    return decimal(cost.get("total_cost")) if isinstance(cost, dict) else decimal(cost)


def upstream_cost_usd(raw: Mapping[str, object]) -> Decimal | None:
    """OpenRouter with the customer's own key: `cost` is only the fee. Otherwise it is the same money."""
    return decimal(child(raw, "cost_details").get("upstream_inference_cost")) if raw.get("is_byok") is True else None
