"""Credits in and out. In: the book, then Redis. Out: a hold first, as every debit, then the book, then Redis.

A deduction with an Idempotency-Key has a hold id that derives from (organization, key, path, account), so a repeat
meets its own hold or its own entry: it answers with that entry and charges nothing. So has an addition's entry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from hashlib import sha256
from typing import Any

from faregate.api.auth import require_any, require_live
from faregate.api.http import Request, encode
from faregate.api.replays import mismatch
from faregate.api.services import Services
from faregate.auth.scopes import Scope
from faregate.core.call import Committed, Principal, Record, Snapshot, bucket_of
from faregate.core.codec import encode_record
from faregate.core.ids import uuid7
from faregate.errors import (
    BookRefused,
    BookUnavailable,
    Conflict,
    InsufficientCredits,
    InvalidApiKey,
    InvalidRequest,
    LimitExceeded,
    StoreUnavailable,
)
from faregate.held import Held
from faregate.ledger.accounts import Account
from faregate.ledger.posting import Entry
from faregate.ledger.transactions import TransactionFilter
from faregate.ports import Ask, KeyChanged

KEPT_US = 24 * 3_600_000_000
"""How long an idempotency key is kept."""
SCOPES: tuple[Scope, ...] = ("credits:write",)
_BOOK_PATIENCE_S = 10.0
_LOOK_BACK = 2_000
_PAGE = 500


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

    @property
    def fingerprint(self) -> bytes:
        return sha256(encode([*self._facts, self.expires_us, sorted((self.metadata or {}).items())])).digest()

    @property
    def _facts(self) -> tuple[object, ...]:
        reason = "credit" if self.expires_us is None else "grant"
        return self.account.id, self.microcredits, reason, self.description, self.payment_method

    def made(self, entry: Entry) -> bool:
        """Is this the entry it leads to? (When it expires is its grant's to know.)"""
        facts = (entry.account_id, entry.amount, entry.reason, entry.description, entry.payment_method)
        return self._facts == facts and encode(dict(self.metadata or {})) == encode(dict(entry.metadata or {}))


async def add(services: Services, request: Request, deposit: Deposit) -> tuple[Entry, bool]:
    """Credits come in: their entry, and whether it is a replay. Raises IdempotencyMismatch.

    A lost settle heals: `insufficient` is only answered after the book was read again.
    """
    require_live(request.principal)
    key = _key(request)
    if key is None:
        entry, snapshot = await services.ledger.book.add_credits(
            deposit.account.id,
            deposit.microcredits,
            description=deposit.description,
            payment_method=deposit.payment_method,
            expires_us=deposit.expires_us,
            metadata=deposit.metadata,
        )
        await _told(services, deposit.account, snapshot)
        return entry, False
    tenant = _digest(deposit.account.organization_id, request.route, key)
    async with services.replays.alone(tenant, deposit.fingerprint):
        done = await _add_once(services, deposit, f"add_{tenant}")
        services.replays.done(tenant, deposit.fingerprint)
        return done


async def _add_once(services: Services, deposit: Deposit, once: str) -> tuple[Entry, bool]:
    try:
        entry, snapshot, new = await _post_once(services, deposit, once)
    except BookRefused:  # Another process has just taken the name for another account: now it is seen.
        entry, snapshot, new = await _post_once(services, deposit, once)
    if not new and not deposit.made(entry):
        raise mismatch()
    await _told(services, deposit.account, snapshot)
    return entry, not new


async def _post_once(services: Services, deposit: Deposit, once: str) -> tuple[Entry, Snapshot, bool]:
    return await services.ledger.book.add_credits_once(
        deposit.account.id,
        deposit.microcredits,
        once=once,
        description=deposit.description,
        payment_method=deposit.payment_method,
        expires_us=deposit.expires_us,
        metadata=deposit.metadata,
    )


async def _told(services: Services, account: Account, snapshot: Snapshot) -> None:
    with suppress(StoreUnavailable):
        await services.gate.settle(None, snapshot, bucket_of(account.organization_id))


def _key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and (not 0 < len(key) <= 255 or not key.isprintable()):
        raise InvalidRequest("Idempotency-Key must be 1 to 255 printable characters", param="Idempotency-Key")
    return key


# Out ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Debit:
    """What is to be taken, and what its entry will say. `endpoint` is one of commit.DIRECT_ENDPOINTS."""

    account: Account
    microcredits: int
    endpoint: str
    description: str | None
    metadata: Mapping[str, Any]

    @property
    def fingerprint(self) -> bytes:
        facts = [self.account.id, self.microcredits, self.description, sorted(self.metadata.items())]
        return sha256(encode(facts)).digest()

    def made(self, entry: Entry) -> bool:
        """Is this the entry it leads to?"""
        mine = (self.account.id, -self.microcredits, self.description, encode(dict(self.metadata)))
        return mine == (entry.account_id, entry.amount, entry.description, encode(dict(entry.metadata or {})))


async def deduct(services: Services, request: Request, debit: Debit) -> tuple[Entry, bool]:
    """The entry of a deduction, and whether it is a replay.

    Raises InsufficientCredits, LimitExceeded, IdempotencyMismatch, StoreUnavailable.
    """
    require_live(request.principal)
    key = _key(request)
    if key is None:
        return await _deduct(services, request, debit, f"api_{uuid7().hex}", keyed=False)
    tenant = _digest(debit.account.organization_id, request.route, key)
    async with services.replays.alone(tenant, debit.fingerprint):
        hold_id = f"api_{_digest(tenant, debit.account.id)}"
        done = await _deduct(services, request, debit, hold_id, keyed=True)
        services.replays.done(tenant, debit.fingerprint)
        return done


async def _deduct(
    services: Services, request: Request, debit: Debit, hold_id: str, *, keyed: bool
) -> tuple[Entry, bool]:
    intent = _intent(services, request, debit, hold_id)
    try:
        held = await _take(services, request, debit, intent)
    except (InsufficientCredits, LimitExceeded, Conflict):
        earlier = await _earlier(services, debit, hold_id) if keyed else None
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
    committed = await _settle(services, held)
    entry = await services.ledger.transactions.get(debit.account.organization_id, committed.usage_id)
    if committed.new or not keyed:
        return entry, False
    return _replayed(debit, entry), True


async def _take(services: Services, request: Request, debit: Debit, intent: Record) -> Held:
    """A hold of exactly the amount: all or nothing."""
    principal = request.principal
    elsewhere = principal.organization_id != debit.account.organization_id
    if elsewhere:
        principal = _acting_for(await services.keys.refresh(principal), debit.account.organization_id)
    for _ in range(3):
        try:
            return await services.owner.take(_ask(principal, intent), intent)
        except KeyChanged:
            principal = await services.keys.refresh(request.principal)
            require_any(principal, SCOPES)
    raise InvalidApiKey("this API key is being changed, try again")


def _acting_for(principal: Principal, organization_id: str) -> Principal:
    """The bootstrap key in another organization: its rev lives in its own bucket and has just been checked."""
    return replace(principal, organization_id=organization_id, key_id="", limits=())


async def _settle(services: Services, held: Held) -> Committed:
    """Book it. When SQL is slow the journal vouches for it, and we wait some more for the entry's id."""
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
        want_tokens=0,
        floor_tokens=0,
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


async def _earlier(services: Services, debit: Debit, hold_id: str) -> Entry | None:
    """The entry this key led to before, among the account's debits of the last day."""
    wanted = TransactionFilter(
        organization_id=debit.account.organization_id,
        account_id=debit.account.id,
        type="debit",
        start_us=services.clock.now_us() - KEPT_US,
    )
    for offset in range(0, _LOOK_BACK, _PAGE):
        page = await services.ledger.transactions.list(wanted, limit=_PAGE, offset=offset)
        found = next((item.entry for item in page.items if item.entry.hold_id == hold_id), None)
        if found is not None or not page.has_more:
            return found
    return None


def _digest(*parts: str) -> str:
    return sha256("\0".join(parts).encode()).hexdigest()[:32]
