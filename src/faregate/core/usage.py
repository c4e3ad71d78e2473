"""What a provider says was consumed, normalised: one shape for every dialect.

Totals include their parts: `input_tokens` holds cached reads, cache writes and tool-use prompts; `output_tokens` holds
reasoning, audio and image tokens. None means unknown and never becomes 0; 0 is a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

MOST_TOKENS = 1_000_000_000
"""No answer has more: a count above it is a provider's mistake, if it cannot be charged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Counts of one answer. Subsets (cached, reasoning, audio, ...) are parts of their total, never added to it."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    """Only when it is all the provider told (no split)."""
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_write_5m_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    audio_input_tokens: int | None = None
    image_input_tokens: int | None = None
    cached_audio_input_tokens: int | None = None
    cached_image_input_tokens: int | None = None
    tool_use_input_tokens: int | None = None
    tool_use_billable: bool = True
    reasoning_tokens: int | None = None
    audio_output_tokens: int | None = None
    image_output_tokens: int | None = None
    accepted_prediction_tokens: int | None = None
    rejected_prediction_tokens: int | None = None
    citation_tokens: int | None = None
    audio_seconds: Decimal | None = None
    video_seconds: Decimal | None = None
    characters: int | None = None
    output_characters: int | None = None
    images: int | None = None
    pixels: int | None = None
    pages: int | None = None
    requests: int | None = None
    web_search_requests: int | None = None
    web_fetch_requests: int | None = None
    x_search_calls: int | None = None
    file_search_calls: int | None = None
    code_interpreter_sessions: int | None = None
    num_sources_used: int | None = None
    search_units: int | None = None
    custom: Mapping[str, Decimal] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderError:
    """An error as the provider told it, in a body or in the middle of a stream."""

    status: int | None = None
    type: str | None = None
    code: str | int | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a meter has learned from one answer, complete or not."""

    usage: Usage | None = None
    """None: the answer carried no usage (so it is estimated, never zero)."""
    complete: bool = False
    """The dialect's end marker (or the whole body) was seen."""
    billable: bool = True
    pending: bool = False
    output_is_placeholder: bool = False
    error: ProviderError | None = None
    anomaly: str | None = None
    """negative_tokens | cached_gt_input"""
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    model: str | None = None
    """The model that served, as the answer names it."""
    per_model: Mapping[str, Usage] | None = None
    provider_cost_usd: Decimal | None = None
    upstream_cost_usd: Decimal | None = None
    response_id: str | None = None
    """Of an answer that the provider keeps, to be asked for again."""
    delivered_tokens: int = 0
    """Output seen so far, for want of usage: the larger of the content deltas and a quarter of their bytes."""
    raw_usage: bytes = b""
    """The provider's usage object as it came (bounded)."""
