"""Credits in and out. In: the book, then Redis. Out: a hold first, as every debit, then the book, then Redis.

A deduction with an Idempotency-Key has a hold id that derives from the key, so that a repeat meets its own hold or its
own entry: it answers with that entry and charges nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, TypeVar

from faregate.api.auth import require_any, require_live
from faregate.api.http import Request, encode
from faregate.api.services import Services
from faregate.auth.scopes import Scope
from faregate.core.call import Committed, Principal, Record, Snapshot, bucket_of
from faregate.core.codec import encode_record
from faregate.core.ids import uuid7_hex
from faregate.errors import (
    BookUnavailable,
    Conflict,
    InsufficientCredits,
    InvalidApiKey,
    LimitExceeded,
    StoreUnavailable,
)
from faregate.held import Held
from faregate.ledger.accounts import Account
from faregate.ledger.claims import mismatch
from faregate.ledger.posting import Entry
from faregate.ports import Ask, KeyChanged

T = TypeVar("T")

SCOPES: tuple[Scope, ...] = ("credits:write",)
_BOOK_PATIENCE_S = 10.0


# In -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposit:
    """What is to be added, and what its entry will say."""

    account: Account
    microcredits: int
    description: str | None = None
    payment_method: str | None = None
    expires_us: int | None = None
    metadata: Mapping[str, object] | None = None


async def add(services: Services, request: Request, deposit: Deposit) -> Entry:
    """Credits come in: their entry. A lost settle heals: `insufficient` is only answered after the book was read."""
    require_live(request.principal)
    entry, snapshot = await services.ledger.book.add_credits(
        deposit.account.id,
        deposit.microcredits,
        description=deposit.description,
        payment_method=deposit.payment_method,
        expires_us=deposit.expires_us,
        metadata=deposit.metadata,
    )
    await told(services, deposit.account, snapshot)
    return entry


async def told(services: Services, account: Account, snapshot: Snapshot) -> None:
    """Tell Redis what the book says of an account now; it hears it later if it is away."""
    with suppress(StoreUnavailable):
        await services.gate.settle(None, snapshot, bucket_of(account.organization_id))


# Out ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Debit:
    """What is to be taken, and what its entry will say. `endpoint` is one of commit.DIRECT_ENDPOINTS."""

    account: Account
    microcredits: int
    endpoint: str
    description: str | None
    metadata: Mapping[str, Any]

    def made(self, entry: Entry) -> bool:
        """Is this the entry it leads to?"""
        mine = (self.account.id, -self.microcredits, self.description, encode(dict(self.metadata)))
        return mine == (entry.account_id, entry.amount, entry.description, encode(dict(entry.metadata or {})))


async def deduct(services: Services, request: Request, debit: Debit) -> tuple[Entry, bool]:
    """The entry of a deduction, and whether it is a replay.

    Raises InsufficientCredits, LimitExceeded, IdempotencyMismatch, StoreUnavailable.
    """
    require_live(request.principal)
    name = await services.ledger.idempotency.claim()
    if name is None:
        return await _deduct(services, request, debit, f"api_{uuid7_hex()}", keyed=False)
    return await _deduct(services, request, debit, f"api_{name}", keyed=True)


async def _deduct(
    services: Services, request: Request, debit: Debit, hold_id: str, *, keyed: bool
) -> tuple[Entry, bool]:
    intent = _intent(services, request, debit, hold_id)
    try:
        held = await take_exactly(services, request, intent, SCOPES)
    except (InsufficientCredits, LimitExceeded, Conflict):
        organization_id = debit.account.organization_id
        earlier = await services.ledger.transactions.by_hold(organization_id, hold_id) if keyed else None
        if earlier is None:
            raise
        return _replayed(debit, earlier), True
    if held.hold.microcredits != debit.microcredits:  # met the open hold of the same key with another amount
        if held.hold.duplicate:
            services.owner.forget(held)  # Its request runs, in another worker perhaps.
        else:
            await services.owner.release(held)
        raise mismatch()
    await services.owner.forward(held)
    committed = await settle_exactly(services, held)
    entry = await services.ledger.transactions.get(debit.account.organization_id, committed.usage_id)
    if committed.new or not keyed:
        return entry, False
    return _replayed(debit, entry), True


async def take_exactly(services: Services, request: Request, intent: Record, scopes: Sequence[Scope]) -> Held:
    """A hold of exactly what is to be charged: all or nothing. Raises what the gate raises, and InvalidApiKey."""

    def take(principal: Principal) -> Awaitable[Held]:
        return services.owner.take(_ask(principal, intent), intent)

    return await with_current_key(services, request, intent.organization_id, scopes, take)


async def with_current_key(
    services: Services,
    request: Request,
    organization_id: str,
    scopes: Sequence[Scope],
    act: Callable[[Principal], Awaitable[T]],
) -> T:
    """Do what takes a hold, with the key as it is now: the gate compares its rev. Raises InvalidApiKey."""
    principal = request.principal
    if principal.organization_id != organization_id:
        principal = _acting_for(await services.keys.refresh(principal), organization_id)
    for _ in range(3):
        try:
            return await act(principal)
        except KeyChanged:
            principal = await services.keys.refresh(request.principal)
            require_any(principal, scopes)
    raise InvalidApiKey("this API key is being changed, try again")


def _acting_for(principal: Principal, organization_id: str) -> Principal:
    """The bootstrap key in another organization: its rev lives in its own bucket and has just been checked."""
    return replace(principal, organization_id=organization_id, key_id="", limits=())


async def settle_exactly(services: Services, held: Held) -> Committed:
    """Book what was held for. When SQL is slow the journal vouches for it, and we wait some more for the entry's id."""
    record = held.intent
    committed = await services.owner.settle(held, record)
    if committed is not None:
        return committed
    try:
        async with asyncio.timeout(_BOOK_PATIENCE_S):
            return await services.ledger.book.commit(record)
    except (TimeoutError, BookUnavailable):
        raise BookUnavailable(
            "the deduction is taken and will be booked when the database is back; repeat it with the same "
            "Idempotency-Key only",
            retry_after_s=5,
        ) from None


def _intent(services: Services, request: Request, debit: Debit, hold_id: str) -> Record:
    principal = request.principal
    return Record(
        hold_id=hold_id,
        hold_kind="api",
        kind="actual",
        organization_id=debit.account.organization_id,
        account_id=debit.account.id,
        key_id=principal.key_id,
        request_id=request.request_id,
        occurred_at_us=services.clock.now_us(),
        charge_microcredits=debit.microcredits,
        cost_usd=Decimal(0),
        endpoint=debit.endpoint,
        credits_per_usd=principal.credits_per_usd,
        attribution={f"metadata.{name}": value for name, value in debit.metadata.items()},
        description=debit.description,
    )


def _ask(principal: Principal, intent: Record) -> Ask:
    return Ask(
        hold_id=intent.hold_id,
        kind="api",
        principal=principal,
        account_id=intent.account_id,
        want_microcredits=intent.charge_microcredits,
        floor_microcredits=intent.charge_microcredits,
        want_tokens=intent.tokens,
        floor_tokens=intent.tokens,
        progress_microcredits=intent.charge_microcredits,
        meta=encode_record(intent),
    )


# Repeats ------------------------------------------------------------------------------------------------


def _replayed(debit: Debit, entry: Entry) -> Entry:
    if entry.amount == 0:
        raise Conflict("an earlier attempt with this Idempotency-Key ended without a charge: use a new one")
    if not debit.made(entry):
        raise mismatch()
    return entry
