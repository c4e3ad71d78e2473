"""Grants beside a plain-Python model: burnt in order, over at their moment; every past balance can be recomputed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection
from tests.ledger.conftest import Now
from tests.postgres import Cluster

from faregate.core.call import Record
from faregate.ledger.audit import findings
from faregate.ledger.queries import Ledger
from faregate.ledger.schema import prepare


@dataclass
class Given:
    """A grant of the model. `order` is how old it is."""

    order: int
    priority: int
    starts: int
    ends: int | None
    left: int
    started: bool = False


@dataclass
class Model:
    """What an account has: grants that end, and a pool that may be negative."""

    pool: int = 0
    grants: list[Given] = field(default_factory=list)
    moves: list[tuple[int, int]] = field(default_factory=list)
    """(moment, amount) of everything that changed the balance."""

    @property
    def balance(self) -> int:
        return self.pool + sum(grant.left for grant in self.grants if grant.started)

    def due(self, now: int) -> None:
        """Starts and ends up to a moment, in their order; an end before a start."""
        moments = [(g.starts, 1, g) for g in self.grants if not g.started]
        moments += [(g.ends, 0, g) for g in self.grants if g.started and g.left and g.ends is not None]
        first = min((m for m in moments if m[0] <= now), key=lambda m: (m[0], m[1], m[2].order), default=None)
        if first is None:
            return
        before = self.balance
        if first[1]:
            self._start(first[2])
        else:
            first[2].left = 0
        self.moves.append((first[0], self.balance - before))
        self.due(now)

    def _start(self, grant: Given) -> None:
        grant.started = True
        debt = max(0, -self.pool)
        paid = grant.left if grant.ends is None else min(debt, grant.left)
        self.pool, grant.left = self.pool + paid, grant.left - paid

    def charge(self, amount: int, at: int, now: int) -> None:
        self.due(at)
        self.moves.append((now, -amount))
        live = [grant for grant in self.grants if grant.started and grant.left]
        for grant in sorted(live, key=lambda g: (g.priority, g.ends or 0, g.order)):
            taken = min(amount, grant.left)
            grant.left, amount = grant.left - taken, amount - taken
        self.pool -= amount


@dataclass(frozen=True)
class Do:
    """After `wait` hours: credits that come (`hours` until they end, `later` until they start), or a charge. `look`:
    somebody does afterwards, so that what is due is booked then."""

    wait: int
    amount: int
    give: bool
    hours: int | None
    later: int
    priority: int
    look: bool


DOINGS = st.lists(
    st.builds(
        Do,
        wait=st.integers(0, 3),
        amount=st.integers(1, 20),
        give=st.booleans(),
        hours=st.sampled_from([None, 3, 5, 6, 7, 8, 8]),
        later=st.sampled_from([0, 0, 2]),
        priority=st.sampled_from([0, 0, 0, 1]),
        look=st.booleans(),
    ),
    min_size=1,
    max_size=16,
)
HOUR = 3_600_000_000


@contextmanager
def _file() -> Iterator[str]:
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/book.db"
        prepare(url)
        yield url


@given(DOINGS)
@settings(max_examples=40, deadline=None)
def test_grants_do_what_the_model_does(doings: list[Do]) -> None:
    with _file() as url:
        asyncio.run(_compare(url, doings))


@given(doings=DOINGS)
@settings(max_examples=10, deadline=None)
def test_grants_on_postgres_do_what_the_model_does(cluster: Cluster, doings: list[Do]) -> None:
    with cluster.database() as url:
        asyncio.run(_compare(url, doings))


async def _compare(url: str, doings: list[Do]) -> None:
    now = Now()
    ledger = Ledger(url, now_us=now)
    try:
        account_id = (await ledger.organizations.create(name="Acme")).default_account_id
        organization_id = (await ledger.organizations.list(limit=1))[0].id
        model = Model()
        for place, doing in enumerate(doings):
            late = now.us
            now.us += doing.wait * HOUR
            if doing.give:
                await _give(ledger, model, account_id, doing, now.us, place)
            else:  # admitted before the wait, booked after it
                await ledger.book.commit(_record(organization_id, account_id, place, doing.amount, late))
                model.charge(doing.amount, late, now.us)
            if doing.look:
                model.due(now.us)
                assert (await ledger.book.snapshot(account_id, (), gate=False)).posted == model.balance
        model.due(now.us)
        for moment in {moved + more for moved, _ in model.moves for more in (-1, 0, HOUR // 2)} | {now.us}:
            expected = sum(amount for moved, amount in model.moves if moved <= min(moment, now.us))
            assert await ledger.book.balance_at(account_id, min(moment, now.us)) == expected
        left = [grant.left for grant in model.grants if grant.ends is not None]
        assert await ledger.database.read(_remaining) == left
        assert await ledger.database.read(lambda conn: list(findings(conn))) == []
    finally:
        await ledger.close()


async def _give(ledger: Ledger, model: Model, account_id: str, doing: Do, now_us: int, order: int) -> None:
    model.due(now_us)
    starts = now_us + doing.later * HOUR
    ends = None if doing.hours is None else starts + doing.hours * HOUR
    given = Given(order, doing.priority, starts, ends, doing.amount)
    if doing.later:
        await ledger.book.schedule_grant(
            account_id, doing.amount, effective_us=starts, expires_us=ends, priority=doing.priority
        )
    else:
        await ledger.book.add_credits(account_id, doing.amount, expires_us=ends, priority=doing.priority)
    model.grants.append(given)
    if not doing.later:
        model.due(now_us)


def _record(organization_id: str, account_id: str, place: int, charge: int, at_us: int) -> Record:
    return Record(
        hold_id=f"hold_{place}",
        hold_kind="call",
        kind="actual",
        organization_id=organization_id,
        account_id=account_id,
        key_id=None,
        request_id=f"req_{place}",
        occurred_at_us=at_us,
        charge_microcredits=charge,
        cost_usd=Decimal(0),
        provider="p",
        model="m",
    )


def _remaining(conn: Connection) -> list[int]:
    rows = conn.exec_driver_sql("SELECT remaining FROM grants WHERE expires_us IS NOT NULL ORDER BY id")
    return [row[0] for row in rows]
