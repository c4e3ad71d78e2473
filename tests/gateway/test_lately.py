from __future__ import annotations

from faregate.gateway.lately import Lately


def test_it_counts_a_minute_and_forgets() -> None:
    now = 0.0
    lately = Lately(lambda: now)
    for _ in range(3):
        lately.add("overrun")
    now = 30.0
    lately.add("overrun")
    assert (lately.count("overrun"), lately.count("parked")) == (4, 0)
    now = 61.0
    assert lately.count("overrun") == 1
    now = 200.0
    assert lately.count("overrun") == 0


def test_it_stays_small() -> None:
    now = 0.0
    lately = Lately(lambda: now)
    for _ in range(10_000):
        now += 1.0
        lately.add("overrun")
    assert len(lately._slices) <= 7
