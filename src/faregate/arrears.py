"""While SQL is away: charges that have waited for a heartbeat share one hold per account.

So an outage does not grow the heartbeat with every call. Holds that were admitted by limit windows keep their own,
since a window's `held` must name them. Redis lists the records behind each arrears hold: should this process and its
disk be lost, too, a sweeper books them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from faregate.core.call import Hold, Snapshot
from faregate.core.codec import encode_record
from faregate.held import Held
from faregate.ports import Beat, Gate
from faregate.slices import in_slices

_FOLD_MOST = 2_000


@dataclass(slots=True, eq=False)
class _Account:
    """One hold, and the charges it stands for."""

    hold: Hold
    charges: dict[str, Held] = field(default_factory=dict)


class Arrears:
    """Of one process, by account. `name` is its boot's."""

    def __init__(self, gate: Gate, name: str, heartbeat_s: float) -> None:
        self._gate = gate
        self._name = name
        self._heartbeat_s = heartbeat_s
        self._accounts: dict[str, _Account] = {}
        self._swept = 0
        """How often a sweeper took some: what is folded later needs another name."""

    async def beat(self, live: Iterable[Held], now: float) -> None:
        """Keep the arrears alive (put back what Redis lost), and fold what has waited long enough."""
        await in_slices(list(self._accounts.values()), self._keep)
        waiting = [held for held in live if self._foldable(held, now)][:_FOLD_MOST]
        for held in waiting:
            # Named before it is sent: a commit that ends meanwhile must unfold, not settle.
            account = self._account_of(held)
            held.arrears = account.hold
            account.charges[held.hold.id] = held
        await in_slices(waiting, self._fold)

    async def _keep(self, account: _Account) -> None:
        beat = Beat(hold=account.hold, microcredits=None, progress_microcredits=0)
        lost = await self._gate.extend(beat) == "no_hold"
        await in_slices([held for held in account.charges.values() if lost or not held.folded], self._fold)

    async def unfold(self, held: Held, arrears: Hold, snapshot: Snapshot) -> None:
        """The book has it: `settle` for a folded charge."""
        await self._gate.unfold(held.hold, arrears, snapshot)
        self._forget(held, arrears)

    def _foldable(self, held: Held, now: float) -> bool:
        waited = held.state == "learned" and now - held.owed_at >= self._heartbeat_s
        return waited and held.arrears is None and not held.hold.limit_keys

    def _account_of(self, held: Held) -> _Account:
        account_id = held.hold.account_id
        if account_id not in self._accounts:
            name = f"arrears_{self._name}{f'.{self._swept}' if self._swept else ''}_{account_id}"
            self._accounts[account_id] = _Account(replace(held.hold, id=name, kind="arrears", microcredits=0))
        return self._accounts[account_id]

    async def _fold(self, held: Held) -> None:
        arrears = held.arrears
        if held.state != "learned" or held.owed is None or arrears is None:
            return
        owed = encode_record(replace(held.owed, card=None, lines=(), raw_usage=None))
        answer = await self._gate.fold(held.hold, arrears, held.owed.charge_microcredits, owed)
        held.folded = answer == "ok"
        if answer == "swept":
            # A sweeper has begun to close the arrears (or the hold itself): this charge goes its own way again.
            self._swept += 1
            held.arrears = None
            self._forget(held, arrears)
            self._accounts.pop(arrears.account_id, None)

    def _forget(self, held: Held, arrears: Hold) -> None:
        account = self._accounts.get(arrears.account_id)
        if account is None or account.hold.id != arrears.id:
            return
        account.charges.pop(held.hold.id, None)
        if not account.charges:
            del self._accounts[arrears.account_id]
