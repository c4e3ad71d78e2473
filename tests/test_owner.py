from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from faregate.core.call import Limit, Record
from faregate.core.codec import decode_record
from faregate.credits import names
from faregate.errors import (
    BookUnavailable,
    InProgress,
    InsufficientCredits,
    JournalUnavailable,
    LimitExceeded,
    StoreUnavailable,
)
from faregate.held import Held
from faregate.journal.records import unclosed
from faregate.owner import Owner
from tests import parts
from tests.parts import HEARTBEAT_S, Site, until

CREDIT_LIMIT = Limit(id="k.credits.day", kind="credits", window="day", max=5_000)
ONE_AT_A_TIME = Limit(id="k.concurrency.total", kind="concurrency", window="total", max=1)


@pytest.fixture(scope="module")
def stores() -> Iterator[tuple[Path, Path]]:
    with parts.stores() as stores:
        yield stores


@pytest.fixture
async def site(stores: tuple[Path, Path], tmp_path: Path) -> AsyncIterator[Site]:
    async with parts.site(stores, tmp_path) as site:
        yield site


@pytest.fixture
async def owner(site: Site) -> AsyncIterator[Owner]:
    owner = Owner(
        journal=site.journal,
        gate=site.gate,
        book=site.book,
        clock=site.clock,
        events=site.seen,
        name="boot",
        heartbeat_s=HEARTBEAT_S,
        settle_wait_s=0.05,
    )
    yield owner
    site.book.away = False
    site.pipe.faults.clear()
    site.journal.fails = frozenset()
    if site.book.slow is not None:
        site.book.slow.set()
    await owner.drain(3)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faregate.backlog._BACKOFF_S", (0.005,))
    monkeypatch.setattr("faregate.owner._RETRY_S", (0.005,))


def left_open(site: Site) -> list[str]:
    """Holds a replay would find in the journal."""
    return [hold_id for path in (site.folder / "journal").iterdir() for hold_id in unclosed(path.read_bytes())]


async def forwarded(owner: Owner, site: Site, hold_id: str = "h", limits: tuple[Limit, ...] = ()) -> Held:
    held = await owner.take(site.ask(hold_id, limits=limits), site.intent(hold_id))
    await owner.forward(held)
    return held


async def owed(owner: Owner, site: Site, hold_id: str = "h", charge: int = 400) -> Held:
    """A call that has ended while SQL is away: its charge is in the journal."""
    held = await forwarded(owner, site, hold_id)
    site.book.away = True
    assert await owner.settle(held, truth(held, charge)) is None
    return held


def truth(held: Held, charge: int = 400) -> Record:
    return replace(held.intent, charge_microcredits=charge)


async def beat(owner: Owner, site: Site) -> None:
    """A heartbeat later."""
    site.clock.pass_s(HEARTBEAT_S)
    await owner.beat()


# In order -----------------------------------------------------------------------------------------------


async def test_a_call_is_journaled_held_forwarded_learned_booked_and_closed_in_this_order(
    owner: Owner, site: Site
) -> None:
    held = await forwarded(owner, site)
    committed = await owner.settle(held, truth(held))
    words = [word for word in site.log if word not in ("rebuild", "epoch")]
    assert words[:1] + words[2:] == [
        *("journal open", "reserve", "journal forward", "journal learned", "commit", "settle", "journal closed")
    ]
    assert committed is not None
    assert (committed.charge_microcredits, committed.snapshot.posted) == (400, 999_600)
    assert (await site.held(), owner.open_holds, left_open(site)) == (0, 0, [])


async def test_a_call_that_was_never_forwarded_is_released_without_a_record(owner: Owner, site: Site) -> None:
    held = await owner.take(site.ask(), site.intent())
    await owner.release(held)
    assert (await site.records(), await site.held(), owner.open_holds, left_open(site)) == ([], 0, 0, [])


async def guard(owner: Owner, site: Site) -> Held:
    intent = site.intent("guard", 0, hold_kind="guard")
    held = await owner.take(site.ask("guard", 400, kind="guard", forced=True), intent)
    await site.book.commit(site.intent("counted", 300, kind="ingested", hold_kind="api"))
    return held


async def test_a_guard_ends_with_what_the_book_says(owner: Owner, site: Site) -> None:
    held = await guard(owner, site)
    await owner.unguard(held, await site.book.snapshot(site.account_id, (), gate=False))
    account = await site.gate.account(site.bucket, site.account_id)
    assert (account["posted"], await site.held(), owner.open_holds, left_open(site)) == ("999700", 0, 0, [])
    assert await site.records() == [("counted", "ingested", 300)]


async def test_a_guard_asks_the_book_when_its_answer_was_not_heard(owner: Owner, site: Site) -> None:
    await owner.unguard(await guard(owner, site), None)
    account = await site.gate.account(site.bucket, site.account_id)
    assert (account["posted"], await site.held(), owner.open_holds, left_open(site)) == ("999700", 0, 0, [])


async def test_a_hold_that_is_open_here_is_not_taken_twice(owner: Owner, site: Site) -> None:
    held = await owner.take(site.ask(), site.intent())
    with pytest.raises(InProgress):
        await owner.take(site.ask(), site.intent())
    await owner.forward(held)
    assert (await site.held(), owner.open_holds, left_open(site)) == (1000, 1, ["h"])


async def test_without_a_journal_nothing_is_held(owner: Owner, site: Site) -> None:
    site.journal.fails = frozenset({"open"})
    with pytest.raises(JournalUnavailable):
        await owner.take(site.ask(), site.intent())
    assert ("reserve" in site.log, owner.open_holds) == (False, 0)


async def test_without_a_journal_nothing_is_forwarded_and_the_hold_ends(owner: Owner, site: Site) -> None:
    held = await owner.take(site.ask(), site.intent())
    site.journal.fails = frozenset({"forward"})
    with pytest.raises(JournalUnavailable):
        await owner.forward(held)
    assert (await site.held(), owner.open_holds, held.state) == (0, 0, "ending")


async def test_the_record_counts_in_the_windows_that_admitted_it_but_not_in_concurrency(
    owner: Owner, site: Site
) -> None:
    held = await owner.take(site.ask(limits=(CREDIT_LIMIT, ONE_AT_A_TIME)), site.intent())
    assert [key.rpartition(":")[0] for key in held.intent.limit_keys] == [CREDIT_LIMIT.id]
    assert len(held.hold.limit_keys) == 2


# Reserving ----------------------------------------------------------------------------------------------


async def test_a_refused_reserve_closes_its_entry_in_the_journal(owner: Owner, site: Site) -> None:
    with pytest.raises(InsufficientCredits):
        await owner.take(site.ask(want=2_000_000), site.intent())
    assert (owner.open_holds, left_open(site)) == (0, [])
    await owner.take(site.ask("first", limits=(ONE_AT_A_TIME,)), site.intent("first"))
    with pytest.raises(LimitExceeded):
        await owner.take(site.ask("second", limits=(ONE_AT_A_TIME,)), site.intent("second"))
    site.journal.progress("first", 1)  # a closed word travels with the next one
    assert left_open(site) == ["first"]


async def test_a_cold_account_that_no_book_can_warm_leaves_nothing_doubtful(owner: Owner, site: Site) -> None:
    async def no_book(*_: object, **__: object) -> None:
        raise BookUnavailable("staged")

    site.book.snapshot = no_book  # type: ignore[assignment, method-assign]
    with pytest.raises(BookUnavailable):
        await owner.take(site.ask(), site.intent())
    assert (owner.open_holds, left_open(site)) == (0, [])


async def test_a_reserve_whose_reply_was_lost_is_released(owner: Owner, site: Site) -> None:
    await site.warm()
    site.fail("reserve", "lose")
    with pytest.raises(StoreUnavailable):
        await owner.take(site.ask(), site.intent())
    assert (await site.held(), left_open(site)) == (1000, ["h"])
    await beat(owner, site)
    assert (await site.held(), owner.open_holds, left_open(site)) == (0, 0, [])


async def test_a_reserve_that_may_still_arrive_is_doubted_until_twice_no_hold_a_heartbeat_apart(
    owner: Owner, site: Site
) -> None:
    site.fail("reserve", "refuse")
    with pytest.raises(StoreUnavailable):
        await owner.take(site.ask(), site.intent())
    await owner.beat()
    assert "release" not in site.log, "not before a heartbeat has passed"
    await beat(owner, site)
    await owner.beat()
    assert (site.log.count("release"), left_open(site)) == (1, ["h"])
    await beat(owner, site)
    assert (site.log.count("release"), owner.open_holds, left_open(site)) == (2, 0, [])


async def test_a_reserve_that_arrives_between_the_two_no_holds_is_released_all_the_same(
    owner: Owner, site: Site
) -> None:
    site.fail("reserve", "refuse")
    with pytest.raises(StoreUnavailable):
        await owner.take(site.ask(), site.intent())
    await beat(owner, site)
    await site.gate.reserve(site.ask())
    await beat(owner, site)
    assert (await site.held(), owner.open_holds) == (0, 0)


async def test_a_doubtful_hold_that_was_swept_gets_its_truth_of_zero(owner: Owner, site: Site) -> None:
    await site.warm()
    site.fail("reserve", "lose")
    with pytest.raises(StoreUnavailable):
        await owner.take(site.ask(), site.intent())
    await site.expire()
    await site.gate.claim(site.bucket, site.account_id, "h")
    await beat(owner, site)
    await until(lambda: owner.open_holds == 0)
    assert (await site.records(), await site.held()) == ([("h", "actual", 0)], 0)


async def test_a_doubtful_release_that_redis_lost_with_its_tail_is_said_again(owner: Owner, site: Site) -> None:
    await site.warm()
    site.fail("reserve", "lose")
    with pytest.raises(StoreUnavailable):
        await owner.take(site.ask(), site.intent())
    await beat(owner, site)
    await site.new_epoch()
    await site.gate.reserve(site.ask())
    await owner.beat()
    assert await site.holds() == {}


async def test_a_full_backlog_lets_nobody_in(owner: Owner, site: Site) -> None:
    owner._backlog._most = 0
    with pytest.raises(BookUnavailable) as caught:
        await owner.take(site.ask(), site.intent())
    assert (caught.value.retry_after_s, site.log) == (5, [])


# Forwarding ---------------------------------------------------------------------------------------------


async def test_a_fresh_hold_is_forwarded_without_asking_again(owner: Owner, site: Site) -> None:
    await forwarded(owner, site)
    assert "extend" not in site.log


async def test_a_hold_older_than_a_heartbeat_is_extended_before_it_is_forwarded(owner: Owner, site: Site) -> None:
    held = await owner.take(site.ask(), site.intent())
    site.clock.pass_s(HEARTBEAT_S + 1)
    await owner.forward(held)
    assert site.log[-2:] == ["extend", "journal forward"]


async def test_an_old_hold_that_redis_lost_is_put_back_before_it_is_forwarded(owner: Owner, site: Site) -> None:
    held = await owner.take(site.ask(), site.intent())
    await site.flush()
    site.clock.pass_s(HEARTBEAT_S + 1)
    await owner.forward(held)
    assert (held.state, await site.holds()) == ("forwarded", {"h": 1000})


async def test_a_swept_hold_is_not_forwarded_and_its_truth_is_zero(owner: Owner, site: Site) -> None:
    """Stopped between hold and forward, swept, and resumed."""
    held = await owner.take(site.ask(), site.intent())
    await site.expire()
    await site.gate.claim(site.bucket, site.account_id, "h")
    site.clock.pass_s(HEARTBEAT_S + 1)
    with pytest.raises(StoreUnavailable):
        await owner.forward(held)
    assert "journal forward" not in site.log
    assert await site.records() == [("h", "actual", 0)]
    assert (await site.held(), owner.open_holds) == (0, 0)


async def test_an_old_hold_that_cannot_be_confirmed_is_not_forwarded(owner: Owner, site: Site) -> None:
    held = await owner.take(site.ask(), site.intent())
    site.clock.pass_s(HEARTBEAT_S + 1)
    site.fail("extend", "lose")
    with pytest.raises(StoreUnavailable):
        await owner.forward(held)
    assert ("journal forward" in site.log, await site.held()) == (False, 0)


# Settling -----------------------------------------------------------------------------------------------


async def test_a_slow_book_is_waited_for_so_long_and_then_the_journal_is_synced(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site)
    site.book.slow = asyncio.Event()
    assert await owner.settle(held, truth(held)) is None
    assert site.log[-3:] == ["journal learned", "commit", "journal sync"]
    site.book.slow.set()
    await until(lambda: owner.open_holds == 0)
    assert (await site.records(), await site.held()) == ([("h", "actual", 400)], 0)


async def test_a_book_that_answers_in_time_needs_no_sync(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site)
    await owner.settle(held, truth(held))
    assert "journal sync" not in site.log


@pytest.mark.parametrize("word", ["learned", "sync"])
async def test_an_answer_that_the_journal_cannot_carry_waits_for_the_book(owner: Owner, site: Site, word: str) -> None:
    held = await forwarded(owner, site)
    site.journal.fails, site.book.slow = frozenset({word}), asyncio.Event()
    ending = asyncio.create_task(owner.settle(held, truth(held)))
    await asyncio.sleep(0.15)
    assert not ending.done()
    site.book.slow.set()
    committed = await ending
    assert committed is not None
    assert "journal" in site.seen.troubles


async def test_a_caller_that_is_cancelled_takes_no_charge_with_it(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site)
    site.book.slow = asyncio.Event()
    ending = asyncio.create_task(owner.settle(held, truth(held)))
    await until(lambda: site.log[-1] == "commit")
    ending.cancel()
    site.book.slow.set()
    await until(lambda: owner.open_holds == 0)
    assert await site.records() == [("h", "actual", 400)]


async def test_a_charge_above_its_hold_extends_it_first(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site)
    site.book.slow = asyncio.Event()
    await owner.settle(held, truth(held, 1_700))
    assert (await site.held(), site.seen.overruns) == (1_700, [700])
    assert site.log.index("extend") < site.log.index("journal learned")


async def test_a_charge_within_its_hold_is_no_overrun(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site)
    await owner.settle(held, truth(held, 1_000))
    assert ("extend" in site.log, site.seen.overruns) == (False, [])


async def test_a_settle_that_redis_did_not_answer_is_said_until_it_is_heard(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site)
    site.fail("settle", "lose", 2)
    committed = await owner.settle(held, truth(held))
    await until(lambda: owner.open_holds == 0)
    assert committed is None or committed.new
    assert (await site.held(), site.log.count("settle"), site.log.count("commit")) == (0, 3, 1)


async def test_a_record_the_book_refuses_is_parked_with_its_hold_and_journal(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site)
    site.book.refuses = {"h"}
    assert await owner.settle(held, truth(held)) is None
    assert (await site.held(), left_open(site), site.seen.troubles) == (1000, ["h"], ["parked"])


@pytest.mark.parametrize("lost", ["wiped", "swept"])
async def test_a_release_of_what_is_not_there_commits_a_truth_of_zero(owner: Owner, site: Site, lost: str) -> None:
    """Somebody else may have begun to charge it."""
    held = await owner.take(site.ask(), site.intent())
    if lost == "wiped":
        await site.flush()
    else:
        await site.expire()
        await site.gate.claim(site.bucket, site.account_id, "h")
    await owner.release(held)
    await until(lambda: owner.open_holds == 0)
    assert (await site.records(), await site.posted(), await site.holds()) == ([("h", "actual", 0)], 1_000_000, {})


async def test_a_release_past_the_deadline_asks_the_book_whatever_redis_says(owner: Owner, site: Site) -> None:
    """A sweeper may have charged it, and a lost tail may have brought it back since."""
    held = await forwarded(owner, site)
    site.clock.pass_s(3 * HEARTBEAT_S + 1)
    await owner.release(held)
    await until(lambda: owner.open_holds == 0)
    assert (await site.records(), await site.held()) == ([("h", "actual", 0)], 0)


async def test_a_release_after_an_unanswered_reassert_asks_the_book_too(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site)
    await site.flush()
    site.fail("reassert", "lose")
    await beat(owner, site)
    await owner.release(held)
    await until(lambda: owner.open_holds == 0)
    assert (await site.records(), await site.holds()) == ([("h", "actual", 0)], {})


async def test_a_release_that_redis_does_not_answer_goes_on_in_the_background(owner: Owner, site: Site) -> None:
    held = await owner.take(site.ask(), site.intent())
    site.fail("release", "refuse", 30)
    await owner.release(held)
    assert owner.open_holds == 1
    await until(lambda: owner.open_holds == 0)
    assert (await site.records(), await site.held()) == ([], 0)


# The heartbeat ------------------------------------------------------------------------------------------


async def test_the_heartbeat_extends_what_is_open_and_tells_its_progress(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site)
    await site.expire()
    held.progress = lambda: 777
    await beat(owner, site)
    assert await site.gate.due(site.bucket, "s", 10) == []
    (seen,) = await site.gate.holds(site.bucket, site.account_id)
    assert (seen.progress_microcredits, seen.hold.microcredits) == (777, 1000)


async def test_progress_is_journaled_when_it_has_moved(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site)
    for worth in (100, 250, 250):
        held.progress = lambda worth=worth: worth
        await beat(owner, site)
    assert site.log.count("journal progress") == 1
    (path,) = (site.folder / "journal").iterdir()
    assert unclosed(path.read_bytes())["h"].progress_microcredits == 250


async def test_a_hold_that_redis_lost_is_put_back_whole(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site, limits=(CREDIT_LIMIT,))
    await site.flush()
    await beat(owner, site)
    (seen,) = await site.gate.holds(site.bucket, site.account_id)
    assert (seen.hold.microcredits, seen.hold.limit_keys) == (1000, held.hold.limit_keys)
    assert decode_record(seen.meta) == site.intent()
    assert site.seen.troubles == ["reasserted"]


@pytest.mark.parametrize("end", ["settle", "release"])
async def test_a_hold_is_never_put_back_once_its_end_has_begun(owner: Owner, site: Site, end: str) -> None:
    held = await forwarded(owner, site)
    site.fail(end, "lose", 5)
    ending = asyncio.create_task(owner.settle(held, truth(held)) if end == "settle" else owner.release(held))
    await until(lambda: end in site.log)
    await site.flush()
    await beat(owner, site)
    await ending
    await until(lambda: owner.open_holds == 0)
    assert ("reassert" in site.log, await site.holds()) == (False, {})


async def test_an_end_that_begins_while_a_heartbeat_is_out_is_not_undone_by_its_answer(
    owner: Owner, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await forwarded(owner, site)
    extend = site.gate.extend

    async def slow(beat: object) -> str:
        await owner.release(held)
        return await extend(beat)  # type: ignore[arg-type]

    monkeypatch.setattr(site.gate, "extend", slow)
    await beat(owner, site)
    await until(lambda: owner.open_holds == 0)
    assert ("reassert" in site.log, await site.holds()) == (False, {})


async def test_a_hold_that_was_swept_under_a_call_in_flight_stops_it(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site)
    cuts: list[str] = []
    held.on_cut = lambda: cuts.append("cut")
    await site.expire()
    await site.gate.claim(site.bucket, site.account_id, "h")
    await beat(owner, site)
    assert cuts == ["cut"]


async def test_a_hold_that_is_open_for_long_moves_in_the_journal(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site)
    await beat(owner, site)
    assert "journal carry" not in site.log
    held.taken_at -= 61
    await beat(owner, site)
    assert site.log.count("journal carry") == 1


async def test_a_call_is_stopped_when_no_heartbeat_got_through_for_a_deadline(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site)
    cuts: list[str] = []
    held.on_cut = lambda: cuts.append("cut")
    for number in range(4):
        site.fail("extend", "refuse")
        await beat(owner, site)
        assert bool(cuts) == (number == 3)


async def test_one_heartbeat_that_got_through_starts_the_deadline_anew(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site)
    held.on_cut = lambda: pytest.fail("cut")
    for lost in (True, True, False, True, True, True):
        site.fail("extend", "refuse", int(lost))
        await beat(owner, site)


async def test_a_charge_above_its_hold_that_redis_did_not_hear_is_said_by_the_heartbeat(
    owner: Owner, site: Site
) -> None:
    held = await forwarded(owner, site)
    site.fail("extend", "refuse")
    site.book.slow = asyncio.Event()
    await owner.settle(held, truth(held, 1_700))
    assert await site.held() == 1_000
    await owner.beat()
    assert await site.held() == 1_700


# A new epoch --------------------------------------------------------------------------------------------


async def lose_the_tail(site: Site, hold_id: str = "h") -> None:
    """Redis comes back as it was before the hold ended."""
    await site.new_epoch()
    await site.gate.reserve(site.ask(hold_id))


@pytest.mark.parametrize("end", ["settle", "release"])
async def test_on_a_new_epoch_the_closes_of_the_last_deadline_are_said_again(
    owner: Owner, site: Site, end: str
) -> None:
    held = await forwarded(owner, site)
    await (owner.settle(held, truth(held)) if end == "settle" else owner.release(held))
    await beat(owner, site)
    await lose_the_tail(site)
    await beat(owner, site)
    await until(lambda: owner.open_holds == 0)
    assert await site.holds() == {}
    assert await site.posted() == (999_600 if end == "settle" else 1_000_000)


async def test_a_new_epoch_before_the_first_heartbeat_is_noticed_too(owner: Owner, site: Site) -> None:
    """Nobody has asked for the epoch before: it may be the first, or not."""
    held = await forwarded(owner, site)
    await owner.release(held)
    await lose_the_tail(site)
    await beat(owner, site)
    assert await site.holds() == {}


async def test_without_a_new_epoch_nothing_is_said_again_not_even_at_the_first_heartbeat(
    owner: Owner, site: Site
) -> None:
    await owner.release(await forwarded(owner, site))
    await owner.beat()
    await beat(owner, site)
    assert (site.log.count("release"), await site.records()) == (1, [])


async def test_what_closed_longer_ago_is_not_said_again(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site)
    await owner.release(held)
    await owner.beat()
    site.clock.pass_s(3 * HEARTBEAT_S + 1)
    await lose_the_tail(site)
    site.log.clear()
    await owner.beat()
    assert "release" not in site.log


async def test_a_release_that_came_back_and_was_swept_gets_its_truth_of_zero(owner: Owner, site: Site) -> None:
    await owner.release(await forwarded(owner, site))
    await owner.beat()
    await lose_the_tail(site)
    await site.expire()
    await site.gate.claim(site.bucket, site.account_id, "h")
    await owner.beat()
    await until(lambda: owner.open_holds == 0)
    assert await site.records() == [("h", "actual", 0)]


async def test_a_close_that_redis_did_not_hear_on_a_new_epoch_is_said_by_the_next_heartbeat(
    owner: Owner, site: Site
) -> None:
    for hold_id in ("a", "b"):
        await owner.release(await forwarded(owner, site, hold_id))
    await owner.beat()
    await lose_the_tail(site, "a")
    await site.gate.reserve(site.ask("b"))
    site.fail("release", "refuse")
    await owner.beat()
    await owner.beat()
    assert await site.holds() == {}


# SQL is away --------------------------------------------------------------------------------------------


async def test_charges_that_waited_for_a_heartbeat_share_one_hold_of_what_they_owe(owner: Owner, site: Site) -> None:
    for hold_id in ("a", "b"):
        await owed(owner, site, hold_id)
    await owner.beat()
    assert set(await site.holds()) == {"a", "b"}, "not before a heartbeat"
    await beat(owner, site)
    assert await site.holds() == {f"arrears_boot_{site.account_id}": 800}
    assert await site.held() == 800


async def test_a_call_in_flight_is_not_folded(owner: Owner, site: Site) -> None:
    await forwarded(owner, site, "flying")
    await owed(owner, site)
    await beat(owner, site)
    assert await site.holds() == {"flying": 1000, f"arrears_boot_{site.account_id}": 400}


async def test_holds_with_limit_windows_keep_their_own_hold(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site, limits=(CREDIT_LIMIT,))
    site.book.away = True
    await owner.settle(held, truth(held))
    await beat(owner, site)
    assert await site.holds() == {"h": 1000}
    window = names.limit_window(site.bucket, held.hold.limit_keys[0])
    assert await site.pipe.command(("HGET", window, "held"), 1) == b"1000"


async def test_when_sql_is_back_everything_is_booked_and_unfolded(owner: Owner, site: Site) -> None:
    for hold_id in ("a", "b"):
        await owed(owner, site, hold_id)
    await beat(owner, site)
    site.book.away = False
    await until(lambda: owner.open_holds == 0)
    assert sorted(await site.records()) == [("a", "actual", 400), ("b", "actual", 400)]
    assert (await site.held(), await site.holds(), left_open(site)) == (0, {}, [])
    assert (await site.gate.account(site.bucket, site.account_id))["posted"] == str(1_000_000 - 800)


async def test_arrears_are_kept_by_the_heartbeat(owner: Owner, site: Site) -> None:
    await owed(owner, site)
    await beat(owner, site)
    await site.expire()
    await beat(owner, site)
    assert await site.gate.due(site.bucket, "s", 10) == []


async def test_a_wiped_redis_gets_the_folded_charges_back(owner: Owner, site: Site) -> None:
    for hold_id in ("a", "b"):
        await owed(owner, site, hold_id)
    await beat(owner, site)
    await site.flush()
    await beat(owner, site)
    assert await site.holds() == {f"arrears_boot_{site.account_id}": 800}
    site.book.away = False
    await until(lambda: owner.open_holds == 0)
    assert (await site.holds(), await site.posted()) == ({}, 1_000_000 - 800)


async def test_the_list_of_arrears_can_be_booked_by_a_sweeper(owner: Owner, site: Site) -> None:
    held = await owed(owner, site)
    await beat(owner, site)
    (arrears,) = await site.gate.holds(site.bucket, site.account_id)
    (data,) = await site.gate.folded(arrears.hold)
    assert decode_record(data) == truth(held)


async def test_a_fold_whose_reply_was_lost_counts_once(owner: Owner, site: Site) -> None:
    await owed(owner, site)
    site.fail("fold", "lose")
    site.clock.pass_s(HEARTBEAT_S)
    await owner.beat()
    await beat(owner, site)
    assert await site.held() == 400


async def test_a_fold_that_never_arrived_does_not_leave_its_hold_to_the_sweeper(owner: Owner, site: Site) -> None:
    for hold_id in ("a", "b"):
        await owed(owner, site, hold_id)
        site.fail("fold", "refuse", int(hold_id == "b"))
        site.clock.pass_s(HEARTBEAT_S)
        await owner.beat()
    await site.expire()
    await beat(owner, site)
    assert await site.gate.due(site.bucket, "s", 10) == []
    assert await site.holds() == {f"arrears_boot_{site.account_id}": 800}


async def test_what_is_booked_while_it_is_folded_counts_once(owner: Owner, site: Site) -> None:
    await owed(owner, site)
    site.clock.pass_s(HEARTBEAT_S)
    site.book.away = False
    await asyncio.gather(owner.beat(), until(lambda: owner.open_holds == 0))
    assert (await site.held(), await site.holds(), await site.posted()) == (0, {}, 999_600)


async def test_after_an_outage_the_next_one_folds_again(owner: Owner, site: Site) -> None:
    for hold_id in ("a", "b"):
        await owed(owner, site, hold_id)
        await beat(owner, site)
        assert await site.holds() == {f"arrears_boot_{site.account_id}": 400}
        site.book.away = False
        await until(lambda: owner.open_holds == 0)
    assert await site.held() == 0


# The end ------------------------------------------------------------------------------------------------


async def test_drain_waits_for_what_is_ending(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site)
    site.book.slow = asyncio.Event()
    await owner.settle(held, truth(held))
    asyncio.get_running_loop().call_later(0.05, site.book.slow.set)
    # The clock stands still here: only the end of what is ending ends the wait.
    assert await owner.drain(1) is True
    assert (await site.records(), left_open(site)) == ([("h", "actual", 400)], [])


async def test_drain_gives_up_after_its_time_and_leaves_the_rest_to_the_journal(owner: Owner, site: Site) -> None:
    held = await forwarded(owner, site)
    site.book.slow = asyncio.Event()
    await owner.settle(held, truth(held))
    asyncio.get_running_loop().call_later(0.02, site.clock.pass_s, 60.0)
    assert await owner.drain(0.1) is False
    assert left_open(site) == ["h"]


async def test_the_heartbeat_goes_on_while_it_drains(owner: Owner, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[int] = []

    async def beat() -> None:
        beats.append(1)

    monkeypatch.setattr(owner, "beat", beat)
    monkeypatch.setattr(owner, "_heartbeat_s", 0.01)
    held = await forwarded(owner, site)
    site.book.slow = asyncio.Event()
    await owner.settle(held, truth(held))
    running, draining = asyncio.create_task(owner.run()), asyncio.create_task(owner.drain(3))
    await until(lambda: len(beats) >= 3)
    site.book.slow.set()
    assert await draining is True
    await asyncio.wait_for(running, 1)


async def test_drain_releases_what_is_doubtful(owner: Owner, site: Site) -> None:
    await site.warm()
    site.fail("reserve", "lose")
    with pytest.raises(StoreUnavailable):
        await owner.take(site.ask(), site.intent())
    assert await owner.drain(1) is True
    assert await site.held() == 0


async def test_the_loop_goes_on_when_redis_does_not_answer(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[int] = []
    owner = Owner(
        journal=site.journal,
        gate=site.gate,
        book=site.book,
        clock=site.clock,
        events=site.seen,
        name="boot",
        heartbeat_s=0.01,
    )

    async def beat() -> None:
        beats.append(1)
        raise StoreUnavailable("staged")

    monkeypatch.setattr(owner, "beat", beat)
    running = asyncio.create_task(owner.run())
    await until(lambda: len(beats) >= 2)
    assert site.seen.troubles[:2] == ["heartbeat", "heartbeat"]
    await owner.drain(0)
    await asyncio.wait_for(running, 1)
