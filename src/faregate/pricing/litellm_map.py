"""The last layer: a snapshot of LiteLLM's public price map (MIT), made by `scripts/price-map`.

Decompressed on the first miss of the layers above; entries become cards one at a time. Numbers are strings in it.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

from faregate.core.price import LongContext, PriceCard
from faregate.core.pricing import overlay
from faregate.pricing.cards import Rates, mend
from faregate.pricing.names import LITELLM_PREFIXES

_TOKEN_KEYS: Mapping[str, str] = {
    "input_cost_per_token": "input",
    "cache_read_input_token_cost": "cached_input",
    "input_cost_per_token_cache_hit": "cached_input",
    "cache_creation_input_token_cost": "cache_write_5m",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "output_cost_per_token": "output",
    "output_cost_per_reasoning_token": "reasoning",
    "citation_cost_per_token": "citation",
    "input_cost_per_audio_token": "audio_input",
    "cache_read_input_audio_token_cost": "cached_audio_input",
    "output_cost_per_audio_token": "audio_output",
    "input_cost_per_image_token": "image_input",
    "cache_read_input_image_token_cost": "cached_image_input",
    "output_cost_per_image_token": "image_output",
}

_UNIT_KEYS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "audio_transcription": (("input_cost_per_second", "second"), ("output_cost_per_second", "second")),
    "audio_speech": (
        ("input_cost_per_character", "character"),
        ("output_cost_per_character", "output_character"),
        ("input_cost_per_second", "second"),
        ("output_cost_per_second", "second"),
    ),
    "image_generation": (
        ("output_cost_per_image", "image"),
        ("input_cost_per_image", "image"),
        ("output_cost_per_pixel", "pixel"),
        ("input_cost_per_pixel", "pixel"),
    ),
    "video_generation": (
        ("output_cost_per_video_per_second", "video_second"),
        ("output_cost_per_second", "video_second"),
    ),
    "rerank": (("input_cost_per_query", "query"), ("input_cost_per_request", "request")),
    "search": (("input_cost_per_query", "query"),),
    "ocr": (("ocr_cost_per_page", "page"),),
}
"""Unit prices by mode; of several keys for one rate the first counts (whisper lists its second twice)."""
_UNIT_KEYS_ALL = (("code_interpreter_cost_per_session", "session"), ("input_cost_per_request", "request"))

_TIER_KEY = re.compile(
    r"(?P<base>.+?)(_above_(?P<above>\d+)k_tokens)?(_(?P<tier>batches|flex|priority|ultrafast|balanced))?"
)
_TIERS: Mapping[str, str] = {"batches": "batch"}

_FAMILIES: Mapping[str, tuple[str, ...]] = {
    "openai": ("openai", "text-completion-openai"),
    "azure": ("azure", "azure_text", "azure_ai"),
    "bedrock": ("bedrock", "bedrock_converse", "bedrock_mantle"),
    "cohere": ("cohere", "cohere_chat"),
    "mistral": ("mistral", "codestral", "text-completion-codestral"),
    "fireworks": ("fireworks_ai", "fireworks_ai-embedding-models"),
    "together": ("together_ai",),
}


@dataclass(frozen=True, slots=True)
class Map:
    """The snapshot: entries by lower-case key."""

    version: str
    date: str
    entries: Mapping[str, Mapping[str, Any]]


@cache
def load() -> Map:
    """The shipped snapshot, decompressed once."""
    packed = files("faregate.pricing").joinpath("data", "litellm-map.json.gz").read_bytes()
    raw = json.loads(gzip.decompress(packed))
    return Map(version=raw["version"], date=raw["date"], entries=raw["entries"])


def find(kind: str, model: str) -> PriceCard | None:
    """The card of a kind's model. `model` in lower case."""
    found = _entry(kind, model)
    return convert(kind, model, found) if found is not None else None


def limits(kind: str, model: str) -> tuple[int | None, int | None]:
    """Context window and maximum output of a kind's model, as far as the map knows them."""
    entry = _entry(kind, model) or {}
    return _whole(entry.get("max_input_tokens")), _whole(entry.get("max_output_tokens"))


def models() -> Iterator[tuple[str, str]]:
    """Every (kind, model) of the snapshot."""
    kinds = {provider: kind for kind, family in _FAMILIES.items() for provider in family}
    for key, entry in load().entries.items():
        provider = str(entry.get("litellm_provider", ""))
        kind = "vertex_ai" if provider.startswith("vertex_ai") else kinds.get(provider, provider)
        prefix = LITELLM_PREFIXES.get(kind, kind) + "/"
        yield kind, key.removeprefix(prefix)


def _entry(kind: str, model: str) -> Mapping[str, Any] | None:
    entries = load().entries
    for key in (f"{LITELLM_PREFIXES.get(kind, kind)}/{model}", model):
        entry = entries.get(key)
        if entry is not None and _sold_by(kind, str(entry.get("litellm_provider", ""))):
            return entry
    return None


def _sold_by(kind: str, provider: str) -> bool:
    """A bare key belongs to one seller only: `gemini-2.5-pro` is Vertex, not AI Studio."""
    return provider in _FAMILIES.get(kind, (kind,)) or (kind == "vertex_ai" and provider.startswith("vertex_ai"))


# Converting ---------------------------------------------------------------------------------------------


def convert(kind: str, model: str, entry: Mapping[str, Any]) -> PriceCard | None:
    """An entry as a card; None when it states no price (no key at all, or zero for everything)."""
    sets = _rate_sets(entry)
    rates = {**sets.pop((None, 0), {}), **_unit_rates(entry)}
    ranges = [] if rates.get("input") else _ranges(entry)
    if ranges:
        rates = {**ranges[0][1], **rates}
    tiers = {tier: overlay(rates, own) for (tier, above), own in sets.items() if tier and not above}
    inclusive = kind == "xai"
    card = PriceCard(
        id="",
        provider=kind,
        model=model,
        rates=_with_output(rates),
        tiers={tier: _batch_write(kind, own, rates) for tier, own in tiers.items()},
        long_context=_long(sets, None, inclusive=inclusive)
        + tuple(LongContext(above=low, rates=own, inclusive=False) for low, own in ranges[1:]),
        tier_long_context={tier: steps for tier in tiers if (steps := _long(sets, tier, inclusive=inclusive))},
        source=f"litellm-map {load().version}",
        source_date=load().date,
        context_window=_whole(entry.get("max_input_tokens")),
        max_output_tokens=_whole(entry.get("max_output_tokens")),
        modifiers=_modifiers(entry),
        provider_cost=kind in ("xai", "openrouter", "perplexity"),
    )
    return mend(card)


def _rate_sets(entry: Mapping[str, Any]) -> dict[tuple[str | None, int], Rates]:
    """Token rates by (tier or None, threshold or 0)."""
    sets: dict[tuple[str | None, int], Rates] = {}
    for key, value in entry.items():
        parsed = _TIER_KEY.fullmatch(key)
        rate = _number(value)
        if parsed is None or rate is None:
            continue
        name = _TOKEN_KEYS.get(parsed["base"])
        if name is not None:
            tier = parsed["tier"]
            where = (_TIERS.get(tier, tier) if tier else None, int(parsed["above"] or 0) * 1000)
            sets.setdefault(where, {}).setdefault(name, rate)
    return sets


def _long(
    sets: Mapping[tuple[str | None, int], Rates], tier: str | None, *, inclusive: bool
) -> tuple[LongContext, ...]:
    steps = sorted((above, rates) for (name, above), rates in sets.items() if name == tier and above)
    return tuple(LongContext(above=above, rates=rates, inclusive=inclusive) for above, rates in steps)


def _batch_write(kind: str, own: Rates, base: Rates) -> Rates:
    """The map has no 1-hour batch writes: dropped here, so that the mending of cards derives Claude's."""
    if own.get("cache_write_1h") == base.get("cache_write_1h") and own.get("input") != base.get("input"):
        own = {name: rate for name, rate in own.items() if name != "cache_write_1h"}
    return _with_output(own)


def _with_output(rates: Rates) -> Rates:
    """Image and speech models state only their own output rate: text output costs the same."""
    other = rates.get("image_output", rates.get("audio_output"))
    return rates if "output" in rates or other is None or "input" not in rates else {**rates, "output": other}


def _unit_rates(entry: Mapping[str, Any]) -> Rates:
    mode = "image_generation" if entry.get("mode") == "image_edit" else str(entry.get("mode"))
    rates: Rates = {}
    for key, name in (*_UNIT_KEYS.get(mode, ()), *_UNIT_KEYS_ALL):
        rate = _number(entry.get(key))
        if rate:
            rates.setdefault(name, rate)
    if "output_cost_per_image_token" in entry or "image" in rates:
        rates = {name: rate for name, rate in rates.items() if name != "pixel"}
    if "output_cost_per_image_token" in entry:
        rates.pop("image", None)
    search = entry.get("search_context_cost_per_query")
    if isinstance(search, Mapping) and (fee := _number(search.get("search_context_size_medium"))):
        rates["request" if entry.get("litellm_provider") == "perplexity" else "search"] = fee
    return rates


def _ranges(entry: Mapping[str, Any]) -> list[tuple[int, Rates]]:
    """`tiered_pricing`: the range the input falls into prices the whole request."""
    found = []
    for part in entry.get("tiered_pricing") or ():
        low = Decimal(str(part["range"][0])) if "range" in part else None
        if low is not None:
            found.append((int(low), _rate_sets(part).get((None, 0), {})))
    return sorted(found, key=lambda pair: pair[0])


def _modifiers(entry: Mapping[str, Any]) -> dict[str, Decimal]:
    factors = entry.get("provider_specific_entry")
    if not isinstance(factors, Mapping):
        return {}
    names = {"us": "geo:us", "fast": "speed:fast"}
    return {names[key]: rate for key in names if (rate := _number(factors.get(key))) is not None}


def _number(value: object) -> Decimal | None:
    """A price as the map writes it; lists, objects and what is no finite number are none."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    if isinstance(value, str) and not re.fullmatch(r"\d+(\.\d+)?([eE][+-]?\d{1,2})?", value):
        return None
    return Decimal(value)


def _whole(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number > 0 else None
