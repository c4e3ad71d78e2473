"""Reading numbers, texts and objects out of JSON that nobody promised to be right.

A count is a whole number from 0 to 2^63. `12.0` and `"12"` count as 12 (gateways write such things); everything
else (null, 12.5, true, NaN, text) is unknown, and unknown never becomes 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation

import orjson

from faregate.core.money import plain

MAX_COUNT = 2**63
MAX_RAW_USAGE_BYTES = 16 * 1024

_WHOLE = re.compile(r"-?[0-9]{1,19}")
_EXACT_KEYS = (b'"cost', b'"duration"', b'seconds"', b"_cost")
"""Where these stand, a number's own digits matter: floats are read as Decimal."""


def loads(data: bytes) -> object:
    """The JSON value, or None if it is none. Money and seconds come as Decimal, never through a float."""
    for key in _EXACT_KEYS:
        if key in data:
            return _loads_exact(data)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _loads_exact(data)  # NaN, lone surrogates and a BOM are worth a second, lenient look


def _loads_exact(data: bytes) -> object:
    try:
        text = data.decode("utf-8-sig", "replace")
        return json.loads(text, parse_float=_parse_float, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


def _parse_float(text: str) -> Decimal | None:
    # An exponent of a billion digits would be legal JSON and a bomb in every later sum.
    number = Decimal(text) if len(text) <= 64 else Decimal(repr(float(text)))
    return number if number.is_finite() and abs(number.adjusted()) <= 64 else None


def load_object(data: bytes) -> Mapping[str, object] | None:
    """The JSON object, or the first object of a JSON array (Gemini's OpenAI-compatible errors), or None."""
    return first_object(loads(data))


def first_object(value: object) -> Mapping[str, object] | None:
    """The value if it is an object, or the first of a list if that is one."""
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, dict) else None


def count(value: object) -> int | None:
    """A count, or None when unknown."""
    if type(value) is int and 0 <= value <= MAX_COUNT:  # the hot one
        return value
    number = _whole(value)
    return number if number is not None and 0 <= number <= MAX_COUNT else None


def is_negative(value: object) -> bool:
    """A number below zero, which no usage can be."""
    if type(value) is int:
        return value < 0
    number = _whole(value)
    return number is not None and number < 0


def _whole(value: object) -> int | None:
    if isinstance(value, int):
        return None if isinstance(value, bool) else value
    if isinstance(value, float):
        value = Decimal(value)
    if isinstance(value, Decimal):
        fits = value.is_finite() and abs(value) <= 2 * MAX_COUNT
        return int(value) if fits and value == value.to_integral_value() else None
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value)
    return None


_MOST_DIGITS = 50
"""Fewer than exact arithmetic keeps (core.money): nobody means more."""


def decimal(value: object) -> Decimal | None:
    """A number that is not negative, as an exact decimal without trailing zeros; None when unknown."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    try:
        number = Decimal(str(value)) if not isinstance(value, str) or len(value) <= 64 else Decimal("NaN")
    except InvalidOperation:
        return None
    if not number.is_finite() or number < 0 or abs(number.adjusted()) > _MOST_DIGITS:
        return None
    return plain(number)


def text(value: object) -> str | None:
    """A string that says something, or None."""
    return value if isinstance(value, str) and value else None


def child(value: object, *path: str) -> Mapping[str, object]:
    """The object at a path, or an empty one."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Mapping[str, object]]:
    """The objects of a list; nothing for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def says_something(usage: Mapping[str, object]) -> bool:
    """Whether a usage object holds one number at least; `{}` and all-null are as good as absent."""
    for value in usage.values():
        if type(value) is int:  # the hot one
            return True
        if isinstance(value, dict):
            if says_something(value):
                return True
        elif _whole(value) is not None or decimal(value) is not None:
            return True
    return False


def _is_all_zero(usage: Mapping[str, object]) -> bool:
    return all(_is_all_zero(v) if isinstance(v, dict) else not v or count(v) == 0 for v in usage.values())


def _is_number(value: object) -> bool:
    return (type(value) is int and value >= 0) or decimal(value) is not None  # the first is the hot one


def merge(known: dict[str, object], new: Mapping[str, object]) -> None:
    """Replace field by field, never add. What is null or no usage number erases nothing, nor does a row of zeros."""
    if known and _is_all_zero(new) and not _is_all_zero(known):
        return
    for key, value in new.items():
        old = known.get(key)
        if isinstance(value, dict):
            nested: dict[str, object] = dict(old) if isinstance(old, dict) else {}
            merge(nested, value)
            known[key] = nested
        elif old is None or (value is not None and (_is_number(value) or not _is_number(old))):
            known[key] = value


Spellings = tuple[tuple[tuple[str, ...], str], ...]
"""Dotted names, cut up once: path and key."""


def spellings(names: Iterable[str]) -> Spellings:
    """`a.b.c` as ((a, b), c)."""
    return tuple((tuple(name.split(".")[:-1]), name.rpartition(".")[2]) for name in names)


class Counts:
    """Counts by dotted name out of a usage object; remembers whether a negative one was met."""

    def __init__(self, usage: Mapping[str, object]) -> None:
        self._usage = usage
        self.negative = False

    def __call__(self, *names: str) -> int | None:
        """The first of several spellings that is known."""
        return self.first(spellings(names))

    def first(self, paths: Spellings) -> int | None:
        """The same, with the names already cut up."""
        for path, key in paths:
            found = self._usage
            for step in path:
                inner = found.get(step)
                found = inner if isinstance(inner, dict) else {}
            value = found.get(key)
            if value is None:
                continue
            if is_negative(value):
                self.negative = True
            if (number := count(value)) is not None:
                return number
        return None


def add(parts: Iterable[int | None]) -> int | None:
    """The sum of what is known; None if nothing is."""
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)


def raw_json(usage: Mapping[str, object]) -> bytes:
    """The usage object as JSON for the record, bounded."""
    try:
        data = orjson.dumps(usage)
    except TypeError:  # a number that is too long for it, half a surrogate pair, a Decimal
        data = _COMPACT.encode(usage).encode("utf-8", "replace")
    if len(data) <= MAX_RAW_USAGE_BYTES:
        return data
    return data[:MAX_RAW_USAGE_BYTES].decode("utf-8", "ignore").encode()
