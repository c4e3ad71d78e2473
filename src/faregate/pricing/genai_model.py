"""One model of genai-prices as plain data, as its published JSON has it: checked, and made into its own types.

Its own reader (pydantic over every field) is not used: a release newer than the installed package may have fields that
one does not know. What decides about prices is read strictly; descriptions are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, time
from decimal import Decimal

from genai_prices import types

from faregate.pricing.entries import EntryError, Path, read_count, read_rate

KEPT = ("id", "name", "match", "context_window", "prices", "price_variants")
"""The fields that are kept of a model."""

_MOST_CLAUSES = 200
_MOST_TEXT = 256
_WORDS: Mapping[str, Callable[[str], types.MatchLogic]] = {
    "starts_with": types.ClauseStartsWith,
    "ends_with": types.ClauseEndsWith,
    "contains": types.ClauseContains,
    "equals": types.ClauseEquals,
}


def build(raw: Mapping[str, object]) -> types.ModelInfo:
    """A model of its fields (numbers as int, Decimal or decimal text). Raises EntryError naming the field."""
    variants = raw.get("price_variants")
    return types.ModelInfo(
        id=_text(raw.get("id"), ("id",)),
        match=_match(raw.get("match"), ("match",)),
        name=None if raw.get("name") is None else _text(raw["name"], ("name",)),
        context_window=read_count(raw.get("context_window"), "context_window"),
        prices=_schedule(raw.get("prices"), ("prices",)),
        price_variants=None if variants is None else _variants(variants, ("price_variants",)),
    )


def _text(value: object, path: Path) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MOST_TEXT:
        raise EntryError(path, f"must be a text of 1 to {_MOST_TEXT} characters")
    return value


def _mapping(value: object, path: Path) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise EntryError(path, "must be an object")
    return value


def _list(value: object, path: Path) -> list[object]:
    if not isinstance(value, list) or not 0 < len(value) <= _MOST_CLAUSES:
        raise EntryError(path, f"must be a list of 1 to {_MOST_CLAUSES}")
    return value


def _match(value: object, path: Path, depth: int = 0) -> types.MatchLogic:
    fields = _mapping(value, path)
    if len(fields) != 1 or depth > 4:
        raise EntryError(path, f"must have one of {', '.join((*_WORDS, 'regex', 'or', 'and'))}")
    ((word, of),) = fields.items()
    if word in ("or", "and"):
        parts = [_match(part, (*path, word, at), depth + 1) for at, part in enumerate(_list(of, (*path, word)))]
        return types.ClauseOr(or_=parts) if word == "or" else types.ClauseAnd(and_=parts)
    text = _text(of, (*path, word))
    if word == "regex":
        try:
            re.compile(text)
        except re.error as error:
            raise EntryError((*path, word), f"is no regular expression: {error}") from None
        return types.ClauseRegex(regex=text)
    if word not in _WORDS:
        raise EntryError((*path, word), f"must be one of {', '.join((*_WORDS, 'regex', 'or', 'and'))}")
    return _WORDS[word](text)


def _schedule(value: object, path: Path) -> types.ModelPrice | list[types.ConditionalPrice]:
    if isinstance(value, Mapping):
        return _prices(value, path)
    found = []
    for at, part in enumerate(_list(value, path)):
        fields = _mapping(part, (*path, at))
        constraint = _constraint(fields.get("constraint"), (*path, at, "constraint"))
        prices = _prices(fields.get("prices"), (*path, at, "prices"))
        found.append(types.ConditionalPrice(constraint=constraint, prices=prices))
    return found


def _variants(value: object, path: Path) -> list[types.PriceVariant]:
    found = []
    for at, part in enumerate(_list(value, path)):
        fields = _mapping(part, (*path, at))
        when = {
            name: _text(wanted, (*path, at, "when", name))
            for name, wanted in _mapping(fields.get("when"), (*path, at, "when")).items()
        }
        if not when:
            raise EntryError((*path, at, "when"), "must name at least one thing")
        constraint = _constraint(fields.get("constraint"), (*path, at, "constraint"))
        prices = _prices(fields.get("prices"), (*path, at, "prices"))
        found.append(types.PriceVariant(when=when, prices=prices, constraint=constraint))
    return found


def _constraint(value: object, path: Path) -> types.StartDateConstraint | types.TimeOfDateConstraint | None:
    if value is None:
        return None
    fields = _mapping(value, path)
    given = {name for name in fields if name != "type"}
    try:
        if given == {"start_date"}:
            return types.StartDateConstraint(start_date=date.fromisoformat(str(fields["start_date"])))
        if given == {"start_time", "end_time"}:
            start, end = (time.fromisoformat(str(fields[name])) for name in ("start_time", "end_time"))
            return types.TimeOfDateConstraint(start_time=start, end_time=end)
    except ValueError:
        raise EntryError(path, "must hold an ISO date or times of day") from None
    raise EntryError(path, "must be {start_date} or {start_time, end_time}")


def _prices(value: object, path: Path) -> types.ModelPrice:
    rates: dict[str, Decimal | types.TieredPrices | None] = {}
    for name, of in _mapping(value, path).items():
        if of is not None:
            where = (*path, name)
            rates[name] = _tiered(of, where) if isinstance(of, Mapping) else read_rate(of, where)
    return types.ModelPrice(**rates)


def _tiered(value: Mapping[str, object], path: Path) -> types.TieredPrices:
    tiers = []
    for at, part in enumerate(_list(value.get("tiers"), (*path, "tiers"))):
        where = (*path, "tiers", at)
        fields = _mapping(part, where)
        start = read_count(fields.get("start"), "start", where) or 0
        tiers.append(types.Tier(start=start, price=read_rate(fields.get("price"), (*where, "price"))))
    return types.TieredPrices(base=read_rate(value.get("base"), (*path, "base")), tiers=tiers)
