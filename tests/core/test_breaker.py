"""The circuit's states."""

from __future__ import annotations

from faregate.core.breaker import Breaker


def opened(*, most: int = 3) -> Breaker:
    breaker = Breaker(most=most, jitter=lambda: 0.5)
    for _ in range(most):
        breaker.failed(breaker.admit(0), 0)
    assert breaker.state == "open"
    return breaker


def test_failures_in_a_row_open_it_and_an_answer_between_does_not() -> None:
    breaker = Breaker(most=3)
    for _ in range(5):
        breaker.failed(breaker.admit(0), 0)
        breaker.failed(breaker.admit(0), 0)
        breaker.answered(breaker.admit(0))
    assert breaker.state == "closed"


def test_open_lets_one_probe_pass_at_a_time() -> None:
    breaker = opened()
    assert [breaker.admit(0.04), breaker.admit(0.05), breaker.admit(0.06)] == ["refuse", "probe", "refuse"]
    breaker.left("probe")
    assert breaker.admit(0.07) == "probe"


def test_probes_that_fail_come_less_often() -> None:
    breaker, now, waits = opened(), 0.0, []
    for _ in range(7):
        began = now
        while (word := breaker.admit(now)) == "refuse":
            now += 0.01
        waits.append(round(now - began, 2))
        breaker.failed(word, now)
    assert waits == sorted(waits)
    assert waits[-1] <= 1.01


def test_the_jitter_spreads_the_probes_of_many_processes() -> None:
    early, late = Breaker(most=1, jitter=lambda: 0.0), Breaker(most=1, jitter=lambda: 1.0)
    for breaker in (early, late):
        breaker.failed(breaker.admit(0), 0)
    assert (early.admit(0.026), late.admit(0.026), late.admit(0.08)) == ("probe", "refuse", "probe")


def test_after_the_probe_a_few_at_a_time_then_all() -> None:
    breaker = opened()
    breaker.answered(breaker.admit(1))
    assert breaker.state == "half"
    assert [breaker.admit(1) for _ in range(9)] == ["ask"] * 8 + ["refuse"]
    for _ in range(8):
        breaker.answered("ask")
    assert [breaker.admit(1) for _ in range(17)].count("ask") == 16
    for _ in range(24):
        breaker.answered("ask")
    assert [breaker.admit(1) for _ in range(100)] == ["ask"] * 100


def test_a_failure_while_half_open_opens_it_again() -> None:
    breaker = opened()
    breaker.answered(breaker.admit(1))
    breaker.failed(breaker.admit(1), 1)
    assert (breaker.state, breaker.admit(1.01)) == ("open", "refuse")


def test_an_answer_of_before_it_opened_closes_nothing() -> None:
    breaker = opened()
    breaker.answered("ask")
    assert breaker.state == "open"
