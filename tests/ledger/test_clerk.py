"""The clerk and the line to it: a real socket, a real book, and what happens when either end goes."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.ledger.conftest import SQLITE, World

from faregate.core.codec import encode_record
from faregate.errors import BookRefused, BookUnavailable
from faregate.ledger.clerk import Clerk
from faregate.ledger.clerk_line import ClerkLine
from faregate.ledger.clerk_wire import HEAD, Frames, answer_of, outcome_of
from faregate.ledger.engine import transact

pytestmark = SQLITE


class Office:
    """A clerk in a thread, with the parent's part of it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.path = str(folder / "book.sock")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(16)
        self.watch, self.keep = os.pipe()
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        clerk = Clerk(self.url, self._listener, self.watch, 5.0)
        self.thread = threading.Thread(target=clerk.run, daemon=True)
        self.thread.start()

    def end(self) -> None:
        with suppress(OSError):
            os.close(self.keep)
        if self.thread is not None:
            self.thread.join(10)
        self._listener.close()
        os.close(self.watch)


@pytest.fixture
def office(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    made = Office(world.url, tmp_path_factory.mktemp("o"))
    made.start()
    yield made
    made.end()


@pytest.fixture
async def line(office: Office) -> AsyncIterator[ClerkLine]:
    made = ClerkLine(office.path)
    yield made
    await made.close()


async def test_records_are_booked_once_and_answered_with_the_books_own_state(world: World, line: ClerkLine) -> None:
    await world.book.add_credits(world.account_id, 1_000_000)
    records = [world.record(charge=n) for n in range(1, 301)]
    told = await asyncio.gather(*map(line.commit, [*records, *records]))
    assert sum(one.new for one in told) == 300
    assert [one.charge_microcredits for one in told[:300]] == list(range(1, 301))
    final = await world.book.snapshot(world.account_id, [], gate=False)
    assert final.posted == 1_000_000 - sum(range(1, 301))
    last = max(told, key=lambda one: one.snapshot.seq)
    assert (last.snapshot.posted, last.snapshot.seq) == (final.posted, final.seq)


async def test_the_windows_of_a_record_come_back_with_it(world: World, line: ClerkLine) -> None:
    committed = await line.commit(world.record(charge=7, limit_keys=("key.k1.credits.day:1790000000",)))
    (limit,) = committed.snapshot.limits
    assert (limit.key, limit.used) == ("key.k1.credits.day:1790000000", 7)


async def test_one_bad_record_is_refused_alone(world: World, line: ClerkLine) -> None:
    batch = [world.record(), world.record(charge=-1), world.record()]
    told = await asyncio.gather(*map(line.commit, batch), return_exceptions=True)
    assert isinstance(told[1], BookRefused)
    assert [getattr(one, "new", None) for one in told] == [True, None, True]


async def test_without_a_clerk_the_book_is_out_of_reach_and_later_it_is_not(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("o")
    line = ClerkLine(str(folder / "book.sock"))
    with pytest.raises(BookUnavailable, match="clerk cannot be reached"):
        await line.commit(world.record())
    office = Office(world.url, folder)
    office.start()
    assert (await line.commit(world.record())).new
    await line.close()
    with pytest.raises(BookUnavailable, match="closed"):
        await line.commit(world.record())
    await asyncio.to_thread(office.end)


async def test_a_clerk_that_says_nothing_is_not_waited_for(world: World, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as mute:
        mute.bind(str(tmp_path / "m"))
        mute.listen(1)
        line = ClerkLine(str(tmp_path / "m"), mute_s=0.2)
        told = await asyncio.gather(line.commit(world.record()), line.commit(world.record()), return_exceptions=True)
        assert [type(one) for one in told] == [BookUnavailable, BookUnavailable]
        await line.close()


async def test_the_queue_is_bounded(world: World, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as mute:
        mute.bind(str(tmp_path / "m"))
        mute.listen(1)
        line = ClerkLine(str(tmp_path / "m"), max_queued=1, mute_s=0.2)
        waiting = asyncio.create_task(line.commit(world.record()))
        await asyncio.sleep(0.05)
        assert line.queued == 1
        with pytest.raises(BookUnavailable, match="behind"):
            await line.commit(world.record())
        with pytest.raises(BookUnavailable):
            await waiting
        await line.close()


@pytest.mark.parametrize("noise", [b"\xff" * 64, HEAD.pack(2**31, 1)], ids=["noise", "endless"])
async def test_a_line_that_makes_no_sense_is_dropped_and_the_others_go_on(
    world: World, office: Office, line: ClerkLine, noise: bytes
) -> None:
    reader, writer = await asyncio.open_unix_connection(office.path)
    writer.write(noise)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    assert (await line.commit(world.record())).new


async def test_bytes_that_are_no_record_are_refused_and_the_line_stays(world: World, office: Office) -> None:
    reader, writer = await asyncio.open_unix_connection(office.path)
    good = encode_record(world.record())
    writer.write(HEAD.pack(2, 1) + b"{}" + HEAD.pack(len(good), 2) + good)
    frames, told = Frames(), b""
    while told.count(b"[1,") + told.count(b"[2,") < 2:
        told += b"".join(payload for _, payload in frames.feed(await asyncio.wait_for(reader.read(65536), 5)))
    assert b'"refused"' in told
    assert b'"ok"' in told
    writer.close()


async def test_the_clerk_stays_until_the_workers_have_hung_up(world: World, office: Office, line: ClerkLine) -> None:
    await line.commit(world.record())
    os.close(office.keep)
    await asyncio.sleep(0.1)
    assert (await line.commit(world.record())).new  # its parent was killed, the worker still finishes
    await line.close()
    assert office.thread is not None
    await asyncio.to_thread(office.thread.join, 5)
    assert not office.thread.is_alive()


async def test_what_was_asked_before_hanging_up_is_booked(world: World, office: Office, line: ClerkLine) -> None:
    asked = [asyncio.create_task(line.commit(world.record())) for _ in range(50)]
    await asyncio.sleep(0)
    await line.close()
    assert all(one.new for one in await asyncio.gather(*asked))
    counted = transact(world.url, lambda conn: conn.exec_driver_sql("SELECT count(*) FROM usage_records").scalar())
    assert counted == 50


def test_frames_come_out_whole_however_they_are_cut(world: World) -> None:
    stream = b"".join(HEAD.pack(n, n) + b"x" * n for n in range(5))
    frames = Frames()
    found = [frame for at in range(len(stream)) for frame in frames.feed(stream[at : at + 1])]
    assert found == [(n, b"x" * n) for n in range(5)]


def test_an_answer_survives_the_wire(world: World) -> None:
    assert isinstance(outcome_of(answer_of(BookRefused("no"))), BookRefused)
    away = outcome_of(answer_of(BookUnavailable("later")))
    assert type(away) is BookUnavailable
