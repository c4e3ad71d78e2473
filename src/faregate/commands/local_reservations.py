"""Reservations on the data directory: the same mechanism as a server's, beside it. Changes need Redis to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faregate.clock import SystemClock
from faregate.commands.shapes import reservation_json
from faregate.commands.shared import moment_text
from faregate.core.call import Principal, Record, Reservation
from faregate.core.money import credits, parse_credits
from faregate.core.reservation import new_reservation_id
from faregate.credits.gate import RedisGate
from faregate.errors import Conflict, StoreUnavailable
from faregate.ledger.accounts import Account
from faregate.ledger.queries import Ledger
from faregate.ledger.reservations import ReservationFilter
from faregate.reservations import Reserver

_PAGE = 500


class _Quiet:
    """`ports.Events` of a command: it has no metrics."""

    def call_ended(self, record: Record, duration_s: float) -> None: ...
    def call_refused(self, code: str) -> None: ...
    def overrun(self, microcredits: int) -> None: ...
    def trouble(self, what: str, detail: str) -> None: ...


@dataclass(frozen=True, slots=True)
class LocalReservations:
    """What `local.LocalDesk` does with them. `gate` None: Redis does not answer."""

    ledger: Ledger
    gate: RedisGate | None
    heartbeat_s: float

    async def create(self, account: Account, body: Mapping[str, Any]) -> Any:
        reserver, own_id = self._reserver(), body["reservationId"]
        wanted = Reservation(
            id=new_reservation_id(),
            organization_id=account.organization_id,
            account_id=account.id,
            caller_id=own_id,
            microcredits=parse_credits(body["amount"], "amount"),
            operation=body["operation"],
            model=body["model"],
            expires_us=0,
            created_us=SystemClock().now_us(),
            updated_us=0,
        )
        made = None
        if own_id is not None:
            made = await self.ledger.reservations.by_caller(account.organization_id, own_id)
        if made is None:
            made, _ = await reserver.create(_nobody(account), wanted, body["ttlSeconds"])
        if (made.account_id, made.microcredits) != (wanted.account_id, wanted.microcredits):
            raise Conflict("this id stands for a reservation of another account or amount")
        return reservation_json(made)

    async def list(self, organization_id: str, account: Account | None, *, active_only: bool) -> Sequence[Any]:
        wanted = ReservationFilter(
            organization_id=organization_id,
            account_id=None if account is None else account.id,
            active_only=active_only,
        )
        found: list[Reservation] = []
        while True:
            page = await self.ledger.reservations.list(wanted, limit=_PAGE, offset=len(found))
            found += page.items
            if not page.has_more:
                return [reservation_json(one) for one in found]

    async def end(self, organization_id: str, verb: str, body: Mapping[str, Any]) -> Any:
        reserver, named = self._reserver(), str(body["reservationId"])
        one = await self.ledger.reservations.find(organization_id, named)
        if verb == "confirm":
            return await self._confirm(reserver, one, parse_credits(body["actualAmount"], "actualAmount", minimum=0))
        if verb == "cancel":
            one = await reserver.cancel(one)
        else:
            one = await reserver.extend(one, body["ttlSeconds"])
        return {"reservationId": named, "status": one.state, "expiresAt": moment_text(one.expires_us)}

    async def _confirm(self, reserver: Reserver, one: Reservation, actual: int) -> Any:
        done = await reserver.confirm(one, actual)
        charged, entry = done.reservation.actual or 0, done.entry
        return {
            "reservationId": one.id,
            "transactionId": entry and entry.id,
            "accountId": one.account_id,
            "amount": credits(charged),
            "released": credits(max(0, one.microcredits - charged)),
            "balance": entry and credits(entry.balance_after),
            "status": done.reservation.state,
        }

    def _reserver(self) -> Reserver:
        if self.gate is None:
            raise StoreUnavailable("Redis does not answer: start faregate serve, or name a server with --url")
        return Reserver(
            gate=self.gate,
            book=self.ledger.book,
            rows=self.ledger.reservations,
            clock=SystemClock(),
            events=_Quiet(),
            heartbeat_s=self.heartbeat_s,
        )


def _nobody(account: Account) -> Principal:
    """The operator: no key, no limits."""
    return Principal(
        key_id="",
        rev=0,
        organization_id=account.organization_id,
        account_id=None,
        default_account_id=account.id,
        scopes=frozenset(),
    )
