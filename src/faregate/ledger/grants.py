"""Credits that expire. Pure: a purse decides, `posting.py` writes.

An account's balance is its started grants' remainders plus the non-expiring pool, which is burnt last and may
be negative (debt). A grant that starts pays debt first, so debt and remainders never stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(slots=True, kw_only=True)
class Grant:
    """Microcredits with an end, a later start, or both. Started and without an end, they are plain balance."""

    id: str
    account_id: str
    amount: int
    remaining: int
    priority: int
    effective_us: int
    expires_us: int | None
    started: bool
    description: str | None
    created_us: int
    plan_id: str | None = None
    assignment_id: str | None = None
    period: int | None = None
    """Which of the plan's, from 0."""


@dataclass(frozen=True, slots=True)
class Due:
    """A moment in a grant's life that has come."""

    moment_us: int
    what: Literal["expiry", "start"]
    grant: Grant


@dataclass(frozen=True, slots=True)
class Move:
    """What an entry put into a grant (+) or took out of it (-)."""

    entry_id: str
    grant_id: str
    amount: int


class Purse:
    """One account's grants within one transaction."""

    def __init__(self, grants: Iterable[Grant]) -> None:
        self._grants = {grant.id: grant for grant in grants}
        self.moves: list[Move] = []

    def add(self, grant: Grant) -> None:
        self._grants[grant.id] = grant

    def __contains__(self, grant_id: str) -> bool:
        return grant_id in self._grants

    def withdraw(self) -> list[str]:
        """Take out what a plan has promised and not yet given; the grants' ids."""
        ids = [grant.id for grant in self._grants.values() if grant.plan_id is not None and not grant.started]
        for grant_id in ids:
            del self._grants[grant_id]
        return ids

    def changed(self) -> list[Grant]:
        """Grants that moved or started, in id order."""
        ids = {move.grant_id for move in self.moves}
        return [grant for _, grant in sorted(self._grants.items()) if grant.id in ids]

    def debt(self, posted: int) -> int:
        """How far the pool is below zero."""
        return max(0, sum(grant.remaining for grant in self._live()) - posted)

    def until_us(self) -> int | None:
        """The next moment a grant starts or ends; None: there is none any more."""
        return min((due.moment_us for due in self._moments()), default=None)

    def due(self, until_us: int) -> Due | None:
        """The first moment up to `until_us`: an end before a start, as the end came first."""
        moments = [due for due in self._moments() if due.moment_us <= until_us]
        return min(moments, key=lambda due: (due.moment_us, due.what, due.grant.id), default=None)

    def start(self, grant: Grant, entry_id: str, debt: int) -> None:
        """Its credits have arrived: debt is paid, the rest remains (in the pool, if it has no end)."""
        assert not grant.started
        grant.started = True
        kept = 0 if grant.expires_us is None else max(0, grant.amount - debt)
        self._move(entry_id, grant, kept - grant.remaining, recorded=kept)

    def expire(self, grant: Grant, entry_id: str) -> None:
        self._move(entry_id, grant, -grant.remaining)

    def burn(self, entry_id: str, microcredits: int) -> None:
        """By priority, then soonest end, then oldest; what is left over comes from the pool."""
        for grant in sorted(self._live(), key=_burn_order):
            taken = min(microcredits, grant.remaining)
            if taken:
                self._move(entry_id, grant, -taken)
                microcredits -= taken

    def give_back(
        self,
        entry_id: str,
        burnt: Sequence[tuple[str, int]],
        charged: int,
        back: int,
        *,
        posted: int,
        now_us: int,
    ) -> None:
        """Undo `back` of a charge, last burnt first: the pool (and debt), then its grants while valid."""
        back -= max(charged - sum(amount for _, amount in burnt), self.debt(posted))
        grants = [(self._grants[grant_id], amount) for grant_id, amount in burnt]
        for grant, amount in sorted(grants, key=lambda pair: _burn_order(pair[0]), reverse=True):
            returned = min(back, amount)
            if returned > 0:
                back -= returned
                if grant.expires_us is not None and grant.expires_us > now_us:
                    self._move(entry_id, grant, returned)

    def _live(self) -> list[Grant]:
        return [grant for grant in self._grants.values() if grant.started and grant.remaining]

    def _moments(self) -> list[Due]:
        starts = [Due(grant.effective_us, "start", grant) for grant in self._grants.values() if not grant.started]
        ends = [Due(grant.expires_us, "expiry", grant) for grant in self._live() if grant.expires_us is not None]
        return starts + ends

    def _move(self, entry_id: str, grant: Grant, delta: int, *, recorded: int | None = None) -> None:
        grant.remaining += delta
        self.moves.append(Move(entry_id, grant.id, delta if recorded is None else recorded))


def _burn_order(grant: Grant) -> tuple[int, int, str]:
    return grant.priority, grant.expires_us or 0, grant.id
