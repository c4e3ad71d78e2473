"""Records and holds as bytes: one form for the journal, for Redis and for replays. Unknown fields are ignored,
missing ones take their defaults, so that two releases can read each other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any

import orjson

from faregate.core.call import Hold, Record
from faregate.core.price import LongContext, PriceCard

_DECIMALS = ("cost_usd", "multiplier", "markup_percent", "credits_per_usd")
_RECORD_FIELDS = tuple(f.name for f in fields(Record) if f.name != "encoded")
_values_of = attrgetter(*_RECORD_FIELDS)
_HOLD_FIELDS = tuple(f.name for f in fields(Hold) if f.name != "asked_at")
_CARD_CACHE_SIZE = 1024

_cards: OrderedDict[str, orjson.Fragment] = OrderedDict()
"""A card is encoded once; records of the same card share its bytes."""
_decoded: OrderedDict[str, PriceCard] = OrderedDict()
"""And decoded once: a card's id is the hash of what is in it."""


def _default(value: object) -> object:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"cannot encode {type(value).__name__}")


def encode_record(record: Record) -> bytes:
    """A record as JSON; decimals as strings, the card whole. Encoded once, however often it is asked for."""
    if record.encoded is not None:
        return record.encoded
    out: dict[str, object] = dict(zip(_RECORD_FIELDS, _values_of(record), strict=True))
    if record.card is not None:
        out["card"] = _card_fragment(record.card)
    encoded = orjson.dumps(out, default=_default)
    object.__setattr__(record, "encoded", encoded)
    return encoded


def decode_record(data: bytes) -> Record:
    """The record again. Raises ValueError on bytes that are none."""
    raw: dict[str, Any] = orjson.loads(data)
    try:
        return _record(raw)
    except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"not a record: {type(error).__name__}") from error


def _record(raw: Mapping[str, Any]) -> Record:
    known = {name: raw[name] for name in _RECORD_FIELDS if name in raw}
    for name in _DECIMALS:
        if name in known:
            known[name] = Decimal(known[name])
    known["card"] = _kept_card(known["card"]) if known.get("card") else None
    known["lines"] = tuple(tuple(line) for line in known.get("lines", ()))
    known["limit_keys"] = tuple(known.get("limit_keys", ()))
    return Record(**known)


def _kept_card(raw: Mapping[str, Any]) -> PriceCard:
    found = _decoded.get(raw["id"])
    if found is None:
        found = _decoded[raw["id"]] = decode_card(raw)
        if len(_decoded) > _CARD_CACHE_SIZE:
            _decoded.popitem(last=False)
    return found


def encode_hold(hold: Hold) -> bytes:
    """A hold as JSON."""
    return orjson.dumps({name: getattr(hold, name) for name in _HOLD_FIELDS})


def decode_hold(data: bytes) -> Hold:
    """The hold again."""
    raw: dict[str, Any] = orjson.loads(data)
    known = {name: raw[name] for name in _HOLD_FIELDS if name in raw}
    for name in ("limit_keys", "rests"):
        known[name] = tuple(known.get(name, ()))
    return Hold(**known)


def encode_card(card: PriceCard) -> bytes:
    """A price card as JSON: what `cards` in SQL keeps once for all records that were priced with it."""
    return orjson.dumps(_card_fragment(card))


def decode_card(raw: Mapping[str, Any]) -> PriceCard:
    """The card again, from parsed JSON."""
    known = {f.name: raw[f.name] for f in fields(PriceCard) if f.name in raw}
    known["rates"] = _rates(raw["rates"])
    known["tiers"] = {tier: _rates(rates) for tier, rates in raw.get("tiers", {}).items()}
    known["modifiers"] = _rates(raw.get("modifiers", {}))
    known["long_context"] = _long_context(raw.get("long_context", ()))
    known["tier_long_context"] = {t: _long_context(v) for t, v in raw.get("tier_long_context", {}).items()}
    if known.get("effective_from"):
        known["effective_from"] = datetime.fromisoformat(known["effective_from"])
    return PriceCard(**known)


def _card_fragment(card: PriceCard) -> orjson.Fragment:
    found = _cards.get(card.id)
    if found is None:
        found = orjson.Fragment(orjson.dumps(card, default=_default))
        _cards[card.id] = found
        if len(_cards) > _CARD_CACHE_SIZE:
            _cards.popitem(last=False)
    return found


def _rates(raw: Mapping[str, str]) -> dict[str, Decimal]:
    return {name: Decimal(rate) for name, rate in raw.items()}


def _long_context(raw: Any) -> tuple[LongContext, ...]:
    return tuple(
        LongContext(above=part["above"], rates=_rates(part["rates"]), inclusive=part.get("inclusive", False))
        for part in raw
    )
