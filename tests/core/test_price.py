from __future__ import annotations

from decimal import Decimal

from faregate.core.price import LongContext

RATES = {"input": Decimal(1)}


def test_long_context_starts_over_the_threshold() -> None:
    step = LongContext(above=200_000, rates=RATES)
    assert not step.applies(200_000)
    assert step.applies(200_001)


def test_an_inclusive_threshold_starts_at_it() -> None:
    step = LongContext(above=200_000, rates=RATES, inclusive=True)
    assert not step.applies(199_999)
    assert step.applies(200_000)
