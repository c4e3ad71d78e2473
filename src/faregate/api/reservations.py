"""Reservations over the API: `/v1/reservations...`. Made here or by a call, a hold is a hold: `reservations.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from faregate.api.accounts import AccountQuery, replayable
from faregate.api.auth import require_live
from faregate.api.describe import (
    ANY,
    CREDITS,
    MOMENT,
    PAGINATION,
    TEXT,
    by_name,
    choice,
    described,
    many,
    maybe,
    named,
    obj,
    success,
)
from faregate.api.fields import Amount, Flag, Limit, Metadata, Name, Offset, iso, pagination
from faregate.api.http import Body, Reply, Request, ok
from faregate.api.money import SCOPES, with_current_key
from faregate.api.services import Services
from faregate.api.tenancy import Reference, account_of, find_account, organization_around, organization_of
from faregate.core.call import Principal, Reservation
from faregate.core.money import credits, parse_credits
from faregate.core.reservation import MAX_TTL_S, new_reservation_id
from faregate.errors import IdempotencyMismatch, InsufficientCredits, LimitExceeded, NotFound
from faregate.ledger.reservations import ReservationFilter

_TWIN_S = (0.0, 0.05, 0.1, 0.2)
"""How long a refused one waits for a twin, which may hold what both want."""

Seconds = Annotated[int, Field(ge=1, le=MAX_TTL_S)]


class NewReservation(AccountQuery):
    """POST /v1/reservations/create."""

    amount: Amount
    operation: Name | None = None
    model: Name | None = None
    ttl_seconds: Seconds = 300
    reservation_id: Name | None = None
    metadata: Metadata | None = None


class Named(Body):
    """Names a reservation, by our id or the caller's own."""

    reservation_id: Name
    organization_id: Reference | None = None


class Confirmed(Named):
    """POST /v1/reservations/confirm."""

    actual_amount: Amount


class Extended(Named):
    """POST /v1/reservations/extend."""

    ttl_seconds: Seconds = 300


class ReservationsQuery(AccountQuery):
    """GET /v1/reservations."""

    reservation_id: Name | None = None
    active_only: Flag = False
    limit: Limit = 100
    offset: Offset = 0


_STATES = choice("pending", "settled", "released", "expired")
RESERVATION = named(
    "Reservation",
    obj(
        id=TEXT,
        reservationId=maybe(TEXT),
        accountId=TEXT,
        amount=CREDITS,
        actualAmount=maybe(CREDITS),
        status=_STATES,
        operation=maybe(TEXT),
        model=maybe(TEXT),
        transactionId=maybe(TEXT),
        expiresAt=MOMENT,
        metadata=by_name(ANY),
        createdAt=MOMENT,
        updatedAt=MOMENT,
    ),
)
_CHANGED = success(reservationId=TEXT, status=_STATES, expiresAt=MOMENT, reservation=RESERVATION)
_CONFIRMED = success(
    reservationId=TEXT,
    transactionId=TEXT,
    accountId=TEXT,
    externalId=maybe(TEXT),
    amount=CREDITS,
    released=CREDITS,
    balance=CREDITS,
    status=_STATES,
)
_RULES = "accountId or externalId, unless the key is bound to an account; amounts have at most six decimal places"


@described(
    body=NewReservation,
    answer=success(reservation=RESERVATION),
    rules=_RULES,
    example={"externalId": "user-7", "amount": 5, "ttlSeconds": 600},
)
async def create(services: Services, request: Request) -> Reply:
    """Set credits aside. With the caller's own id a repeat answers with the one it has made."""
    require_live(request.principal)
    body = request.body(NewReservation)
    amount = parse_credits(body.amount, "amount")
    organization_id = await organization_around(services, request.principal, body)
    account = await account_of(services, request.principal, organization_id, body)
    name = await services.ledger.idempotency.claim()
    wanted = Reservation(
        id=new_reservation_id(name),
        organization_id=organization_id,
        account_id=account.id,
        caller_id=body.reservation_id,
        microcredits=amount,
        operation=body.operation,
        model=body.model,
        metadata=body.metadata or {},
        expires_us=0,
        created_us=services.clock.now_us(),
        updated_us=0,
    )
    made, new = await _made(services, request, wanted, body.ttl_seconds)
    if (made.account_id, made.microcredits) != (wanted.account_id, wanted.microcredits):
        raise IdempotencyMismatch(
            "this reservationId stands for a reservation of another account or amount", param="reservationId"
        )
    return replayable(not new, reservation=reservation_json(made, services.clock.now_us()))


async def _made(services: Services, request: Request, wanted: Reservation, ttl_s: int) -> tuple[Reservation, bool]:
    earlier = await _earlier(services, wanted)
    if earlier is not None:
        return earlier, False
    try:
        return await _reserve(services, request, wanted, ttl_s)
    except (InsufficientCredits, LimitExceeded):
        twin = await _twin(services, wanted)
        if twin is None:
            raise
        return twin, False


async def _reserve(services: Services, request: Request, wanted: Reservation, ttl_s: int) -> tuple[Reservation, bool]:
    def reserve(principal: Principal) -> Awaitable[tuple[Reservation, bool]]:
        return services.reserver.create(principal, wanted, ttl_s)

    return await with_current_key(services, request, wanted.organization_id, SCOPES, reserve)


async def _earlier(services: Services, wanted: Reservation) -> Reservation | None:
    """What an earlier request has made, by its Idempotency-Key or by the caller's own id for it."""
    known = (await services.ledger.reservations.look([wanted.id])).get(wanted.id)
    if known is None and wanted.caller_id is not None:
        known = await services.ledger.reservations.by_caller(wanted.organization_id, wanted.caller_id)
    return known


async def _twin(services: Services, wanted: Reservation) -> Reservation | None:
    """Of two at once with one id the second may find the credits taken by the first."""
    for wait_s in _TWIN_S if wanted.caller_id is not None else ():
        await asyncio.sleep(wait_s)
        found = await _earlier(services, wanted)
        if found is not None:
            return found
    return None


@described(
    query=ReservationsQuery,
    answer=success(reservations=many(RESERVATION), pagination=PAGINATION),
    rules="accountId and externalId, if both are given, name the same account",
)
async def list_all(services: Services, request: Request) -> Reply:
    """Newest first."""
    query = request.params(ReservationsQuery)
    organization_id = await organization_around(services, request.principal, query)
    account = await find_account(services, request.principal, organization_id, query)
    wanted = ReservationFilter(
        organization_id=organization_id,
        account_id=account.id if account else None,
        reference=query.reservation_id,
        active_only=query.active_only,
    )
    page = await services.ledger.reservations.list(wanted, limit=query.limit, offset=query.offset)
    now_us = services.clock.now_us()
    shown = [reservation_json(one, now_us) for one in page.items]
    return ok(reservations=shown, pagination=pagination(page))


@described(body=Confirmed, answer=_CONFIRMED, rules=_RULES, example={"reservationId": "job-1", "actualAmount": 4.25})
async def confirm(services: Services, request: Request) -> Reply:
    """Charge what it came to, which may be more than was reserved. A repeat gets the first result."""
    require_live(request.principal)
    body = request.body(Confirmed)
    actual = parse_credits(body.actual_amount, "actualAmount", minimum=0)
    found = await _named(services, request, body)
    done = await services.reserver.confirm(found, actual)
    account = await services.ledger.accounts.get(found.organization_id, found.account_id)
    one, entry = done.reservation, done.entry
    assert entry is not None, "confirmed, or refused before"
    assert one.actual is not None, "what is confirmed has an amount"
    return replayable(
        not done.new,
        reservationId=body.reservation_id,
        transactionId=entry.id,
        accountId=account.id,
        externalId=account.external_id,
        amount=credits(one.actual),
        released=credits(max(0, one.microcredits - one.actual)),
        balance=credits(entry.balance_after),
        status=one.state,
    )


@described(body=Named, answer=_CHANGED, example={"reservationId": "job-1"})
async def cancel(services: Services, request: Request) -> Reply:
    """Give the credits back. Repeatable."""
    require_live(request.principal)
    body = request.body(Named)
    found = await _named(services, request, body)
    return _changed(services, body, await services.reserver.cancel(found))


@described(body=Extended, answer=_CHANGED, example={"reservationId": "job-1", "ttlSeconds": 600})
async def extend(services: Services, request: Request) -> Reply:
    """A deadline so many seconds from now; a later one stays."""
    require_live(request.principal)
    body = request.body(Extended)
    found = await _named(services, request, body)
    return _changed(services, body, await services.reserver.extend(found, body.ttl_seconds))


def _changed(services: Services, body: Named, one: Reservation) -> Reply:
    shown = reservation_json(one, services.clock.now_us())
    return ok(reservationId=body.reservation_id, status=one.state, expiresAt=iso(one.expires_us), reservation=shown)


async def _named(services: Services, request: Request, body: Named) -> Reservation:
    """Another organization's, or (for a bound key) another account's, is not there."""
    found = await _found(services, request, body)
    if request.principal.account_id not in (None, found.account_id):
        raise NotFound("no such reservation", param="reservationId")
    return replace(found, state=found.state_at(services.clock.now_us()))


async def _found(services: Services, request: Request, body: Named) -> Reservation:
    principal, reference = request.principal, body.reservation_id
    if principal.above_organizations and body.organization_id is None:  # our id says whose it is
        known = (await services.ledger.reservations.look([reference])).get(reference)
        if known is not None:
            return known
    organization_id = await organization_of(services, principal, body.organization_id)
    return await services.ledger.reservations.find(organization_id, reference)


def reservation_json(one: Reservation, now_us: int) -> Mapping[str, object]:
    """A reservation as the API shows it."""
    return {
        "id": one.id,
        "reservationId": one.caller_id,
        "accountId": one.account_id,
        "amount": credits(one.microcredits),
        "actualAmount": None if one.actual is None else credits(one.actual),
        "status": one.state_at(now_us),
        "operation": one.operation,
        "model": one.model,
        "transactionId": one.entry_id,
        "expiresAt": iso(one.expires_us),
        "metadata": one.metadata,
        "createdAt": iso(one.created_us),
        "updatedAt": iso(one.updated_us),
    }
