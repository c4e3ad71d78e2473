from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from sqlalchemy import Connection
from tests.ledger.conftest import World

from faregate.core.call import Snapshot
from faregate.errors import IdempotencyMismatch, InProgress, InvalidRequest
from faregate.ledger.book import SqlBook
from faregate.ledger.claims import KEPT_US, Claim, steps_of
from faregate.ledger.database import Database
from faregate.ledger.idempotency import Idempotency
from faregate.ledger.posting import Entry

CLAIM = Claim(tenant="org_1", key="k", route="POST /x", fingerprint="aa")


@pytest.fixture
async def keys(world: World) -> Idempotency:
    return Idempotency(world.database)


@pytest.fixture
async def other(world: World) -> AsyncIterator[Database]:
    """Another process on the same book."""
    database = Database(world.url, now_us=world.now)
    yield database
    await database.close()


async def _posted(world: World) -> int:
    return (await world.book.snapshot(world.account_id, [], gate=False)).posted


async def _add(world: World, database: Database | None = None) -> tuple[Entry, Snapshot]:
    book = world.book if database is None else SqlBook(database)
    with steps_of(CLAIM):
        return await book.add_credits(world.account_id, 100)


async def test_a_step_is_done_once_and_answers_alike(world: World) -> None:
    first, second = await _add(world), await _add(world)
    assert first == second
    assert await _posted(world) == 100


KILLED = """
import asyncio, os, signal, sys
from faregate.ledger.book import SqlBook
from faregate.ledger.claims import Claim, steps_of
from faregate.ledger.database import Database

async def main(url, account_id):
    database = Database(url, now_us=lambda: {now})
    with steps_of(Claim(tenant="org_1", key="k", route="POST /x", fingerprint="aa")):
        entry, _ = await SqlBook(database).add_credits(account_id, 100)
    print(entry.id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_killed_process_s_step_is_found_by_another(world: World) -> None:
    words = [sys.executable, "-c", KILLED.replace("{now}", str(world.now.us)), world.url, world.account_id]
    child = await asyncio.create_subprocess_exec(*words, stdout=PIPE)
    said, _ = await child.communicate()
    assert child.returncode == -signal.SIGKILL
    entry, _ = await _add(world)
    assert entry.id == said.decode().strip()
    assert await _posted(world) == 100


async def test_a_request_s_second_step_of_a_kind_is_another(world: World) -> None:
    for _ in range(2):
        with steps_of(CLAIM):
            entries = [(await world.book.add_credits(world.account_id, 100))[0].seq for _ in range(2)]
        assert entries == [1, 2]


async def test_two_processes_at_once_do_it_once(world: World, other: Database) -> None:
    done = await asyncio.gather(*(_add(world, database) for database in (None, other) * 4), return_exceptions=True)
    assert {type(answer) for answer in done} <= {tuple, InProgress}
    assert await _posted(world) == 100


async def test_what_is_refused_claims_nothing(world: World, keys: Idempotency) -> None:
    with pytest.raises(InvalidRequest), steps_of(CLAIM):
        await world.book.add_credits(world.account_id, -1)
    assert await keys.find(replace(CLAIM, fingerprint="bb")) is None


@pytest.mark.parametrize("change", [{"fingerprint": "bb"}, {"route": "POST /y"}])
async def test_another_request_with_the_key_does_nothing(
    world: World, keys: Idempotency, change: dict[str, str]
) -> None:
    await _add(world)
    with pytest.raises(IdempotencyMismatch), steps_of(replace(CLAIM, **change)):
        await world.book.add_credits(world.account_id, 100)
    with pytest.raises(IdempotencyMismatch):
        await keys.find(replace(CLAIM, **change))
    assert await _posted(world) == 100


async def test_upkeep_and_other_tasks_writes_are_no_steps(world: World) -> None:
    def touch(_: Connection) -> str:
        return "fresh"

    for _ in range(2):
        with steps_of(CLAIM) as running:
            assert await world.database.upkeep(touch) == "fresh"
            await asyncio.create_task(world.book.add_credits(world.account_id, 5))
        assert not running.found
    assert await _posted(world) == 10


async def test_an_answer_is_kept_for_a_day(world: World, keys: Idempotency) -> None:
    await _add(world)
    running = await keys.find(CLAIM)
    await keys.complete(CLAIM, 201, "{}")
    with pytest.raises(InProgress):
        await keys.complete(CLAIM, 200, "later")
    done = await keys.find(CLAIM)
    assert running is not None
    assert done is not None
    assert (running.status, done.status, done.body) == (None, 201, "{}")
    world.now.us += KEPT_US
    assert await keys.find(CLAIM) is None
    await _add(world)
    assert await _posted(world) == 200


async def test_a_name_is_the_same_until_the_key_is_free(world: World, keys: Idempotency) -> None:
    assert await keys.claim() is None
    names = []
    for _ in range(2):
        with steps_of(CLAIM):
            names.append(await keys.claim())
    await keys.forget(CLAIM)
    world.now.us += 1
    with steps_of(replace(CLAIM, fingerprint="bb")):
        names.append(await keys.claim())
    assert names[0] == names[1] != names[2]


async def test_a_request_that_has_had_an_effect_is_not_forgotten(world: World, keys: Idempotency) -> None:
    await _add(world)
    await keys.forget(CLAIM)
    assert await keys.find(CLAIM) is not None


async def test_expired_keys_go_in_batches(world: World, keys: Idempotency) -> None:
    for number in range(5):
        await keys.complete(replace(CLAIM, key=f"k{number}"), 200, "{}")
    assert await keys.purge() == 0
    world.now.us += KEPT_US
    await keys.complete(replace(CLAIM, key="new"), 200, "{}")
    assert [await keys.purge(2) for _ in range(4)] == [2, 2, 1, 0]
    assert await keys.find(replace(CLAIM, key="new")) is not None
