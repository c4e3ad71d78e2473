"""A few seconds of `scripts/fuzz`, always the same ones."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

from tests.meter import fuzzing
from tests.meter.fuzzing import cases, fresh, hold, read

_FEW = settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


_ONE_OF_EACH = {type(case.framing): case for case in cases() if case.framing is not None}.values()


@pytest.mark.parametrize("check", fuzzing.checks(), ids=lambda check: check.__name__)
def test_no_answer_breaks_a_meter(check: Callable[[], None]) -> None:
    _FEW(check)()


def test_every_vector_survives_every_spoiled_number() -> None:
    """All numbers at once, one token after the other: the small space is walked whole."""
    for case in cases():
        for token in (*fuzzing.BAD, *fuzzing.ODD):
            stream = [fuzzing.spoiled(case, piece, token) for piece in case.pieces]
            hold(read(fresh(case), stream)[1])


@pytest.mark.parametrize("case", _ONE_OF_EACH, ids=lambda case: case.id)
def test_endless_garbage_costs_no_memory_and_no_time(case: fuzzing.Case) -> None:
    meter, noise = fresh(case), (b'\xff{["data: x' * 10 + b"x" * 5_900) * 10
    meter.feed(case.pieces[0].raw)
    began = time.thread_time()
    tracemalloc.start()
    for _ in range(400):  # 26 MB, above the longest event
        meter.feed(noise)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    meter.reading(200, {})
    assert peak < 150 * 2**20
    assert time.thread_time() - began < 20
