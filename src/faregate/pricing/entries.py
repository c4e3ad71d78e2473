"""Price entries: the fields of a prices file or of `/v1/admin/prices`, checked and turned into cards.

One entry prices one tier of one provider + model pattern from one moment on; `choose` finds the entries for a
model and joins their tiers into a card.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from faregate.core.money import parse_decimal
from faregate.core.price import LongContext, PriceCard
from faregate.errors import InvalidRequest
from faregate.pricing.cards import Rates, per_million, with_id

TIERS = ("default", "flex", "priority", "batch")
TOKEN_CLASSES = (
    *("input", "cached_input", "cache_write_5m", "cache_write_1h", "output", "reasoning", "audio_input"),
    *("cached_audio_input", "audio_output", "image_input", "cached_image_input", "image_output", "citation"),
)
_FIELDS = (
    *("provider", "model", "effective_from", "tier", "per_million", "per_unit", "long_context", "aliases"),
    *("context_window", "max_output_tokens"),
)
_SHIPPED_FIELDS = (*_FIELDS, "source", "source_date", "display_name")
_MAX_RATE = Decimal(1_000_000)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Path = tuple[str | int, ...]
"""Where in an entry a value stands: ("long_context", "per_million", "input")."""


class EntryError(Exception):
    """A field that cannot be meant: where, and what is allowed."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceEntry:
    """One checked entry. `card` has the rates of its tier as its own."""

    provider: str
    """A configured provider's name, a kind, or "*". Lower case."""
    names: tuple[str, ...]
    """Model and aliases, lower case; a trailing "*" makes a pattern."""
    tier: str
    effective_from_us: int | None
    card: PriceCard
    organization_id: str | None = None

    def rank(self, sellers: Sequence[str], model: str) -> int | None:
        """0: names the model exactly; 1: by pattern; None: does not price it. `model` in lower case."""
        if self.provider != "*" and self.provider not in sellers:
            return None
        if model in self.names:
            return 0
        return 1 if any(name.endswith("*") and model.startswith(name[:-1]) for name in self.names) else None


def build(
    fields: Mapping[str, object],
    *,
    source: str,
    organization_id: str | None = None,
    created_at_us: int | None = None,
    shipped: bool = False,
) -> PriceEntry:
    """An entry from its fields (numbers as int, Decimal or decimal string). Raises EntryError.

    `created_at_us` stands in for a missing `effective_from`, so that a later card supersedes an earlier one.
    """
    _known(fields, _SHIPPED_FIELDS if shipped else _FIELDS, ())
    provider, model = _text(fields, "provider").lower(), _text(fields, "model")
    names = (_pattern(model, ("model",)), *_aliases(fields.get("aliases")))
    tier = _tier(fields.get("tier"))
    start = _moment(fields.get("effective_from"))
    inclusive = provider in ("xai", "x-ai")
    card = PriceCard(
        id="",
        provider=provider,
        model=model,
        rates=_rates(fields, ()),
        long_context=_long_context(fields.get("long_context"), inclusive=inclusive),
        source=f"{source}: {fields['source']}" if "source" in fields else source,
        source_date=str(fields["source_date"]) if "source_date" in fields else None,
        effective_from=start,
        display_name=str(fields["display_name"]) if "display_name" in fields else None,
        context_window=read_count(fields.get("context_window"), "context_window"),
        max_output_tokens=read_count(fields.get("max_output_tokens"), "max_output_tokens"),
    )
    return PriceEntry(
        provider=provider,
        names=names,
        tier=tier,
        effective_from_us=us(start) if start else created_at_us,
        card=with_id(card),
        organization_id=organization_id,
    )


def build_from_api(
    fields: Mapping[str, object], *, organization_id: str | None = None, created_at_us: int | None = None
) -> PriceEntry:
    """An entry from the body of `POST /v1/admin/prices`. Raises InvalidRequest naming the field."""
    try:
        return build(fields, source="api", organization_id=organization_id, created_at_us=created_at_us)
    except EntryError as error:
        where = ".".join(str(part) for part in error.path)
        raise InvalidRequest(f"{where}: {error.message}" if where else error.message, param=where or None) from None


# Choosing -----------------------------------------------------------------------------------------------


def choose(
    entries: Iterable[PriceEntry], sellers: Sequence[str], model: str, now_us: int
) -> tuple[PriceCard | None, dict[str, PriceCard]]:
    """The card of the default tier, and of other tiers, in force for a model.

    Exact names come before patterns, then the first in order; of entries for the same provider and name, the one
    that came into force last.
    """
    best: dict[str, tuple[int, PriceEntry]] = {}
    for entry in entries:
        rank = entry.rank(sellers, model)
        if rank is None or (entry.effective_from_us or 0) > now_us:
            continue
        held = best.get(entry.tier)
        if held is None or rank < held[0] or (rank == held[0] and _supersedes(entry, held[1])):
            best[entry.tier] = (rank, entry)
    cards = {tier: entry.card for tier, (_, entry) in best.items()}
    return cards.pop("default", None), cards


def _supersedes(entry: PriceEntry, held: PriceEntry) -> bool:
    same = entry.provider == held.provider and entry.names[0] == held.names[0]
    started, before = entry.effective_from_us, held.effective_from_us
    return same and started is not None and (before is None or started > before)


def next_start_us(entries: Iterable[PriceEntry], now_us: int) -> int | None:
    """When the next entry comes into force."""
    starts = [entry.effective_from_us or 0 for entry in entries]
    return min((start for start in starts if start > now_us), default=None)


def last_start_us(entries: Iterable[PriceEntry], now_us: int) -> int:
    """When the newest entry in force came into it."""
    starts = [entry.effective_from_us or 0 for entry in entries]
    return max((start for start in starts if start <= now_us), default=0)


def join(card: PriceCard, tiers: Mapping[str, PriceCard]) -> PriceCard:
    """A card with the rates of other tiers laid over its own tiers."""
    if not tiers:
        return card
    steps = {tier: own.long_context for tier, own in tiers.items() if own.long_context}
    return with_id(
        replace(
            card,
            tiers={**card.tiers, **{tier: own.rates for tier, own in tiers.items()}},
            tier_long_context={**card.tier_long_context, **steps},
        )
    )


# Checking -----------------------------------------------------------------------------------------------


def _known(fields: Mapping[str, object], allowed: Sequence[str], path: Path) -> None:
    for name in fields:
        if name not in allowed:
            raise EntryError((*path, name), f"unknown key {name!r}; allowed: {', '.join(allowed)}")


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise EntryError((name,) if name in fields else (), f"{name} is needed: a text that is not empty")
    if len(value) > 256:
        raise EntryError((name,), f"{name} must have at most 256 characters")
    return value.strip()


def _pattern(name: object, path: Path) -> str:
    if not isinstance(name, str) or not name:
        raise EntryError(path, "must be a model name")
    if "*" in name[:-1]:
        raise EntryError(path, 'must be an exact name, or a pattern with one trailing "*"')
    return name.lower()


def _aliases(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise EntryError(("aliases",), "must be a list of model names")
    return tuple(_pattern(name, ("aliases", at)) for at, name in enumerate(value))


def _tier(value: object) -> str:
    if value is None:
        return "default"
    if not isinstance(value, str) or value not in TIERS:
        raise EntryError(("tier",), f"must be one of {', '.join(TIERS)}")
    return value


def _moment(value: object) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        raise EntryError(("effective_from",), "must be a date and time like 2026-01-01T00:00:00Z") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def us(moment: datetime) -> int:
    """A moment as UTC microseconds."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _rates(fields: Mapping[str, object], path: Path) -> Rates:
    tokens = _group(fields, "per_million", path)
    _known(tokens, TOKEN_CLASSES, (*path, "per_million"))
    rates = {name: per_million(read_rate(value, (*path, "per_million", name))) for name, value in tokens.items()}
    units = _group(fields, "per_unit", path) if not path else {}
    for name, value in units.items():
        if name in TOKEN_CLASSES or not re.fullmatch(r"[A-Za-z][\w.:-]{0,63}", name):
            raise EntryError((*path, "per_unit", name), f"{name!r} is no unit; token classes stand in per_million")
        rates[name] = read_rate(value, (*path, "per_unit", name))
    if not rates:
        raise EntryError(path, f"per_million{'' if path else ' or per_unit'} with at least one rate is needed")
    return rates


def _group(fields: Mapping[str, object], name: str, path: Path) -> Mapping[str, object]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise EntryError((*path, name), "must be a mapping of names to USD")
    return value


def read_rate(value: object, path: Path) -> Decimal:
    """A rate in USD. Raises EntryError."""
    try:
        number = parse_decimal(value, "rate")
    except InvalidRequest:
        raise EntryError(path, "must be a decimal number of USD, 0 or more") from None
    if number < 0 or number > _MAX_RATE or len(number.as_tuple().digits) > 24 or number.adjusted() < -18:
        raise EntryError(path, f"must be from 0 to {_MAX_RATE} USD, with at most 24 digits")
    return number


def _long_context(value: object, *, inclusive: bool) -> tuple[LongContext, ...]:
    if value is None:
        return ()
    parts = [((), value)] if isinstance(value, Mapping) else list(_numbered(value))
    steps = [_step(part, ("long_context", *at), inclusive=inclusive) for at, part in parts]
    return tuple(sorted(steps, key=lambda step: step.above))


def _numbered(value: object) -> Iterable[tuple[Path, object]]:
    if not isinstance(value, list | tuple):
        raise EntryError(("long_context",), "must be {above: tokens, per_million: {...}} or a list of them")
    return (((at,), part) for at, part in enumerate(value))


def _step(value: object, path: Path, *, inclusive: bool) -> LongContext:
    if not isinstance(value, Mapping):
        raise EntryError(path, "must be {above: tokens, per_million: {...}}")
    _known(value, ("above", "per_million"), path)
    above = read_count(value.get("above"), "above", path)
    if above is None:
        raise EntryError(path, "above is needed: the number of input tokens from which the rates switch")
    return LongContext(above=above, rates=_rates(value, path), inclusive=inclusive)


def read_count(value: object, name: str, path: Path = ()) -> int | None:
    """A whole number greater than 0, if any. Raises EntryError."""
    if value is None:
        return None
    number = int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,12}", value) else value
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 10**12:
        raise EntryError((*path, name), "must be a whole number greater than 0")
    return number
