"""Numbers nobody promised to be right."""

from __future__ import annotations

from decimal import Decimal

import pytest

from faregate.meter.values import Counts, count, decimal, load_object, loads, merge, raw_json, says_something


@pytest.mark.parametrize(
    ("value", "expect"),
    [
        (12, 12),
        (0, 0),
        (12.0, 12),
        (Decimal("12"), 12),
        ("12", 12),
        (2**63, 2**63),
        (2**63 + 1, None),
        (10**400, None),
        (12.5, None),
        ("12.5", None),
        (True, None),
        (None, None),
        (-1, None),
        (float("nan"), None),
        (float("inf"), None),
        ("", None),
        ([1], None),
    ],
)
def test_count(value: object, expect: int | None) -> None:
    assert count(value) == expect


def test_money_never_passes_through_a_float() -> None:
    value = load_object(b'{"cost": 0.12345678901234567890}')
    assert value is not None
    assert decimal(value["cost"]) == Decimal("0.1234567890123456789")


def test_decimal_refuses_what_is_none() -> None:
    assert [decimal(v) for v in (None, True, -1, "x", "NaN", "1e999999999", 1e60, "9e51", [1])] == [None] * 9


def test_loads_is_lenient_and_never_raises() -> None:
    assert loads(b'{"a": NaN, "b": 1}') == {"a": None, "b": 1}
    assert loads(b'{"a": "\\ud83d"}') is not None
    assert loads(b"[" * 100_000) is None
    assert loads(b"\xff") is None
    assert loads(b'{"cost": ' + b"9" * 10_000 + b"}") is None


def test_merge_replaces_and_never_erases() -> None:
    known: dict[str, object] = {"a": 5, "d": {"x": 1, "y": 2}}
    merge(known, {"a": 7, "b": 0, "d": {"x": None, "y": 3}})
    merge(known, {"a": None, "b": None})
    merge(known, {"a": -3})
    merge(known, {"a": 0, "b": 0})
    assert known == {"a": 7, "b": 0, "d": {"x": 1, "y": 3}}


def test_merge_takes_a_fraction_after_a_whole_number() -> None:
    known: dict[str, object] = {"cost": 0, "prompt_tokens": 1}
    merge(known, {"cost": Decimal("0.0123")})
    assert known["cost"] == Decimal("0.0123")


def test_counts_remember_negatives() -> None:
    counts = Counts({"a": -1, "b": {"c": 2}})
    assert counts("b.c", "a") == 2
    assert not counts.negative
    assert counts("a", "b.c") == 2
    assert counts.negative


def test_an_empty_usage_says_nothing() -> None:
    assert not says_something({})
    assert not says_something({"type": "tokens", "prompt_tokens": None, "details": {"cached_tokens": None}})
    assert says_something({"details": {"cached_tokens": 0}})


def test_raw_usage_is_bounded() -> None:
    assert len(raw_json({"x": "é" * 100_000})) <= 16 * 1024
