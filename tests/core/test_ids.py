from __future__ import annotations

import time

from faregate.core.ids import new_id, uuid7


def test_version_and_variant_are_those_of_uuid7() -> None:
    made = uuid7()
    assert made.version == 7
    assert made.variant == "specified in RFC 4122"


def test_carries_the_time_in_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid7()
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000 + 1


def test_each_is_greater_than_the_one_before() -> None:
    ids = [new_id("acc") for _ in range(5_000)]
    assert ids == sorted(set(ids))


def test_prefix_comes_first() -> None:
    assert new_id("txn").startswith("txn_")
    assert len(new_id("txn")) == len("txn_") + 32
