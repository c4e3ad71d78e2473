from __future__ import annotations

import pytest
from tests.ledger.conftest import World

from faregate.core.limit_ids import kind_of
from faregate.core.truth import unconfirmed_record, zero_record
from faregate.errors import BookRefused
from faregate.ledger.commit import write_batch
from faregate.ledger.windows import parse_key, read_windows


def test_a_key_names_its_limit_and_window() -> None:
    assert parse_key("key_ab.credits.month:1790000000") == ("key_ab.credits.month", 1_790_000_000)
    assert kind_of("key_ab.tokens.day") == "tokens"
    assert kind_of("key_ab.minute.requests") == "requests"


@pytest.mark.parametrize(
    "bad", ["", "k.credits.day", "k.credits.day:", "k.credits.day:-1", "k.day:5", "k.credits.day:²"]
)
def test_keys_that_cannot_be_read(bad: str) -> None:
    with pytest.raises(BookRefused):
        parse_key(bad)


async def test_a_batch_moves_each_window_once(world: World) -> None:
    records = [world.record(5, limit_keys=("k.credits.day:0",)) for _ in range(4)]
    answers = await world.database.write(lambda conn: write_batch(conn, records, world.now.us))
    assert {(answer.snapshot.limits[0].used, answer.snapshot.limits[0].seq) for answer in answers} == {(20, 1)}


async def test_concurrency_does_not_count(world: World) -> None:
    await world.book.commit(world.record(5, limit_keys=("k.concurrency.total:0",)))
    rows = await world.database.read(lambda conn: conn.exec_driver_sql("SELECT * FROM limit_windows").all())
    assert rows == []


async def test_a_zero_truth_gives_a_guess_s_credits_back_but_not_its_request(world: World) -> None:
    keys = ("k.credits.day:0", "k.requests.day:0")
    intent = world.record(9, limit_keys=keys, usage={})
    await world.book.commit(unconfirmed_record(intent, 9, 9, "estimate"))
    await world.book.commit(zero_record(intent))
    await world.book.commit(zero_record(world.record(9, limit_keys=keys)))
    states = await world.database.read(lambda conn: read_windows(conn, [parse_key(key) for key in keys]))
    assert [state.used for state in states.values()] == [0, 1]
