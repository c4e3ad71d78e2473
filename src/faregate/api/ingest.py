"""Booking what others have counted, exactly once: with a checked hold, with none, or many behind forced guards.

checked   the charge must fit, as a deduction must: hold, journal, book, close
free      the cost is told, nothing is charged: the book alone
bulk      never refused: one guard per account holds the sum while the book writes all of them in one transaction,
          so that a crash in between leaves Redis too strict, never too generous; then the absolute balance follows
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from faregate.api.auth import require_live
from faregate.api.http import Request
from faregate.api.money import settle_exactly, take_exactly
from faregate.api.services import Services
from faregate.auth.scopes import Scope
from faregate.core.call import Record
from faregate.core.codec import encode_record
from faregate.core.ids import uuid7_hex
from faregate.core.money import MAX_MICROCREDITS
from faregate.errors import (
    BookUnavailable,
    Conflict,
    FaregateError,
    InProgress,
    InsufficientCredits,
    LimitExceeded,
    StoreUnavailable,
)
from faregate.held import Held
from faregate.ledger.ingested import Also, Arrival, Arrived, UnguardedError
from faregate.ledger.usage import UsageRecord
from faregate.ports import Ask
from faregate.slices import in_slices

SCOPES: tuple[Scope, ...] = ("usage:write",)
_ROUNDS = 3


async def hold_of(services: Services) -> tuple[str, bool]:
    """A hold id for the request's charge, and whether it derives from the request's Idempotency-Key."""
    name = await services.ledger.idempotency.claim()
    return f"api_{name or uuid7_hex()}", name is not None


# One ----------------------------------------------------------------------------------------------------


async def book_one(services: Services, request: Request, record: Record, *, keyed: bool) -> tuple[UsageRecord, bool]:
    """Book it, with a checked hold when it charges. The record as the book has it, and whether it is a replay.

    `keyed`: its hold id derives from the caller's key. Raises InsufficientCredits, LimitExceeded, StoreUnavailable;
    nothing is recorded then.
    """
    require_live(request.principal)
    stored = await _earlier(services, record) if keyed else None
    if stored is not None:
        return stored, True
    if record.charge_microcredits:
        try:
            usage_id, new = await _charge(services, request, record)
        except (InsufficientCredits, LimitExceeded, Conflict):
            stored = await _earlier(services, record) if keyed else None  # It may have been booked meanwhile.
            if stored is None:
                raise
            return stored, True
    else:
        committed = await services.ledger.book.commit(record)
        usage_id, new = committed.usage_id, committed.new
    detail = await services.ledger.usage.get(usage_id, organization_id=record.organization_id)
    return detail.record, not new


async def _charge(services: Services, request: Request, record: Record) -> tuple[str, bool]:
    held = await take_exactly(services, request, record, SCOPES)
    if held.hold.duplicate and held.hold.microcredits != record.charge_microcredits:
        services.owner.forget(held)  # An earlier try's, at another price: who took it ends it.
        raise InProgress("an earlier request of this key has not ended yet, ask again", retry_after_s=1)
    await services.owner.forward(held)
    committed = await settle_exactly(services, held)
    return committed.usage_id, committed.new


async def _earlier(services: Services, record: Record) -> UsageRecord | None:
    """What the same key has led to before."""
    found = await services.ledger.ingested.find(record.hold_id)
    if found is None:
        return None
    return (await services.ledger.usage.get(found, organization_id=record.organization_id)).record


# Many ---------------------------------------------------------------------------------------------------


async def book_all(
    services: Services,
    request: Request,
    organization_id: str,
    source: str,
    arrivals: Sequence[Arrival],
    also: Also | None = None,
) -> Arrived:
    """Book all of them (and what else belongs to them) in one transaction, or none.

    Raises StoreUnavailable; a repeat is then safe with own ids.
    """
    require_live(request.principal)
    if not any(arrival.record.charge_microcredits for arrival in arrivals):
        return await services.ledger.ingested.write(organization_id, source, arrivals, None, also)
    for _ in range(_ROUNDS):
        try:
            return await _book_guarded(services, request, organization_id, source, arrivals, also)
        except UnguardedError:
            continue  # An account had its first hold in this moment: now that is seen.
    raise StoreUnavailable("an account had its first hold just now, try again", retry_after_s=1)


async def _book_guarded(
    services: Services,
    request: Request,
    organization_id: str,
    source: str,
    arrivals: Sequence[Arrival],
    also: Also | None,
) -> Arrived:
    owed = await _owed(services, organization_id, arrivals)
    taken = await in_slices(list(owed.items()), lambda item: _guard(services, request, organization_id, *item))
    guards = [guard for guard in taken if isinstance(guard, Held)]
    failed = next((guard for guard in taken if isinstance(guard, FaregateError)), None)
    if failed is not None:
        await in_slices(guards, services.owner.release)
        raise failed
    try:
        arrived = await services.ledger.ingested.write(organization_id, source, arrivals, frozenset(owed), also)
    except UnguardedError:  # Rolled back: nothing has been charged.
        await in_slices(guards, services.owner.release)
        raise
    except BookUnavailable:  # It may have been committed all the same.
        await in_slices(guards, lambda guard: services.owner.unguard(guard, None))
        raise
    await in_slices(guards, lambda guard: _unguard(services, guard, arrived))
    return arrived


async def _owed(services: Services, organization_id: str, arrivals: Sequence[Arrival]) -> dict[str, int]:
    """By account that Redis may know: the sum of what will be charged."""
    names = [arrival.customer or arrival.record.account_id for arrival in arrivals]
    accounts = await services.ledger.ingested.accounts(organization_id, names)
    owed: dict[str, int] = {}
    for name, arrival in zip(names, arrivals, strict=True):
        account, charge = accounts.get(name), arrival.record.charge_microcredits
        if account is not None and account.gated and charge:
            owed[account.id] = min(owed.get(account.id, 0) + charge, MAX_MICROCREDITS)
    return owed


async def _guard(
    services: Services, request: Request, organization_id: str, account_id: str, owed: int
) -> Held | FaregateError:
    """A forced hold; errors are returned, so that no other one is left alone."""
    intent = _guard_record(services, request, organization_id, account_id)
    ask = Ask(
        hold_id=intent.hold_id,
        kind="guard",
        principal=replace(request.principal, organization_id=organization_id, key_id="", limits=()),
        account_id=account_id,
        want_microcredits=owed,
        floor_microcredits=owed,
        want_tokens=0,
        floor_tokens=0,
        progress_microcredits=0,
        meta=encode_record(intent),
        forced=True,
    )
    try:
        return await services.owner.take(ask, intent)
    except FaregateError as error:
        return error


def _guard_record(services: Services, request: Request, organization_id: str, account_id: str) -> Record:
    return Record(
        hold_id=f"guard_{uuid7_hex()}",
        hold_kind="guard",
        kind="actual",
        organization_id=organization_id,
        account_id=account_id,
        key_id=request.principal.key_id or None,
        request_id=request.request_id,
        occurred_at_us=services.clock.now_us(),
        charge_microcredits=0,
        cost_usd=Decimal(0),
        endpoint="guard",
    )


async def _unguard(services: Services, guard: Held, arrived: Arrived) -> None:
    """What the book has said goes to Redis with the guard's end."""
    snapshot = arrived.snapshots.get(guard.hold.account_id)
    if snapshot is None:  # Repeats only: nothing was charged.
        await services.owner.release(guard)
    else:
        await services.owner.unguard(guard, snapshot)
