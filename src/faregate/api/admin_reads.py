"""What is only read: `/v1/admin/audit` (who changed what and when), `/v1/admin/holds` (open holds with their age)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from faregate.api.admin import CursorQuery, page_of
from faregate.api.describe import (
    ANY,
    CREDITS,
    CURSOR,
    INTEGER,
    MOMENT,
    TEXT,
    described,
    many,
    maybe,
    named,
    obj,
    success,
)
from faregate.api.fields import iso
from faregate.api.http import Reply, Request, ok
from faregate.api.services import Services
from faregate.api.tenancy import organization_of
from faregate.core.call import bucket_of
from faregate.core.codec import decode_record
from faregate.core.money import credits
from faregate.errors import InvalidRequest
from faregate.ledger.admin_audit import AdminEvent
from faregate.ports import SweptHold

_ACCOUNTS = 200
"""Accounts whose holds are read at a time."""
_MOST_ACCOUNTS = 2_000
"""Accounts that one request looks at; the cursor goes on from there."""


EVENT = named(
    "AdminEvent",
    obj(
        id=TEXT,
        organizationId=maybe(TEXT),
        who=TEXT,
        what=TEXT,
        target=TEXT,
        detail=ANY,
        createdAt=MOMENT,
    ),
)
HOLD = named(
    "Hold",
    obj(
        id=TEXT,
        kind=TEXT,
        accountId=TEXT,
        amount=CREDITS,
        progress=CREDITS,
        limits=many(TEXT),
        createdAt=maybe(MOMENT),
        ageSeconds=maybe(INTEGER),
        optional={
            "keyId": maybe(TEXT),
            "requestId": TEXT,
            "endpoint": TEXT,
            "model": maybe(TEXT),
            "provider": maybe(TEXT),
        },
    ),
)


@described(query=CursorQuery, answer=success(audit=many(EVENT), nextCursor=CURSOR))
async def audit(services: Services, request: Request) -> Reply:
    """Newest first; the bootstrap key sees all organizations unless it names one."""
    query, principal = request.params(CursorQuery), request.principal
    organization_id = None
    if query.organization_id is not None or not principal.above_organizations:
        organization_id = await organization_of(services, principal, query.organization_id)
    found = await services.ledger.admin_audit.list(
        organization_id=organization_id, limit=query.limit + 1, before=query.cursor
    )
    page, cursor = page_of(found, query.limit, lambda event: event.id)
    return ok(audit=[_event_json(event) for event in page], nextCursor=cursor)


@described(
    query=CursorQuery, answer=success(holds=many(HOLD), nextCursor=CURSOR), rules="cursors are those of an earlier page"
)
async def holds(services: Services, request: Request) -> Reply:
    """Open holds of one organization, account by account. Raises StoreUnavailable without Redis."""
    query = request.params(CursorQuery)
    organization_id = await organization_of(services, request.principal, query.organization_id)
    offset, seen = _offset(query.cursor), 0
    found: list[SweptHold] = []
    while True:
        page = await services.ledger.accounts.list(organization_id, limit=_ACCOUNTS, offset=offset)
        bucket = bucket_of(organization_id)
        of_each = await asyncio.gather(*(services.gate.holds(bucket, account.id) for account in page.items))
        found += [hold for some in of_each for hold in some]
        offset, seen = offset + len(page.items), seen + len(page.items)
        if not page.has_more or len(found) >= query.limit or seen >= _MOST_ACCOUNTS:
            break
    shown = sorted((_hold_json(hold, services.clock.now_us()) for hold in found), key=lambda hold: str(hold["id"]))
    return ok(holds=shown, nextCursor=str(offset) if page.has_more else None)


def _offset(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not cursor.isascii() or not cursor.isdecimal() or len(cursor) > 9:
        raise InvalidRequest("cursor is not one of ours", param="cursor")
    return int(cursor)


def _event_json(event: AdminEvent) -> Mapping[str, object]:
    return {
        "id": event.id,
        "organizationId": event.organization_id,
        "who": event.who,
        "what": event.what,
        "target": event.target,
        "detail": event.detail,
        "createdAt": iso(event.created_us),
    }


def _hold_json(swept: SweptHold, now_us: int) -> dict[str, object]:
    """A hold, with what its owner wrote beside it: the record it will become."""
    hold, shown = swept.hold, _intent_json(swept.meta, now_us)
    return {
        "id": hold.id,
        "kind": hold.kind,
        "accountId": hold.account_id,
        "amount": credits(hold.microcredits),
        "progress": credits(swept.progress_microcredits),
        "limits": list(hold.limit_keys),
        **shown,
    }


def _intent_json(meta: bytes, now_us: int) -> dict[str, object]:
    try:
        intent = decode_record(meta)
    except (ValueError, TypeError, KeyError):
        return {"createdAt": None, "ageSeconds": None}
    return {
        "keyId": intent.key_id,
        "requestId": intent.request_id,
        "endpoint": intent.endpoint,
        "model": intent.public_model or None,
        "provider": intent.provider or None,
        "createdAt": iso(intent.occurred_at_us),
        "ageSeconds": max(0, (now_us - intent.occurred_at_us) // 1_000_000),
    }
