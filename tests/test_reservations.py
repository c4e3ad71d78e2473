"""Reserver: real Valkey, real SQLite; processes that die in the middle, replies that are lost, sweeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from faregate.core.call import Limit, Reservation
from faregate.core.reservation import hold_of, new_reservation_id
from faregate.credits import names
from faregate.errors import BookUnavailable, InsufficientCredits, LimitExceeded, ReservationExpired, StoreUnavailable
from faregate.ledger.reservations import Reservations
from faregate.ports import DueHold
from faregate.recovery import Recovery
from faregate.reservations import Reserver
from tests import parts
from tests.parts import HEARTBEAT_S, Site

FULL = 1_000_000


@pytest.fixture(scope="module")
def stores() -> Iterator[tuple[Path, Path]]:
    with parts.stores() as stores:
        yield stores


@pytest.fixture
async def site(stores: tuple[Path, Path], tmp_path: Path) -> AsyncIterator[Site]:
    async with parts.site(stores, tmp_path) as site:
        await site.warm()
        yield site


class StagedRows(Reservations):
    """The book's side: `away` loses what is asked, `unheard` its answers; `dies` is where the process ends."""

    away = False
    unheard = False

    async def create(self, wanted: Reservation, **more: Any) -> tuple[Reservation, bool]:
        if self.away:
            raise BookUnavailable("staged")
        made = await super().create(wanted, **more)
        if self.unheard:
            raise BookUnavailable("staged")
        return made

    async def confirm(self, reservation_id: str, actual: int) -> Any:
        if self.away:
            raise BookUnavailable("staged")
        return await super().confirm(reservation_id, actual)

    async def forget(self, reservation_id: str) -> None:
        if self.away or self.unheard:
            raise BookUnavailable("staged")
        await super().forget(reservation_id)


@pytest.fixture
def rows(site: Site) -> StagedRows:
    return StagedRows(site.database)


@pytest.fixture
def reserver(site: Site, rows: StagedRows) -> Reserver:
    return Reserver(
        gate=site.gate, book=site.book, rows=rows, clock=site.clock, events=site.seen, heartbeat_s=HEARTBEAT_S
    )


@pytest.fixture
def sweeper(site: Site, reserver: Reserver) -> Recovery:
    """Another process: it has nothing but the stores."""
    return Recovery(
        gate=site.gate,
        book=site.book,
        clock=site.clock,
        events=site.seen,
        find=lambda: iter(()),
        name="other",
        reservations=reserver,
        heartbeat_s=HEARTBEAT_S,
    )


def wanted(site: Site, amount: int = 600_000, **facts: Any) -> Reservation:
    return Reservation(
        id=new_reservation_id(),
        organization_id=site.organization_id,
        account_id=site.account_id,
        microcredits=amount,
        expires_us=0,
        created_us=site.clock.now_us(),
        updated_us=0,
        **facts,
    )


async def made(site: Site, reserver: Reserver, amount: int = 600_000, ttl_s: int = 300) -> Reservation:
    return (await reserver.create(site.principal, wanted(site, amount), ttl_s))[0]


async def deadline_s(site: Site, one: Reservation) -> float:
    """Seconds until its hold is due in Redis."""
    score = await site.pipe.command(("ZSCORE", names.hold_keys(site.bucket, site.account_id)[3], _member(one)), 5)
    now = await site.pipe.command(("TIME",), 5)
    return float(score) / 1000 - int(now[0])


def _member(one: Reservation) -> str:
    return names.member(one.account_id, one.id)


async def past_deadline(site: Site, one: Reservation) -> None:
    def move(conn: Any) -> None:
        conn.execute(text("UPDATE reservations SET expires_us = 1 WHERE id = :id"), {"id": one.id})

    await site.database.write(move)


async def twice(site: Site, sweeper: Recovery) -> int:
    """Two sweeps, a heartbeat apart."""
    await sweeper.expire()
    closed = await sweeper.sweep()
    site.clock.pass_s(HEARTBEAT_S)
    return closed + await sweeper.sweep()


async def state(rows: Reservations, one: Reservation) -> str:
    found = await rows.look([one.id])
    return found[one.id].state if found else ""


# Making -------------------------------------------------------------------------------------------------


async def test_its_hold_has_its_own_deadline(site: Site, reserver: Reserver) -> None:
    one = await made(site, reserver, ttl_s=4_000)
    assert 3_990 < await deadline_s(site, one) <= 4_001
    assert await site.held() == 600_000


async def test_what_does_not_fit_leaves_nothing(site: Site, reserver: Reserver, rows: Reservations) -> None:
    first = await made(site, reserver)
    with pytest.raises(InsufficientCredits):
        await made(site, reserver)
    assert await site.holds() == {first.id: 600_000}
    assert len(await rows.pending(site.account_id)) == 1


async def test_an_unanswered_reserve_is_undone(site: Site, reserver: Reserver, rows: Reservations) -> None:
    site.fail("reserve", "lose")
    with pytest.raises(StoreUnavailable):
        await made(site, reserver)
    assert await site.held() == 0
    assert await rows.pending(site.account_id) == ()


async def test_an_unanswered_reserve_whose_undoing_is_lost_is_swept(
    site: Site, reserver: Reserver, sweeper: Recovery
) -> None:
    site.fail("reserve", "lose")
    site.fail("release", "refuse")
    with pytest.raises(StoreUnavailable):
        await made(site, reserver)
    assert await site.held() == 600_000
    await site.expire()
    assert await sweeper.sweep() == 0  # Its maker may be about to write its row.
    site.clock.pass_s(HEARTBEAT_S)
    assert await sweeper.sweep() == 1
    assert await site.held() == 0


async def test_without_the_book_nothing_is_held(site: Site, reserver: Reserver, rows: StagedRows) -> None:
    rows.away = True
    with pytest.raises(BookUnavailable):
        await made(site, reserver)
    rows.away = False
    assert await rows.pending(site.account_id) == ()


async def test_a_row_that_was_written_unheard_keeps_its_hold(
    site: Site, reserver: Reserver, rows: StagedRows, sweeper: Recovery
) -> None:
    rows.unheard = True
    one = wanted(site, caller_id="mine")
    with pytest.raises(BookUnavailable):
        await reserver.create(site.principal, one, 300)
    rows.unheard = False
    await site.expire()
    await twice(site, sweeper)
    again, new = await reserver.create(site.principal, wanted(site, 100, caller_id="mine"), 300)
    assert (again.id, new) == (one.id, False)
    assert await site.holds() == {one.id: 600_000}
    assert await deadline_s(site, one) > 200


async def test_its_maker_dies_before_the_row(site: Site, reserver: Reserver, sweeper: Recovery) -> None:
    await reserver._take(site.principal, wanted(site))
    await site.expire()
    assert await twice(site, sweeper) == 1
    assert await site.held() == 0


async def test_its_maker_dies_after_the_row(site: Site, reserver: Reserver, rows: Reservations) -> None:
    """Nobody was told of it; the next sweep gives it the deadline that the book says."""
    one = replace(wanted(site), expires_us=site.clock.now_us() + 300_000_000)
    await reserver._take(site.principal, one)
    await rows.create(one)
    assert await deadline_s(site, one) < 16
    await site.expire()
    due = await site.gate.due(site.bucket, "other", 9)
    await reserver.sweep([due_hold(site, hold_id) for _, hold_id in due])
    assert await deadline_s(site, one) > 290


def due_hold(site: Site, hold_id: str) -> DueHold:
    return DueHold(site.bucket, site.account_id, hold_id, twice=False)


async def test_a_maker_that_stood_still_is_told_to_try_again(
    site: Site, reserver: Reserver, rows: Reservations, sweeper: Recovery
) -> None:
    one = replace(wanted(site), expires_us=site.clock.now_us() + 300_000_000)
    asked = site.clock.monotonic()
    await reserver._take(site.principal, one)
    await site.expire()
    await twice(site, sweeper)
    site.clock.pass_s(3 * HEARTBEAT_S)
    await rows.create(one)
    with pytest.raises(StoreUnavailable):
        await reserver._keep(one, asked)
    assert (await state(rows, one), await site.held()) == ("", 0)


async def test_a_wipe_between_hold_and_row_is_healed(site: Site, reserver: Reserver, rows: Reservations) -> None:
    one = replace(wanted(site), expires_us=site.clock.now_us() + 300_000_000)
    await reserver._take(site.principal, one)
    await site.flush()
    await rows.create(one)
    await reserver._keep(one, site.clock.monotonic())
    await site.warm()
    assert await site.holds() == {one.id: 600_000}
    assert await site.held() == 600_000


async def test_pending_ones_of_an_account_are_bounded(site: Site, rows: Reservations) -> None:
    await rows.create(replace(wanted(site, 1), expires_us=2**60), most=1)
    with pytest.raises(LimitExceeded):
        await rows.create(wanted(site, 1), most=1)


# Ending -------------------------------------------------------------------------------------------------


async def test_two_confirms_at_once_charge_once(site: Site, reserver: Reserver) -> None:
    one = await made(site, reserver)
    done = await asyncio.gather(*(reserver.confirm(one, n) for n in (100, 200, 300)))
    assert len({each.reservation.actual for each in done}) == 1
    assert sum(each.new for each in done) == 1
    assert await site.posted() == FULL - (done[0].reservation.actual or 0)
    assert await site.held() == 0


async def test_an_overrun_tightens_before_it_charges(site: Site, reserver: Reserver) -> None:
    one = await made(site, reserver)
    site.log.clear()
    await reserver.confirm(one, 1_500_000)
    assert site.log == ["extend", "settle"]
    assert site.seen.overruns == [900_000]
    account = await site.gate.account(site.bucket, site.account_id)
    assert (account["posted"], account["held"]) == ("-500000", "0")


async def test_a_confirm_whose_settle_is_lost_is_closed_by_the_sweep(
    site: Site, reserver: Reserver, sweeper: Recovery
) -> None:
    one = await made(site, reserver, ttl_s=86_400)
    site.fail("settle", "refuse")
    done = await reserver.confirm(one, 100)
    assert (done.new, await site.held()) == (True, 600_000)
    assert await deadline_s(site, one) < 16  # Not in a day.
    await site.expire()
    assert await sweeper.sweep() == 1
    account = await site.gate.account(site.bucket, site.account_id)
    assert (account["posted"], account["held"]) == (str(FULL - 100), "0")


@pytest.mark.parametrize("verb", ["cancel", "expire"])
async def test_an_end_whose_release_is_lost_is_closed_by_the_sweep(
    site: Site, reserver: Reserver, sweeper: Recovery, verb: str
) -> None:
    one = await made(site, reserver, ttl_s=86_400)
    site.fail("release", "refuse")
    if verb == "cancel":
        await reserver.cancel(one)
    else:
        await past_deadline(site, one)
        await reserver.expire()
    assert await site.held() == 600_000
    await site.expire()
    assert await sweeper.sweep() == 1
    assert (await site.held(), await site.posted()) == (0, FULL)


async def test_a_confirm_that_the_book_did_not_take_leaves_it_as_it_was(
    site: Site, reserver: Reserver, rows: StagedRows, sweeper: Recovery
) -> None:
    one = await made(site, reserver, ttl_s=4_000)
    rows.away = True
    with pytest.raises(BookUnavailable):
        await reserver.confirm(one, 900_000)
    rows.away = False
    await site.expire()
    await sweeper.sweep()
    assert await site.holds() == {one.id: 600_000}
    assert await deadline_s(site, one) > 3_900


async def test_heartbeats_leave_its_deadline_alone(site: Site, reserver: Reserver, sweeper: Recovery) -> None:
    one = await made(site, reserver, ttl_s=4_000)
    await twice(site, sweeper)
    assert await deadline_s(site, one) > 3_900
    await reserver.extend(one, 80_000)
    await twice(site, sweeper)
    assert await deadline_s(site, one) > 79_000


async def test_an_extension_that_redis_missed_is_made_good(
    site: Site, reserver: Reserver, sweeper: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await made(site, reserver, ttl_s=60)
    rows, extend = reserver._rows, reserver._rows.extend

    async def then_lose(*args: Any) -> Reservation:
        site.fail("extend", "refuse")
        return await extend(*args)

    monkeypatch.setattr(rows, "extend", then_lose)
    later = await reserver.extend(one, 80_000)
    assert await deadline_s(site, one) < 16
    await site.expire()
    assert await sweeper.sweep() == 0
    assert await deadline_s(site, later) > 79_000


async def test_it_expires_in_the_book_first_and_once(site: Site, reserver: Reserver, rows: Reservations) -> None:
    one = await made(site, reserver)
    await past_deadline(site, one)
    assert sorted(await asyncio.gather(reserver.expire(), reserver.expire(), reserver.expire())) == [0, 0, 1]
    assert (await state(rows, one), await site.held()) == ("expired", 0)
    with pytest.raises(ReservationExpired):
        await reserver.confirm(one, 1)
    assert await site.held() == 0


async def test_a_cold_account_expires_without_redis(site: Site, reserver: Reserver, rows: Reservations) -> None:
    one = await made(site, reserver)
    await site.flush()
    await past_deadline(site, one)
    assert await reserver.expire() == 1
    await site.warm()
    assert (await state(rows, one), await site.held()) == ("expired", 0)


# Redis forgets ------------------------------------------------------------------------------------------


async def test_a_wiped_redis_is_rebuilt_with_their_own_deadlines(site: Site, reserver: Reserver) -> None:
    first, second = await made(site, reserver, 1_000, 4_000), await made(site, reserver, 2_000, 80_000)
    ended = await made(site, reserver, 4_000)
    await reserver.cancel(ended)
    await site.flush()
    await site.warm()
    assert await site.holds() == {first.id: 1_000, second.id: 2_000}
    assert await site.held() == 3_000
    assert 3_900 < await deadline_s(site, first) < 4_001
    assert 79_000 < await deadline_s(site, second) < 80_001


async def test_a_wiped_redis_counts_their_limits_again(site: Site, reserver: Reserver) -> None:
    limit = Limit(id="k.credits.day", kind="credits", window="day", max=10_000)
    limited = replace(site.principal, limits=(limit,))
    one, _ = await reserver.create(limited, wanted(site, 9_000), 300)
    await site.flush()
    with pytest.raises(LimitExceeded):
        await reserver.create(limited, wanted(site, 2_000), 300)
    await reserver.confirm(one, 5_000)
    other, _ = await reserver.create(limited, wanted(site, 5_000), 300)
    with pytest.raises(LimitExceeded):
        await reserver.create(limited, wanted(site, 1), 300)
    await reserver.cancel(other)


@pytest.mark.parametrize("verb", ["confirm", "cancel"])
async def test_it_can_be_ended_while_redis_has_nothing_of_it(site: Site, reserver: Reserver, verb: str) -> None:
    one = await made(site, reserver)
    await site.flush()
    await (reserver.confirm(one, 100) if verb == "confirm" else reserver.cancel(one))
    await site.warm()
    assert await site.held() == 0
    assert await site.holds() == {}


async def test_one_that_ends_while_it_is_being_rebuilt_is_not_put_back(
    site: Site, reserver: Reserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await made(site, reserver)
    await site.flush()
    read = site.book.snapshot
    ends = [one]

    async def then_end(*args: Any, **kwargs: Any) -> Any:
        snapshot = await read(*args, **kwargs)
        if ends:
            await reserver.cancel(ends.pop())
        return snapshot

    monkeypatch.setattr(site.book, "snapshot", then_end)
    await site.warm()
    assert await site.held() == 0


async def test_a_close_that_was_lost_with_the_tail_is_found_by_the_sweep(
    site: Site, reserver: Reserver, sweeper: Recovery
) -> None:
    """It came back with a deadline in a day: a rebuild makes it due now, and the book knows better."""
    one = await made(site, reserver, ttl_s=86_400)
    key = names.hold_keys(site.bucket, site.account_id)[2]
    hold = await site.pipe.command(("HGET", key, one.id), 5)
    await reserver.confirm(one, 100)
    await site.pipe.command(("HSET", key, one.id, hold), 5)
    due = names.hold_keys(site.bucket, site.account_id)[3]
    await site.pipe.command(("ZADD", due, 10**14, _member(one)), 5)
    await site.new_epoch()
    await site.warm()
    assert await site.held() == 600_000
    assert await sweeper.sweep() == 1
    assert await site.held() == 0


async def test_a_deadline_without_a_hold_goes(site: Site, reserver: Reserver, sweeper: Recovery) -> None:
    one = await made(site, reserver)
    gate, acct, holds, due = names.hold_keys(site.bucket, site.account_id)
    await site.pipe.command(("DEL", gate, acct, holds), 5)
    await site.expire()
    await twice(site, sweeper)
    assert await site.pipe.command(("ZSCORE", due, _member(one)), 5) is None
    assert hold_of(one).kind == "api"
