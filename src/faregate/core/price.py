"""Price cards and itemised costs, as data; `core/pricing.py` turns a usage on a card into a cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class LongContext:
    """Rates that replace the card's own for the whole request once its input passes `above` tokens."""

    above: int
    rates: Mapping[str, Decimal]
    inclusive: bool = False
    """True: switches at `above` (xAI); False: over it (everybody else)."""

    def applies(self, input_tokens: int) -> bool:
        """Whether a request of so many input tokens (cached ones included) is on these rates."""
        return input_tokens > self.above or (self.inclusive and input_tokens == self.above)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceCard:
    """Rates of one provider + model + tier from one moment in time on. USD per single token or unit.

    Rate names: input, cached_input, cache_write_5m, cache_write_1h, output, reasoning, audio_input,
    cached_audio_input, audio_output, image_input, cached_image_input, image_output, citation (per token);
    second, character, image, pixel, page, request, search, query, x_search, file_search, source, session,
    video_second, output_character and names of custom metrics (per unit). A missing rate falls back as the
    vectors' README says; 0 is a price.
    """

    id: str
    """Stable for its content: the same rates, source and date give the same id."""
    provider: str
    """A configured provider's name, a kind, or "*"."""
    model: str
    rates: Mapping[str, Decimal]
    tiers: Mapping[str, Mapping[str, Decimal]] = field(default_factory=dict)
    """Whole rate sets by served tier: flex, priority, batch, fast."""
    long_context: tuple[LongContext, ...] = ()
    tier_long_context: Mapping[str, tuple[LongContext, ...]] = field(default_factory=dict)
    source: str
    """override:<file> | api | update:<file> | supplement | genai-prices <version> | litellm-map <version> | default."""
    source_date: str | None = None
    effective_from: datetime | None = None
    display_name: str | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None
    modifiers: Mapping[str, Decimal] = field(default_factory=dict)
    """Factors on token rates: `geo:us` (Anthropic's `inference_geo`), `speed:fast`."""
    provider_cost: bool = False
    """The provider's own stated cost is the operator's cost when it comes with the answer."""
    free: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceLine:
    """One itemised line: quantity x rate = amount (USD)."""

    item: str
    quantity: Decimal
    rate: Decimal
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The exact cost of one usage."""

    usd: Decimal
    lines: tuple[PriceLine, ...]
    tier: str = "default"
    """The rate set used: the served tier's, or default when the card has none for it."""
    unpriced: tuple[str, ...] = ()
    """Fees that were counted but have no rate on the card (a search, a session): not in `usd`."""
