from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal

import pytest

from faregate import backlog as module
from faregate.backlog import Backlog
from faregate.core.call import Committed, Limit, Record, Snapshot
from faregate.errors import BookRefused, BookUnavailable


def record(name: str) -> Record:
    return Record(
        hold_id=name,
        hold_kind="call",
        kind="actual",
        organization_id="o",
        account_id="a",
        key_id=None,
        request_id="r",
        occurred_at_us=1,
        charge_microcredits=1,
        cost_usd=Decimal(0),
    )


class AwayBook:
    """A book that can be out of reach; it remembers who knocked, how many at once, and what it took."""

    def __init__(self) -> None:
        self.away = True
        self.stuck: set[str] = set()
        self.refused: set[str] = set()
        self.slow: dict[str, asyncio.Event] = {}
        self.knocked: list[str] = []
        self.taken: list[str] = []
        self.busy = self.busiest = 0
        self.takes_s = 0.0

    async def commit(self, record: Record) -> Committed:
        self.knocked.append(record.hold_id)
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        await asyncio.sleep(self.takes_s)
        if record.hold_id in self.slow:
            await self.slow[record.hold_id].wait()
        self.busy -= 1
        if self.away or record.hold_id in self.stuck:
            raise BookUnavailable("away")
        if record.hold_id in self.refused:
            raise BookRefused("no")
        self.taken.append(record.hold_id)
        snapshot = Snapshot(account_id="a", posted=0, seq=len(self.taken))
        return Committed(snapshot=snapshot, usage_id=record.hold_id, new=True, charge_microcredits=1)

    async def snapshot(self, account_id: str, limits: Sequence[tuple[Limit, int]], *, gate: bool) -> Snapshot:
        raise NotImplementedError


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> AwayBook:
    monkeypatch.setattr(module, "_BACKOFF_S", (0.005,))
    return AwayBook()


def commits(backlog: Backlog, *names: str) -> dict[str, asyncio.Task[Committed]]:
    return {name: asyncio.create_task(backlog.commit(record(name))) for name in names}


NAMES = tuple(f"r{number:03}" for number in range(50))


async def test_while_the_book_answers_nothing_waits(book: AwayBook) -> None:
    book.away = False
    backlog = Backlog(book)
    assert (await backlog.commit(record("a"))).usage_id == "a"
    assert len(backlog) == 0


async def test_an_outage_is_not_told_to_the_caller(book: AwayBook) -> None:
    waiting = commits(Backlog(book), "a")["a"]
    await asyncio.sleep(0.03)
    assert not waiting.done()
    book.away = False
    assert (await waiting).usage_id == "a"


async def test_one_prober_knocks_for_all_that_wait(book: AwayBook) -> None:
    backlog = Backlog(book)
    waiting = commits(backlog, *NAMES)
    await asyncio.sleep(0.02)
    book.knocked.clear()
    book.busiest, book.takes_s = 0, 0.001
    waiting |= commits(backlog, "later")
    await asyncio.sleep(0.05)
    assert len(book.knocked) < len(NAMES), "one at a time"
    assert (book.busiest, len(backlog)) == (1, len(NAMES) + 1)
    book.away = False
    await asyncio.gather(*waiting.values())


async def test_who_comes_while_the_prober_knocks_does_not_knock_too(book: AwayBook) -> None:
    backlog = Backlog(book)
    waiting = commits(backlog, "a")
    await asyncio.sleep(0.01)
    book.slow = {"a": asyncio.Event()}
    await asyncio.sleep(0.02)
    waiting |= commits(backlog, "b", "c")
    await asyncio.sleep(0.01)
    assert set(book.knocked) == {"a"}
    book.away = False
    book.slow["a"].set()
    await asyncio.gather(*waiting.values())
    assert book.taken == ["a", "b", "c"]


async def test_when_the_book_is_back_all_go_and_each_gets_its_own_answer(book: AwayBook) -> None:
    backlog = Backlog(book)
    waiting = commits(backlog, *NAMES)
    await asyncio.sleep(0.02)
    waiting |= commits(backlog, "s", "t")
    book.away, book.takes_s = False, 0.001
    done = await asyncio.gather(*waiting.values())
    assert sorted(book.taken) == sorted(waiting)
    assert [committed.usage_id for committed in done] == list(waiting)
    assert len(backlog) == 0


async def test_what_waits_goes_together_once_the_book_is_back(book: AwayBook) -> None:
    """One commit after the other would take an hour for what an hour's outage has gathered."""
    waiting = commits(Backlog(book), *NAMES)
    await asyncio.sleep(0.02)
    book.away, book.busiest, book.takes_s = False, 0, 0.005
    await asyncio.gather(*waiting.values())
    assert book.busiest == len(NAMES) - 1


async def test_an_outage_in_the_middle_of_a_batch_loses_and_repeats_nothing(book: AwayBook) -> None:
    waiting = commits(Backlog(book), *NAMES)
    await asyncio.sleep(0.01)
    for away in (False, True, False, True, False):
        book.away = away
        await asyncio.sleep(0.007)
    await asyncio.wait_for(asyncio.gather(*waiting.values()), 2)
    assert sorted(book.taken) == list(NAMES)


async def test_a_refused_record_is_its_own_callers_trouble(book: AwayBook) -> None:
    book.refused = {"b"}
    waiting = commits(Backlog(book), "a", "b", "c")
    await asyncio.sleep(0.02)
    book.away = False
    done = await asyncio.gather(*waiting.values(), return_exceptions=True)
    assert [type(answer) for answer in done] == [Committed, BookRefused, Committed]
    assert sorted(book.taken) == ["a", "c"]


async def test_a_refusal_does_not_count_as_an_outage(book: AwayBook) -> None:
    book.away, book.refused = False, {"b"}
    backlog = Backlog(book)
    with pytest.raises(BookRefused):
        await backlog.commit(record("b"))
    assert (book.knocked, len(backlog)) == (["b"], 0)


async def test_a_caller_that_left_is_not_waited_for(book: AwayBook) -> None:
    waiting = commits(Backlog(book), "a", "b")
    await asyncio.sleep(0.01)
    waiting["a"].cancel()
    await asyncio.sleep(0)
    book.away = False
    assert (await asyncio.wait_for(waiting["b"], 1)).usage_id == "b"
    assert book.taken == ["b"], "its record is in the journal"


async def test_a_caller_that_leaves_while_the_book_writes_loses_nobody_elses_record(book: AwayBook) -> None:
    waiting = commits(Backlog(book), "a", "b", "c")
    await asyncio.sleep(0.01)
    book.away, book.slow = False, {name: asyncio.Event() for name in waiting}
    await asyncio.sleep(0.02)
    probed = book.knocked[-1]
    stays, leaves = (name for name in waiting if name != probed)
    book.slow[probed].set()
    await asyncio.wait_for(waiting[probed], 1)
    await asyncio.sleep(0.01)
    waiting[leaves].cancel()
    await asyncio.sleep(0)
    book.slow[leaves].set()
    await asyncio.sleep(0.01)
    book.away = True
    book.slow[stays].set()
    await asyncio.sleep(0.01)
    book.away = False
    assert (await asyncio.wait_for(waiting[stays], 1)).usage_id == stays


async def test_after_an_outage_the_next_one_is_sat_out_too(book: AwayBook) -> None:
    backlog = Backlog(book)
    for name in ("a", "b"):
        book.away = True
        waiting = commits(backlog, name)[name]
        await asyncio.sleep(0.01)
        book.away = False
        assert (await asyncio.wait_for(waiting, 1)).usage_id == name


async def test_it_says_when_it_is_full(book: AwayBook) -> None:
    backlog = Backlog(book, most=2)
    waiting = commits(backlog, "a")
    await asyncio.sleep(0.02)
    told = [backlog.full]
    waiting |= commits(backlog, "b")
    await asyncio.sleep(0.02)
    told.append(backlog.full)
    book.away = False
    await asyncio.gather(*waiting.values())
    assert [*told, backlog.full] == [False, True, False]


async def test_a_record_that_is_always_unavailable_does_not_stand_before_the_others(book: AwayBook) -> None:
    waiting = commits(Backlog(book), "a", "b", "c")
    await asyncio.sleep(0.01)
    book.away, book.stuck = False, {"a"}
    await asyncio.wait_for(asyncio.gather(waiting["b"], waiting["c"]), 1)
    assert not waiting["a"].done()
    book.stuck.clear()
    assert (await asyncio.wait_for(waiting["a"], 1)).usage_id == "a"
