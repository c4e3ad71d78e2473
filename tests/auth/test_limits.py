from __future__ import annotations

from decimal import Decimal

import pytest

from faregate.auth.limits import limit_json, parse_limits
from faregate.core.call import Limit
from faregate.errors import InvalidRequest


def test_credits_become_microcredits() -> None:
    limits = parse_limits("k1", [{"kind": "credits", "window": "month", "max": Decimal("12.5")}])
    assert limits == (Limit(id="k1.credits.month", kind="credits", window="month", max=12_500_000),)


def test_a_decimal_string_is_as_good_as_a_number() -> None:
    first = parse_limits("k1", [{"kind": "credits", "window": "day", "max": "0.000001"}])
    second = parse_limits("k1", [{"kind": "tokens", "window": "day", "max": "1000"}])
    assert (first[0].max, second[0].max) == (1, 1000)


@pytest.mark.parametrize("window", ["minute", "total", None])
def test_concurrency_is_counted_without_a_window(window: str | None) -> None:
    item: dict[str, object] = {"kind": "concurrency", "max": 4}
    limits = parse_limits("k1", [item | ({"window": window} if window else {})])
    assert limits == (Limit(id="k1.concurrency.total", kind="concurrency", window="total", max=4),)


def test_no_limits() -> None:
    assert parse_limits("k1", None) == parse_limits("k1", []) == ()


def test_zero_is_a_limit() -> None:
    assert parse_limits("k1", [{"kind": "requests", "window": "day", "max": 0}])[0].max == 0


@pytest.mark.parametrize(
    ("bad", "at"),
    [
        ("all", "limits"),
        ([3], "limits.0"),
        ([{"kind": "requests", "window": "day", "max": 1, "per": 2}], "limits.0"),
        ([{"kind": "euros", "window": "day", "max": 1}], "limits.0.kind"),
        ([{"kind": "requests", "max": 1}], "limits.0.window"),
        ([{"kind": "requests", "window": "year", "max": 1}], "limits.0.window"),
        ([{"kind": "requests", "window": ["day"], "max": 1}], "limits.0.window"),
        ([{"kind": "requests", "window": "day"}], "limits.0.max"),
        ([{"kind": "requests", "window": "day", "max": -1}], "limits.0.max"),
        ([{"kind": "requests", "window": "day", "max": Decimal("1.5")}], "limits.0.max"),
        ([{"kind": "requests", "window": "day", "max": True}], "limits.0.max"),
        ([{"kind": "requests", "window": "day", "max": 1.0}], "limits.0.max"),
        ([{"kind": "requests", "window": "day", "max": 2**63}], "limits.0.max"),
        ([{"kind": "requests", "window": "day", "max": "1e999999"}], "limits.0.max"),
        ([{"kind": "credits", "window": "day", "max": "NaN"}], "limits.0.max"),
        ([{"kind": "credits", "window": "day", "max": "0.0000001"}], "limits.0.max"),
        ([{"kind": "credits", "window": "day", "max": -1}], "limits.0.max"),
        ([{"kind": "requests", "window": "day", "max": 1}] * 2, "limits"),
    ],
)
def test_bad_limits_name_the_field(bad: object, at: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_limits("k1", bad)
    assert caught.value.param == at


@pytest.mark.parametrize(("kind", "most"), [("credits", "1.5"), ("tokens", 7)])
def test_what_is_shown_is_what_was_given(kind: str, most: object) -> None:
    limit = parse_limits("k1", [{"kind": kind, "window": "hour", "max": most}])[0]
    assert limit_json(limit) == {"kind": kind, "window": "hour", "max": Decimal(str(most))}
