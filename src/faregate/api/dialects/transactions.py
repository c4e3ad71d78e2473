"""`POST /usage/transactions`: what was used, one at a time or up to 1000, queued when they are on the disk.

202 all are queued · 207 some are, the others' errors beside them · 400 none is. A queued event is committed: it
survives whatever happens to this process. Whether it charges is the organization's `ingestCharges`; it is never
refused for lack of credits, since it has happened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from faregate.api.counted import Payer, card_for, record_of
from faregate.api.describe import INTEGER, TEXT, choice, described, many, maybe, named, obj
from faregate.api.dialects.transaction_items import ItemError, read
from faregate.api.errors import error_reply
from faregate.api.http import Reply, Request, parse_object
from faregate.api.ingest import book_all
from faregate.api.services import Services
from faregate.core.call import Principal
from faregate.core.ids import uuid7_hex
from faregate.errors import FaregateError, InvalidRequest, ModelNotPriced
from faregate.ledger.ingested import Arrival
from faregate.ledger.organizations import Organization

MOST_ITEMS = 1_000
MAX_BODY_BYTES = 4 << 20
SOURCE = "transactions"
_THREAD_BYTES = 32_768
"""Larger bodies are read on a thread: the event loop has calls to serve."""
_MOST_DETAILS = 100
_CODES = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "request_too_large",
    429: "rate_limited",
}


@dataclass(frozen=True, slots=True)
class _Item:
    """One transaction, as far as it could be understood."""

    index: int
    arrival: Arrival | None
    error: ItemError | None = None


@dataclass(frozen=True, slots=True)
class _Batch:
    items: Sequence[_Item]
    bulk: bool


_ERROR = named(
    "TransactionsError",
    obj(error=obj(code=TEXT, message=TEXT, optional={"details": many(obj(path=TEXT, message=TEXT))})),
)
_RESULT = obj(
    transaction_index=INTEGER,
    optional={"message_id": maybe(TEXT), "error": obj(code=TEXT, message=TEXT)},
)
_QUEUED = obj(status=choice("queued"), events_queued=INTEGER, message=TEXT, optional={"results": many(_RESULT)})
_PARTIAL = obj(status=choice("partial"), events_queued=INTEGER, events_failed=INTEGER, results=many(_RESULT))
_BODY = {
    "type": "object",
    "description": "One transaction, or {transactions: [...]} with up to 1000.",
    "properties": {"transactions": {"type": "array", "minItems": 1, "maxItems": MOST_ITEMS}},
}
_EXAMPLE = {
    "provider": "openai",
    "model": "gpt-4.1-mini",
    "usage": [{"type": "tokens", "metrics": {"input_tokens": 900, "output_tokens": 120}}],
    "context": {"billable_customer_id": "user-7"},
}


@described(
    body=_BODY,
    status=202,
    answer=_QUEUED,
    answers={207: _PARTIAL},
    error=_ERROR,
    rules="see the reference",
    example=_EXAMPLE,
)
async def post(services: Services, request: Request) -> Reply:
    """Read, price and book all that can be; the rest is told, one by one."""
    organization = await services.ledger.organizations.get(request.principal.organization_id)
    name = await services.ledger.idempotency.claim()
    if len(request.raw_body) > _THREAD_BYTES:
        batch = await asyncio.to_thread(_read_all, services, request, organization, name)
    else:
        batch = _read_all(services, request, organization, name)
    items = await _of_own_account(services, request.principal, batch.items)
    arrivals = [item.arrival for item in items if item.arrival is not None]
    if not arrivals:
        return _nothing(items, bulk=batch.bulk)
    arrived = await book_all(services, request, organization.id, SOURCE, arrivals)
    ids = iter(arrived.records)
    message_ids = [next(ids)[0] if item.arrival is not None else None for item in items]
    return _queued(items, message_ids, bulk=batch.bulk)


# Reading ------------------------------------------------------------------------------------------------


def _read_all(services: Services, request: Request, organization: Organization, name: str | None) -> _Batch:
    body = parse_object(request.raw_body)
    bulk = "transactions" in body
    bodies = body["transactions"] if bulk else [body]
    if not isinstance(bodies, list) or not 0 < len(bodies) <= MOST_ITEMS:
        raise InvalidRequest(f"must be a list of 1 to {MOST_ITEMS} transactions", param="transactions")
    payer = Payer(
        organization_id=organization.id,
        account_id="",
        key_id=request.principal.key_id,
        request_id=request.request_id,
        credits_per_usd=organization.credits_per_usd,
        markup_percent=organization.markup_percent,
    )
    once = [None if name is None else f"request:{name}:{index}" for index in range(len(bodies))]
    charges = organization.ingest_charges
    return _Batch([_read(services, payer, i, one, once[i], charges) for i, one in enumerate(bodies)], bulk)


def _read(services: Services, payer: Payer, index: int, body: object, once: str | None, charges: bool) -> _Item:
    """`once` names a transaction without a key of its own in a request that has one."""
    try:
        item, counted = read(body, services.catalog.kinds, services.clock.now_us())
        card = card_for(services.catalog, counted, payer.organization_id)
        record = record_of(
            card,
            counted,
            payer,
            hold_id=f"api_{uuid7_hex()}",
            charges=charges,
            kind=services.catalog.kinds.get(counted.provider, ""),
        )
    except ItemError as error:
        return _Item(index, None, error)
    except InvalidRequest as error:  # no price, or counts that have none
        code = error.code if isinstance(error, ModelNotPriced) else "validation_error"
        return _Item(index, None, ItemError([(error.param or "usage", error.message)], code))
    own_id = once if item.idempotency_key is None else f"key:{item.idempotency_key}"
    return _Item(index, Arrival(record=record, customer=item.customer, own_id=own_id))


async def _of_own_account(services: Services, principal: Principal, items: Sequence[_Item]) -> Sequence[_Item]:
    """A key that is bound to one account tells of that account's usage only."""
    if principal.account_id is None:
        return items
    customers = [item.arrival.customer for item in items if item.arrival is not None and item.arrival.customer]
    accounts = await services.ledger.ingested.accounts(principal.organization_id, customers)
    own = {name for name, account in accounts.items() if account.id == principal.account_id}
    foreign = ItemError([("context.billable_customer_id", "this key may act for one account only")], "forbidden")
    return [
        item if item.arrival is None or item.arrival.customer in own else _Item(item.index, None, foreign)
        for item in items
    ]


# Answers ------------------------------------------------------------------------------------------------


def _queued(items: Sequence[_Item], message_ids: Sequence[str | None], *, bulk: bool) -> Reply:
    done = sum(message_id is not None for message_id in message_ids)
    results = [_result(item, message_id) for item, message_id in zip(items, message_ids, strict=True)]
    if done < len(items):
        failed = len(items) - done
        body = {"status": "partial", "events_queued": done, "events_failed": failed, "results": results}
        return Reply(body=body, status=207)
    message = f"{done} transactions queued" if bulk else "transaction queued"
    queued: dict[str, object] = {"status": "queued", "events_queued": done, "message": message}
    return Reply(body={**queued, "results": results} if bulk else queued, status=202)


def _result(item: _Item, message_id: str | None) -> dict[str, object]:
    if item.error is None:
        return {"transaction_index": item.index, "message_id": message_id}
    message = "; ".join(f"{path}: {text}" for path, text in item.error.problems)
    return {"transaction_index": item.index, "error": {"code": item.error.code, "message": message}}


def _nothing(items: Sequence[_Item], *, bulk: bool) -> Reply:
    details = [
        {"path": f"transactions.{item.index}.{path}" if bulk else path, "message": text}
        for item in items
        if item.error is not None
        for path, text in item.error.problems
    ]
    message = "no transaction is valid" if bulk else "the transaction is not valid"
    return _error(400, "validation_error", message, details[:_MOST_DETAILS])


def say(error: FaregateError) -> Reply:
    """Any other error in this dialect."""
    if error.status >= 500:
        reply = _error(500, "internal_error", error.message)
    elif error.status == 400:
        details = [{"path": error.param or "", "message": error.message}]
        reply = _error(400, "validation_error", error.message, details)
    else:
        reply = _error(error.status, _CODES.get(error.status, error.code), error.message)
    return replace(reply, headers=error_reply(error).headers)


def _error(status: int, code: str, message: str, details: Sequence[object] | None = None) -> Reply:
    inner: dict[str, object] = {"code": code, "message": message}
    if details is not None:
        inner["details"] = details
    return Reply(body={"error": inner}, status=status)
