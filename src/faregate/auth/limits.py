"""The `limits` of a key's creation body, checked and counted in the units the gate counts in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar, get_args

from faregate.core.call import Limit, LimitKind, Window
from faregate.core.money import MAX_MICROCREDITS, credits, parse_credits, parse_decimal
from faregate.errors import InvalidRequest

KINDS: Final[Mapping[str, LimitKind]] = {kind: kind for kind in get_args(LimitKind)}
WINDOWS: Final[Mapping[str, Window]] = {window: window for window in get_args(Window)}
T = TypeVar("T", bound=str)
_FIELDS: Final = frozenset({"kind", "window", "max"})


def parse_limits(key_id: str, value: object) -> tuple[Limit, ...]:
    """`[{kind, window, max}]` as limits of the key; None or absent is none. Raises InvalidRequest.

    `max` is credits for kind credits (up to 6 decimal places), else a whole number; 0 lets nothing through.
    A cap on concurrency counts open holds, whenever they were opened, so its window is always `total`.
    Two limits of the same kind and window are refused: they would share a counter.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidRequest("limits must be a list of {kind, window, max}", param="limits")
    limits = tuple(_limit(key_id, item, f"limits.{index}") for index, item in enumerate(value))
    if len({limit.id for limit in limits}) < len(limits):
        raise InvalidRequest("limits names the same kind and window twice", param="limits")
    return limits


def limit_id(key_id: str, kind: LimitKind, window: Window) -> str:
    """The stable name of a key's limit: `<key id>.<kind>.<window>`."""
    return f"{key_id}.{kind}.{window}"


def limit_json(limit: Limit) -> dict[str, object]:
    """The limit as the API shows it; `max` of kind credits is in credits."""
    shown = credits(limit.max) if limit.kind == "credits" else limit.max
    return {"kind": limit.kind, "window": limit.window, "max": shown}


def _limit(key_id: str, item: object, at: str) -> Limit:
    if not isinstance(item, dict) or not item.keys() <= _FIELDS:
        raise InvalidRequest(f"{at} must have the fields kind, window and max, and no other", param=at)
    kind = _choice(KINDS, item.get("kind"), f"{at}.kind")
    named = item.get("window", "total" if kind == "concurrency" else None)
    window = _choice(WINDOWS, named, f"{at}.window")
    if kind == "concurrency":
        window = "total"
    most = parse_credits(item.get("max"), f"{at}.max", minimum=0) if kind == "credits" else _count(item, f"{at}.max")
    return Limit(id=limit_id(key_id, kind, window), kind=kind, window=window, max=most)


def _choice(allowed: Mapping[str, T], value: object, at: str) -> T:
    if not isinstance(value, str) or value not in allowed:
        raise InvalidRequest(f"{at} must be one of {', '.join(allowed)}", param=at)
    return allowed[value]


def _count(item: Mapping[str, object], at: str) -> int:
    number = parse_decimal(item.get("max"), at)
    if not 0 <= number <= MAX_MICROCREDITS or number != number.to_integral_value():
        raise InvalidRequest(f"{at} must be a whole number from 0 to {MAX_MICROCREDITS}", param=at)
    return int(number)
