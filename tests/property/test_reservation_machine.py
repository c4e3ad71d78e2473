"""One account's whole life on real stores: grants that end, deductions, calls, reservations, losses, sweeps.

Hypothesis chooses the order, what is lost on the way, and when Redis forgets. Beside it stands a model that knows
only what each request was answered. Time passes by moving every stored moment back: both stores keep their clocks.

Kept at every step: the balance is the sum of its entries (the whole audit, in fact), each hold is charged what it was
answered and once, Redis holds at least what is open, and nothing is admitted that the book does not cover.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from sqlalchemy import Connection, text

from faregate import reservations as reservations_module
from faregate.core.call import Hold, Record, Reservation
from faregate.core.codec import encode_record
from faregate.core.reservation import new_reservation_id
from faregate.credits import names
from faregate.errors import Conflict, FaregateError, InsufficientCredits, ReservationExpired, StoreUnavailable
from faregate.ledger import book as ledger_book
from faregate.ledger import reservations as ledger_reservations
from faregate.ledger.audit import findings
from faregate.ledger.reservations import Reservations
from faregate.ports import Ask, Beat, SweptHold
from faregate.recovery import Recovery
from faregate.reservations import Reserver
from tests import parts
from tests.parts import HEARTBEAT_S, Fault, Site

UNIT_S = 1_000
"""Time passes in steps far greater than a run takes."""
AMOUNTS = st.sampled_from([1, 7, 30, 60, 100])
TTLS = st.sampled_from([1, 2, 5, 40, 80])
FAULTS = st.sampled_from(
    [None, None, None, *((s, f) for s in ("reserve", "extend", "settle", "release") for f in ("refuse", "lose"))]
)


@dataclass
class Kept:
    """What the model knows of a reservation."""

    row: Reservation
    until: int
    state: str = "pending"
    actual: int = 0


@dataclass
class Life:
    """What was answered."""

    now: int = 0
    added: int = 1_000_000
    kept: list[Kept] = field(default_factory=list)
    calls: dict[str, tuple[Hold, Record]] = field(default_factory=dict)
    """Open ones, whose owner lives."""
    ended: list[Hold] = field(default_factory=list)
    charged: dict[str, int] = field(default_factory=dict)

    def pass_units(self, units: int) -> None:
        self.now += units
        for one in self.kept:
            if one.state == "pending" and one.until <= self.now:
                one.state = "expired"

    @property
    def open(self) -> dict[str, int]:
        mine = {one.row.id: one.row.microcredits for one in self.kept if one.state == "pending"}
        return mine | {hold.id: hold.microcredits for hold, _ in self.calls.values()}


class ReservationMachine(RuleBasedStateMachine):
    """Each rule is one request, one loss, or some time."""

    running: tuple[Path, Path]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory(prefix="fg")
        self.opened = parts.site(self.running, Path(self.folder.name))
        self.site: Site = self.run(self.opened.__aenter__())
        self.rows = Reservations(self.site.database)
        self.reserver = Reserver(
            gate=self.site.gate,
            book=self.site.book,
            rows=self.rows,
            clock=self.site.clock,
            events=self.site.seen,
            heartbeat_s=HEARTBEAT_S,
        )
        self.sweeper = Recovery(
            gate=self.site.gate,
            book=self.site.book,
            clock=self.site.clock,
            events=self.site.seen,
            find=lambda: iter(()),
            name="sweeper",
            reservations=self.reserver,
            heartbeat_s=HEARTBEAT_S,
        )
        self.life = Life()
        self.saved: dict[bytes, bytes] | None = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def asked(self, fault: tuple[str, Fault] | None, work: Coroutine[Any, Any, Any]) -> Any:
        """With one fault at most, on the way."""
        self.site.pipe.faults.clear()
        if fault is not None:
            self.site.fail(*fault)
        try:
            return self.run(work)
        finally:
            self.site.pipe.faults.clear()

    # Few rules, each of many things: Hypothesis leaves rules out of a run, and every run should have all of these.

    @rule(what=st.sampled_from("gdcff"), amount=AMOUNTS, at=st.integers(0, 99), units=st.sampled_from([None, 1, 3]))
    def credits(self, what: str, amount: int, at: int, units: int | None) -> None:
        """A grant, a deduction, a call begins, a call ends."""
        if what == "g":
            self._grant(amount, units, told=bool(at % 3))
        elif what == "d":
            self._deduct(amount)
        elif what == "c":
            self._make_call(amount)
        elif self.life.calls:
            self._finish_call(at, (0, 1, 7, 30)[at % 4])

    @precondition(lambda self: self.life.kept)
    @rule(
        verb=st.sampled_from(["confirm", "confirm twice", "cancel", "cancel and confirm", "extend"]),
        at=st.integers(0, 99),
        actual=st.sampled_from([0, 1, 30, 90]),
        units=TTLS,
        fault=FAULTS,
    )
    def change(self, verb: str, at: int, actual: int, units: int, fault: tuple[str, Fault] | None) -> None:
        """Something is asked of a reservation, in whatever state it is."""
        if verb == "extend":
            self._extend(at, units, fault)
        elif verb.startswith("cancel"):
            self._cancel(at, verb.removeprefix("cancel"), fault)
        else:
            self._confirm(at, actual, verb == "confirm twice", fault)

    @rule(what=st.sampled_from(["time", "time and sweep", "sweep", "an owner dies"]), units=st.integers(1, 3))
    def later(self, what: str, units: int) -> None:
        if what == "an owner dies" and self.life.calls:
            self._owner_dies(units)
        elif what == "sweep":
            self._sweep()
        else:
            self._time_passes(units, what != "time")

    # Credits

    @initialize()
    def start_small(self) -> None:
        """The site's million is taken away but for 400; the gate knows the account."""
        self.run(self.site.calm())
        self._call(1_000_000 - 400)
        self._settle(next(iter(self.life.calls)), 1_000_000 - 400)

    def _grant(self, amount: int, units: int | None, told: bool) -> None:
        site = self.site
        ends = None if units is None else site.clock.now_us() + units * UNIT_S * 1_000_000
        _, snapshot = self.run(site.book.add_credits(site.account_id, amount, expires_us=ends))
        self.life.added += amount
        if told:
            self.run(site.gate.settle(None, snapshot, site.bucket))

    def _deduct(self, amount: int) -> None:
        if self._call(amount, endpoint="credits.deduct"):
            self._settle(list(self.life.calls)[-1], amount)

    # Calls, as the proxy makes them

    def _make_call(self, amount: int) -> None:
        self._call(amount)

    def _call(self, amount: int, endpoint: str = "chat.completions") -> bool:
        hold_id = f"call_{len(self.life.charged)}_{len(self.life.calls)}_{len(self.life.ended)}"
        intent = self.site.intent(hold_id, amount, endpoint=endpoint)
        ask = self.site.ask(hold_id, amount, progress_microcredits=amount, meta=encode_record(intent))
        try:
            hold = self.run(self.site.gate.reserve(ask))
        except InsufficientCredits:
            return False
        self.life.calls[hold_id] = (hold, intent)
        self._check_g1()
        return True

    def _finish_call(self, at: int, actual: int) -> None:
        hold_id = list(self.life.calls)[at % len(self.life.calls)]
        hold, _ = self.life.calls[hold_id]
        if actual:
            self._settle(hold_id, min(actual, hold.microcredits))
        else:
            assert self.run(self.site.gate.release(hold)) == "ok"
            self._over(hold_id, 0)

    def _settle(self, hold_id: str, actual: int) -> None:
        hold, intent = self.life.calls[hold_id]
        committed = self.run(self.site.book.commit(replace(intent, charge_microcredits=actual)))
        self.run(self.site.gate.settle(hold, committed.snapshot, hold.bucket))
        self._over(hold_id, actual)

    def _over(self, hold_id: str, actual: int) -> None:
        self.life.ended.append(self.life.calls.pop(hold_id)[0])
        self.life.charged[hold_id] = actual

    def _owner_dies(self, at: int) -> None:
        """With its disk: the sweeper books what it delivered, which is all of it."""
        hold_id = list(self.life.calls)[at % len(self.life.calls)]
        hold, _ = self.life.calls[hold_id]
        self._warp(1)
        self._over(hold_id, hold.microcredits)
        self._beat()
        self._sweep()

    # Reservations

    @rule(amount=AMOUNTS, units=TTLS, fault=FAULTS)
    def reserve(self, amount: int, units: int, fault: tuple[str, Fault] | None) -> None:
        site = self.site
        wanted = Reservation(
            id=new_reservation_id(),
            organization_id=site.organization_id,
            account_id=site.account_id,
            microcredits=amount,
            expires_us=0,
            created_us=site.clock.now_us(),
            updated_us=0,
        )
        try:
            made, new = self.asked(fault, self.reserver.create(site.principal, wanted, units * UNIT_S))
        except (InsufficientCredits, StoreUnavailable):
            assert wanted.id not in self.run(self.rows.look([wanted.id]))
            return
        assert new
        self.life.kept.append(Kept(made, self.life.now + units))
        self._check_g1()

    def _confirm(self, at: int, actual: int, twice: bool, fault: tuple[str, Fault] | None) -> None:
        one = self.life.kept[at % len(self.life.kept)]
        row = self._row(one)
        works = [self.reserver.confirm(row, actual + n) for n in range(1 + twice)]
        done = self.asked(fault, _all(works))
        good = [each for each in done if not isinstance(each, BaseException)]
        if one.state == "pending" and good:
            one.state, one.actual = "settled", good[0].reservation.actual
            self.life.charged[row.id] = one.actual
            assert sum(each.new for each in good) == 1
        elif one.state in ("released", "expired"):
            assert all(isinstance(each, ReservationExpired | StoreUnavailable) for each in done)
        assert all(each.reservation.actual == one.actual for each in good)

    def _cancel(self, at: int, rival: str, fault: tuple[str, Fault] | None) -> None:
        one = self.life.kept[at % len(self.life.kept)]
        row = self._row(one)
        works: list[Coroutine[Any, Any, Any]] = [self.reserver.cancel(row)]
        if rival:
            works.append(self.reserver.confirm(row, 5))
        cancelled, *confirmed = self.asked(fault, _all(works))
        if one.state != "pending":
            allowed = {"released": Reservation, "settled": Conflict, "expired": ReservationExpired}[one.state]
            assert isinstance(cancelled, allowed | StoreUnavailable)
        elif isinstance(cancelled, Reservation):
            one.state = "released"
            assert all(isinstance(each, ReservationExpired | StoreUnavailable) for each in confirmed)
        elif confirmed and not isinstance(confirmed[0], BaseException):
            one.state, one.actual = "settled", 5
            self.life.charged[row.id] = 5

    def _extend(self, at: int, units: int, fault: tuple[str, Fault] | None) -> None:
        one = self.life.kept[at % len(self.life.kept)]
        try:
            self.asked(fault, self.reserver.extend(self._row(one), units * UNIT_S))
        except StoreUnavailable:
            return
        except Conflict:
            assert one.state != "pending"
            return
        assert one.state == "pending"
        one.until = max(one.until, self.life.now + units)

    def _row(self, one: Kept) -> Reservation:
        """As a request reads it."""
        row: Reservation = self.run(self.rows.look([one.row.id]))[one.row.id]
        state = row.state_at(self.site.clock.now_us())
        assert state == one.state
        return replace(row, state=state)

    # Time and sweeps

    def _time_passes(self, units: int, swept: bool) -> None:
        self._warp(units)
        self._beat()
        if swept:
            self._sweep()

    def _warp(self, units: int) -> None:
        self.saved = None
        self.life.pass_units(units)
        self.run(self.site.database.write(_warp_book, units * UNIT_S * 1_000_000))
        self.run(self._warp_gate(units * UNIT_S * 1_000))

    async def _warp_gate(self, by_ms: int) -> None:
        site = self.site
        _, acct, _, due = names.hold_keys(site.bucket, site.account_id)
        flat = await site.pipe.command(("ZRANGE", due, 0, -1, "WITHSCORES"), 5)
        for member, score in zip(flat[::2], flat[1::2], strict=True):
            await site.pipe.command(("ZADD", due, int(float(score)) - by_ms, member), 5)
        fresh = int(await site.pipe.command(("HGET", acct, "fresh_until"), 5) or 0)
        if fresh:
            await site.pipe.command(("HSET", acct, "fresh_until", fresh - by_ms), 5)

    def _beat(self) -> None:
        """Owners beat, and put back what was lost."""
        held = [
            SweptHold(hold=h, progress_microcredits=h.microcredits, meta=encode_record(r))
            for h, r in self.life.calls.values()
        ]
        self.run(self.site.gate.reassert(held))
        for one in held:
            beat = Beat(hold=one.hold, microcredits=None, progress_microcredits=one.hold.microcredits)
            assert self.run(self.site.gate.extend(beat)) == "ok"

    def _sweep(self) -> None:
        for _ in range(2):
            self.run(self.sweeper.expire())
            self.run(self.sweeper.sweep())
            self.site.clock.pass_s(HEARTBEAT_S)

    # Losses

    @rule(how=st.sampled_from(["wipe", "fail over", "save", "tail"]), next_call=st.sampled_from([0, 1, 7]))
    def lose(self, how: str, next_call: int) -> None:
        if how == "save":
            self._save()
            return
        if how == "wipe":
            self.run(self.site.flush())
        elif how == "fail over":
            self.run(self.site.new_epoch())
        elif how == "tail" and self.saved is not None:
            self.run(self._restore(self.saved))
        self._beat()
        if how == "tail":
            for hold in self.life.ended:  # An owner says its closes again.
                with suppress(StoreUnavailable):
                    self.run(self.site.gate.settle(hold, self._snapshot(), hold.bucket))
        if next_call:
            self._call(next_call)

    def _save(self) -> None:
        """The log is on disk up to here."""
        self.saved = self.run(self._dump())

    async def _dump(self) -> dict[bytes, bytes]:
        keys = await self.site.pipe.command(("KEYS", "fg:*"), 5)
        return {key: await self.site.pipe.command(("DUMP", key), 5) for key in keys}

    async def _restore(self, data: dict[bytes, bytes]) -> None:
        await self.site.pipe.command(("FLUSHALL",), 5)
        for key, value in data.items():
            await self.site.pipe.command(("RESTORE", key, 0, value), 5)
        await self.site.new_epoch()

    # What is true

    def _snapshot(self) -> Any:
        return self.run(self.site.book.apply_due_grants(self.site.account_id))

    def _check_g1(self) -> None:
        assert self._snapshot().posted >= sum(self.life.open.values()), "more was admitted than the book covers"

    @invariant()
    def the_book_adds_up(self) -> None:
        assert self.run(self.site.database.read(lambda conn: list(findings(conn)))) == []
        expired = self._expired()
        charges, rest = self.run(self.site.database.read(_charges))
        assert charges == {hold: amount for hold, amount in self.life.charged.items() if amount or hold in charges}
        assert rest == self.life.added - expired
        assert self.run(self.site.posted()) == self.life.added - expired - sum(self.life.charged.values())

    def _expired(self) -> int:
        sql = text("SELECT coalesce(sum(-amount), 0) FROM entries WHERE reason = 'expiry'")
        self._snapshot()
        return int(self.run(self.site.database.read(lambda conn: conn.execute(sql).scalar_one())))

    @invariant()
    def redis_holds_what_is_open(self) -> None:
        site = self.site
        account = self.run(site.gate.account(site.bucket, site.account_id))
        if account.get("epoch") != self.run(site.gate.epoch(site.bucket)):
            return  # Cold: the next reserve rebuilds it.
        holds = self.run(site.holds())
        assert int(account["held"]) == sum(holds.values())
        missing = {hold: amount for hold, amount in self.life.open.items() if holds.get(hold, -1) < amount}
        assert missing == {}, "an open hold is not counted"

    def teardown(self) -> None:
        try:
            for hold_id in list(self.life.calls):
                self._settle(hold_id, 0)
            self._warp(100)
            self._sweep()
            self._sweep()
            self.run(self._at_rest())
            self.the_book_adds_up()
        finally:
            self.run(self.opened.__aexit__(None, None, None))
            self.runner.close()
            self.folder.cleanup()

    async def _at_rest(self) -> None:
        site = self.site
        assert await site.holds() == {}
        assert await self.rows.pending(site.account_id) == ()
        account = await site.gate.account(site.bucket, site.account_id)
        assert int(account.get("held", 0)) == 0 or account.get("epoch") != await site.gate.epoch(site.bucket)


def _warp_book(conn: Connection, by_us: int) -> None:
    conn.execute(
        text("UPDATE grants SET effective_us = effective_us - :by, expires_us = expires_us - :by"), {"by": by_us}
    )
    conn.execute(text("UPDATE accounts SET grants_until_us = grants_until_us - :by"), {"by": by_us})
    conn.execute(text("UPDATE reservations SET expires_us = expires_us - :by"), {"by": by_us})


def _charges(conn: Connection) -> tuple[dict[str, int], int]:
    """What each hold has been charged, and the sum of everything else but expiry."""
    sql = (
        "SELECT coalesce(e.hold_id, u.hold_id), sum(-e.amount) FROM entries e"
        " LEFT JOIN usage_records u ON u.id = e.usage_id"
        " WHERE e.hold_id IS NOT NULL OR e.usage_id IS NOT NULL GROUP BY 1"
    )
    charges = {row[0]: int(row[1]) for row in conn.execute(text(sql))}
    rest = conn.execute(text("SELECT sum(amount) FROM entries WHERE hold_id IS NULL AND usage_id IS NULL")).scalar_one()
    return charges, int(rest)


async def _all(works: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """At once; what is refused stands in its place."""
    done = await asyncio.gather(*works, return_exceptions=True)
    for each in done:
        if isinstance(each, BaseException) and not isinstance(each, Conflict | StoreUnavailable):
            raise each
    return list(done)


@pytest.fixture(scope="module")
def stores() -> Iterator[tuple[Path, Path]]:
    with parts.stores() as stores:
        yield stores


def explore(stores: tuple[Path, Path], *phases: Phase, examples: int, derandomize: bool = False) -> None:
    ReservationMachine.running = stores
    run_machine(
        ReservationMachine,
        settings=settings(
            max_examples=examples,
            derandomize=derandomize,
            database=None,
            stateful_step_count=25,
            deadline=None,
            phases=phases,
            print_blob=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


def test_no_order_of_things_loses_or_doubles_a_credit(stores: tuple[Path, Path]) -> None:
    explore(stores, *Phase, examples=40)


async def _done(*_: object) -> str:
    return "ok"


def _all_pending(conn: Connection, reservation_id: str, now_us: int) -> Reservation:
    return replace(LOCKED(conn, reservation_id, now_us), state="pending")


LOCKED = ledger_reservations._locked
BROKEN: dict[str, tuple[object, str, object]] = {
    "a rebuild forgets them": (ledger_book, "read_pending", lambda *_: ()),
    "nothing is checked": (reservations_module, "Ask", partial(Ask, forced=True)),
    "the sweep does not ask the book": (Reserver, "_sweep", lambda self, due, _: self._drop_unknown(due)),
    "a hold outlives what has ended": (Reserver, "_release", _done),
    "what has ended is charged": (ledger_reservations, "_locked", _all_pending),
    "nobody expires them": (Reserver, "expire", _done),
    "a deadline is no end": (Reservation, "state_at", lambda self, _: self.state),
    "the book is not written first": (Reserver, "_write", lambda self, wanted: _pair(wanted)),
}
"""What is replaced by something worse: each must be noticed."""


async def _pair(wanted: Reservation) -> tuple[Reservation, bool]:
    return wanted, True


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_found(name: str, stores: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*BROKEN[name])
    with pytest.raises((AssertionError, ExceptionGroup, KeyError, FaregateError)):
        explore(stores, Phase.generate, examples=60, derandomize=True)
