from __future__ import annotations

from decimal import Decimal

from faregate.ledger.rows import difference, price_lines


def test_differences_count_by_count() -> None:
    new = {"a": 5, "s": "1.5", "only_new": 2, "custom": {"p": "2"}}
    old = {"a": 7, "s": "2", "only_old": 3, "custom": {"q": "1"}}
    assert difference(new, old) == {
        "a": -2,
        "s": "-0.5",
        "only_new": 2,
        "only_old": -3,
        "custom": {"p": "2", "q": "-1"},
    }


def test_an_amount_is_kept_only_when_it_is_not_the_product() -> None:
    stored = '[["input","1000","0.0000025"],["fee","1","2","1.5"]]'
    assert price_lines(stored) == [
        ("input", Decimal(1000), Decimal("0.0000025"), Decimal("0.0025")),
        ("fee", Decimal(1), Decimal(2), Decimal("1.5")),
    ]
    assert price_lines(None) == []
