from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from faregate.core.call import Hold, Limit
from faregate.core.codec import encode_record
from faregate.core.truth import UnconfirmedPolicy
from faregate.credits import names
from faregate.errors import StoreUnavailable
from faregate.journal import FileJournal, dead_journals
from faregate.ports import Beat
from faregate.recovery import Recovery
from tests import parts
from tests.parts import HEARTBEAT_S, Site, until

REQUESTS = Limit(id="k.requests.day", kind="requests", window="day", max=5)


@pytest.fixture(scope="module")
def stores() -> Iterator[tuple[Path, Path]]:
    with parts.stores() as stores:
        yield stores


@pytest.fixture
async def site(stores: tuple[Path, Path], tmp_path: Path) -> AsyncIterator[Site]:
    async with parts.site(stores, tmp_path) as site:
        yield site


def recovery_of(site: Site, name: str = "me", policy: UnconfirmedPolicy = "progress", **changes: float) -> Recovery:
    return Recovery(
        gate=site.gate,
        book=site.book,
        clock=site.clock,
        events=site.seen,
        find=lambda: dead_journals(site.folder / "journal"),
        name=name,
        policy=policy,
        heartbeat_s=changes.get("heartbeat_s", HEARTBEAT_S),
    )


@pytest.fixture
def recovery(site: Site) -> Recovery:
    return recovery_of(site)


async def left_by_the_dead(site: Site, until_word: str, hold_id: str = "h", boot: str = "dead") -> Hold:
    """A process got as far as that word: open, reserve, forward, progress, learned, commit or settle."""
    words = ("open", "reserve", "forward", "progress", "learned", "commit", "settle")
    reached = words.index(until_word)
    journal = FileJournal(site.folder / "journal", f"{boot}-{hold_id}")
    journal.open(hold_id, site.intent(hold_id))
    hold = (
        await site.gate.reserve(site.ask(hold_id))
        if reached >= 1
        else Hold(
            id=hold_id,
            kind="call",
            organization_id=site.organization_id,
            account_id=site.account_id,
            bucket=site.bucket,
            microcredits=0,
            tokens=None,
            limit_keys=(),
        )
    )
    truth = site.intent(hold_id, 400)
    if reached >= 2:
        journal.forward(hold_id, hold)
    if reached >= 3:
        journal.progress(hold_id, 250)
    if reached >= 4:
        journal.learned(truth)
    if reached >= 5:
        committed = await site.book.commit(truth)
        if reached >= 6:
            await site.gate.settle(hold, committed.snapshot, hold.bucket)
    journal.close()
    site.log.clear()
    return hold


def files(site: Site) -> list[str]:
    """Journals of the dead."""
    return [path.name for path in (site.folder / "journal").iterdir() if "dead" in path.name]


async def replayed(recovery: Recovery) -> bool:
    await recovery.reassert()
    return await recovery.replay()


# Journals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "record"),
    [
        ("open", ("actual", 0)),
        ("reserve", ("actual", 0)),
        ("forward", ("unconfirmed", 100)),
        ("progress", ("unconfirmed", 250)),
        ("learned", ("actual", 400)),
        ("commit", ("actual", 400)),
        ("settle", ("actual", 400)),
    ],
)
@pytest.mark.parametrize("redis", ["there", "wiped"])
async def test_a_dead_process_is_ended_as_its_journal_says(
    site: Site, recovery: Recovery, word: str, record: tuple[str, int], redis: str
) -> None:
    await left_by_the_dead(site, word)
    if redis == "wiped":
        await site.flush()
    assert await replayed(recovery)
    assert await site.records() == [("h", *record)]
    assert await site.posted() == 1_000_000 - record[1]
    assert (await site.held(), await site.holds(), files(site)) == (0, {}, [])


@pytest.mark.parametrize(("policy", "charge"), [("progress", 250), ("estimate", 1000), ("release", 0)])
async def test_a_call_nobody_saw_end_is_booked_by_policy(site: Site, policy: UnconfirmedPolicy, charge: int) -> None:
    await left_by_the_dead(site, "progress")
    await replayed(recovery_of(site, policy=policy))
    assert await site.records() == [("h", "unconfirmed", charge)]


async def test_it_counts_in_the_windows_that_admitted_it(site: Site, recovery: Recovery) -> None:
    journal = FileJournal(site.folder / "journal", "dead")
    hold = await site.gate.reserve(site.ask(limits=(REQUESTS,)))
    journal.open("h", site.intent())
    journal.forward("h", hold)
    journal.close()
    await replayed(recovery)
    assert await counted(site, hold) == (1, 0)


async def counted(site: Site, hold: Hold) -> tuple[int, int]:
    """Used and held of the first window of a hold."""
    window = names.limit_window(site.bucket, hold.limit_keys[0])
    used, held = await site.pipe.command(("HMGET", window, "used", "held"), 1)
    return int(used), int(held)


async def test_the_holds_of_the_dead_are_back_in_redis_before_the_book_answers(site: Site, recovery: Recovery) -> None:
    await left_by_the_dead(site, "open", "never")
    await left_by_the_dead(site, "forward", "flying")
    await left_by_the_dead(site, "learned", "known")
    await site.flush()
    site.book.away = True
    assert await recovery.reassert() == 3
    assert await site.holds() == {"flying": 1000, "known": 1000}
    assert await recovery.replay() is False
    assert len(files(site)) == 3


async def test_a_learned_overrun_is_held_in_full(site: Site, recovery: Recovery) -> None:
    journal = FileJournal(site.folder / "journal", "dead")
    hold = await site.gate.reserve(site.ask())
    journal.open("h", site.intent())
    journal.forward("h", hold)
    journal.learned(site.intent(charge=5000))
    journal.close()
    await site.flush()
    await recovery.reassert()
    assert await site.holds() == {"h": 5000}


async def test_holds_are_put_back_when_redis_comes_late(site: Site, recovery: Recovery) -> None:
    await left_by_the_dead(site, "forward")
    await site.flush()
    site.fail("reassert", "refuse")
    with pytest.raises(StoreUnavailable):
        await recovery.reassert()
    site.book.away = True
    await recovery.reassert()
    assert await site.holds() == {"h": 1000}


async def test_a_book_that_comes_late_finds_everything(site: Site, recovery: Recovery) -> None:
    await left_by_the_dead(site, "learned")
    site.book.away = True
    assert await replayed(recovery) is False
    assert (await site.held(), len(files(site))) == (1000, 1)
    site.book.away = False
    assert await replayed(recovery)
    assert (await site.records(), await site.held(), files(site)) == ([("h", "actual", 400)], 0, [])


@pytest.mark.parametrize("fault", ["refuse", "lose"])
@pytest.mark.parametrize("word", ["reserve", "forward", "learned"])
async def test_a_replay_that_is_interrupted_is_done_again_to_the_same_end(
    site: Site, recovery: Recovery, fault: parts.Fault, word: str
) -> None:
    await left_by_the_dead(site, word)
    site.fail("settle", fault)
    assert await replayed(recovery) is False
    once = await site.records()
    assert await replayed(recovery_of(site, "another")) is True, "its lock keeps others out: nothing left for them"
    assert await replayed(recovery)
    assert await site.records() == once
    assert (await site.held(), files(site)) == (0, [])


async def test_one_refused_record_is_parked_and_the_others_are_booked(site: Site, recovery: Recovery) -> None:
    journal = FileJournal(site.folder / "journal", "dead")
    for hold_id in ("a", "b", "c"):
        hold = await site.gate.reserve(site.ask(hold_id))
        journal.open(hold_id, site.intent(hold_id))
        journal.forward(hold_id, hold)
        journal.learned(site.intent(hold_id, 400))
    journal.close()
    site.book.refuses = {"b"}
    assert await replayed(recovery) is False
    assert [record[0] for record in await site.records()] == ["a", "c"]
    assert (site.seen.troubles, await site.holds(), len(files(site))) == (["parked"], {"b": 1000}, 1)
    site.book.refuses.clear()
    assert await replayed(recovery)
    assert (len(await site.records()), files(site)) == (3, [])


async def test_a_late_truth_of_a_replayed_call_becomes_one_adjustment(site: Site, recovery: Recovery) -> None:
    await left_by_the_dead(site, "progress")
    await replayed(recovery)
    for _ in range(2):
        await site.book.commit(site.intent(charge=400))
    assert await site.records() == [("h", "unconfirmed", 250), ("h", "adjustment", 150)]


async def test_what_a_sweeper_booked_before_the_journal_was_found_is_set_right(site: Site, recovery: Recovery) -> None:
    await left_by_the_dead(site, "learned")
    await swept(site, recovery_of(site, "another"))
    assert await site.records() == [("h", "unconfirmed", 100)]
    await replayed(recovery)
    assert await site.records() == [("h", "unconfirmed", 100), ("h", "adjustment", 300)]


# Sweeping -----------------------------------------------------------------------------------------------


async def swept(site: Site, recovery: Recovery) -> int:
    """Everything was due on two passes a heartbeat apart."""
    await site.expire()
    first = await recovery.sweep()
    site.clock.pass_s(HEARTBEAT_S)
    return first + await recovery.sweep()


async def test_a_hold_past_its_deadline_is_charged_what_it_was_worth(site: Site, recovery: Recovery) -> None:
    await site.gate.reserve(site.ask(limits=(REQUESTS,)))
    assert await swept(site, recovery) == 1
    assert await site.records() == [("h", "unconfirmed", 100)]
    assert (await site.held(), await site.posted(), site.seen.troubles) == (0, 999_900, ["swept"])


async def test_a_swept_hold_counts_in_the_windows_that_admitted_it(site: Site, recovery: Recovery) -> None:
    hold = await site.gate.reserve(site.ask(limits=(REQUESTS,)))
    await swept(site, recovery)
    assert await counted(site, hold) == (1, 0)


@pytest.mark.parametrize(("policy", "charge"), [("progress", 100), ("estimate", 1000), ("release", 0)])
async def test_by_policy(site: Site, policy: UnconfirmedPolicy, charge: int) -> None:
    await site.gate.reserve(site.ask())
    await swept(site, recovery_of(site, policy=policy))
    assert await site.records() == [("h", "unconfirmed", charge)]


async def in_redis(site: Site) -> int:
    return int((await site.gate.account(site.bucket, site.account_id))["posted"])


async def test_a_guard_whose_owner_died_gives_redis_what_the_book_has_charged(site: Site) -> None:
    intent = site.intent("guard", 0, hold_kind="guard")
    await site.gate.reserve(site.ask("guard", 400, kind="guard", forced=True, meta=encode_record(intent)))
    await site.book.commit(site.intent("counted", 300, kind="ingested", hold_kind="api"))
    assert (await in_redis(site), await site.held()) == (1_000_000, 400)
    await swept(site, recovery_of(site, policy="estimate"))
    assert (await in_redis(site), await site.held()) == (999_700, 0)
    assert await site.records() == [("counted", "ingested", 300), ("guard", "unconfirmed", 0)]


async def test_one_pass_is_not_enough_nor_are_two_too_close(site: Site, recovery: Recovery) -> None:
    """Redis stopped for a while: everything is due at once, its owners are about to say so."""
    await site.gate.reserve(site.ask())
    await site.expire()
    assert await recovery.sweep() == 0
    site.clock.pass_s(HEARTBEAT_S / 2)
    assert await recovery.sweep() == 0
    assert "claim" not in site.log


async def test_an_owner_that_spoke_between_two_passes_starts_the_count_anew(site: Site, recovery: Recovery) -> None:
    hold = await site.gate.reserve(site.ask())
    await site.expire()
    await recovery.sweep()
    await site.gate.extend(Beat(hold=hold, microcredits=None, progress_microcredits=100))
    site.clock.pass_s(HEARTBEAT_S)
    await recovery.sweep()
    await site.expire()
    assert await recovery.sweep() == 0
    assert ("claim" in site.log, await site.holds()) == (False, {"h": 1000})


async def test_an_owner_that_speaks_at_the_last_moment_keeps_its_hold(site: Site, recovery: Recovery) -> None:
    hold = await site.gate.reserve(site.ask())
    await site.expire()
    await recovery.sweep()
    site.clock.pass_s(HEARTBEAT_S)
    due = site.gate.due

    async def spoken_meanwhile(bucket: int, sweeper: str, most: int) -> list[tuple[str, str]]:
        found = await due(bucket, sweeper, most)
        if found:
            await site.gate.extend(Beat(hold=hold, microcredits=None, progress_microcredits=100))
        return found

    site.gate.due = spoken_meanwhile  # type: ignore[method-assign]
    assert await recovery.sweep() == 0
    assert (await site.records(), await site.holds()) == ([], {"h": 1000})


async def test_a_bucket_is_swept_by_one_at_a_time(site: Site, recovery: Recovery) -> None:
    await site.gate.reserve(site.ask())
    await site.expire()
    await recovery.sweep()
    another = recovery_of(site, "another")
    await another.sweep()
    site.clock.pass_s(HEARTBEAT_S)
    assert (await another.sweep(), await recovery.sweep()) == (0, 1)


async def test_a_late_truth_of_a_swept_call_becomes_one_adjustment(site: Site, recovery: Recovery) -> None:
    await site.gate.reserve(site.ask())
    await swept(site, recovery)
    for _ in range(2):
        committed = await site.book.commit(site.intent(charge=40))
    assert await site.records() == [("h", "unconfirmed", 100), ("h", "adjustment", -60)]
    assert committed.snapshot.posted == 1_000_000 - 40


async def test_a_sweep_that_the_book_did_not_answer_is_finished_later(site: Site, recovery: Recovery) -> None:
    await site.gate.reserve(site.ask())
    site.book.away = True
    with pytest.raises(StoreUnavailable):
        await swept(site, recovery)
    assert await site.held() == 1000
    site.book.away = False
    await swept(site, recovery)
    assert (await site.records(), await site.held()) == ([("h", "unconfirmed", 100)], 0)


async def test_one_refused_record_does_not_stop_the_sweep(site: Site, recovery: Recovery) -> None:
    for hold_id in ("a", "b", "c"):
        await site.gate.reserve(site.ask(hold_id))
    site.book.refuses = {"a"}
    assert await swept(site, recovery) == 2
    assert (await site.holds(), "parked" in site.seen.troubles) == ({"a": 1000}, True)


async def test_a_hold_that_nobody_can_read_does_not_stop_the_sweep(site: Site, recovery: Recovery) -> None:
    await site.gate.reserve(site.ask("a", meta=b"not a record"))
    await site.gate.reserve(site.ask("b"))
    assert await swept(site, recovery) == 1
    assert (await site.holds(), "parked" in site.seen.troubles) == ({"a": 1000}, True)


# Arrears ------------------------------------------------------------------------------------------------


async def folded(site: Site, *hold_ids: str, charge: int = 400) -> Hold:
    """A process folded these charges and died with its disk."""
    for hold_id in hold_ids:
        hold = await site.gate.reserve(site.ask(hold_id))
        arrears = replace(hold, id="arrears_dead", kind="arrears", microcredits=0)
        await site.gate.fold(hold, arrears, charge, encode_record(site.intent(hold_id, charge)))
    return arrears


async def test_the_charges_behind_arrears_are_booked_one_by_one(site: Site, recovery: Recovery) -> None:
    await folded(site, "a", "b")
    assert await site.holds() == {"arrears_dead": 800}
    assert await swept(site, recovery) == 1
    assert sorted(await site.records()) == [("a", "actual", 400), ("b", "actual", 400)]
    assert (await site.held(), await site.holds(), await site.posted()) == (0, {}, 1_000_000 - 800)


async def test_arrears_that_were_booked_in_part_are_finished(site: Site, recovery: Recovery) -> None:
    await folded(site, "a", "b")
    await site.book.commit(site.intent("a", 400))
    site.fail("unfold", "refuse")
    with pytest.raises(StoreUnavailable):
        await swept(site, recovery)
    await swept(site, recovery)
    assert len(await site.records()) == 2
    assert (await site.held(), await site.holds(), await site.posted()) == (0, {}, 1_000_000 - 800)


async def test_one_refused_charge_stays_in_the_arrears_and_the_others_are_booked(
    site: Site, recovery: Recovery
) -> None:
    await folded(site, "a", "b", "c")
    await site.gate.reserve(site.ask("z"))
    site.book.refuses = {"b"}
    assert await swept(site, recovery) == 1, "the arrears are not closed"
    assert sorted(record[0] for record in await site.records()) == ["a", "c", "z"]
    assert (await site.holds(), "parked" in site.seen.troubles) == ({"arrears_dead": 400}, True)


# The loop -----------------------------------------------------------------------------------------------


async def test_the_loop_replays_siblings_and_sweeps_and_goes_on_through_trouble(site: Site) -> None:
    await left_by_the_dead(site, "learned")
    site.book.away = True
    running = asyncio.create_task(recovery_of(site, heartbeat_s=0.01).run())
    await until(lambda: site.log.count("due") >= 256)
    site.book.away = False
    await until(lambda: files(site) == [])
    site.fail("due", "refuse")
    await until(lambda: "sweep" in site.seen.troubles)
    await site.gate.reserve(site.ask("late"))
    await site.expire()
    for _ in range(200):
        site.clock.pass_s(0.01)
        await asyncio.sleep(0.01)
        if "swept" in site.seen.troubles:
            break
    running.cancel()
    assert await site.records() == [("h", "actual", 400), ("late", "unconfirmed", 100)]
