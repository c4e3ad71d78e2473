"""Transactions: the ledger's entries, `/v1/transactions…`."""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import AfterValidator

from faregate.api.accounts import AccountQuery, replayable
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
    with_fields,
)
from faregate.api.fields import Amount, Limit, Metadata, Moment, Offset, Text, iso, pagination, span
from faregate.api.http import Body, Reply, Request, ok
from faregate.api.money import Debit, Deposit, add, deduct
from faregate.api.reservations import RESERVATION, reservation_json
from faregate.api.services import Services
from faregate.api.tenancy import Reference, account_of, find_account, organization_around
from faregate.api.usage import USAGE_RECORD, record_json
from faregate.core.money import credits, parse_credits
from faregate.ledger.posting import Entry
from faregate.ledger.transactions import Transaction, TransactionFilter

Part = Literal["reservation", "usage"]
PARTS = frozenset({"reservation", "usage"})


def _parts(text: str) -> str:
    if not PARTS.issuperset(text.split(",")):
        raise ValueError("must be reservation, usage, or both with a comma")
    return text


class TransactionsQuery(Body):
    """GET /v1/transactions."""

    account_id: Reference | None = None
    external_id: Reference | None = None
    organization_id: Reference | None = None
    type: Literal["credit", "debit"] | None = None
    start_date: Moment | None = None
    end_date: Moment | None = None
    limit: Limit = 100
    offset: Offset = 0
    include: Annotated[str, AfterValidator(_parts)] | None = None


class NewTransaction(AccountQuery):
    """POST /v1/transactions/create."""

    amount: Amount
    type: Literal["credit", "debit"]
    description: Text | None = None
    metadata: Metadata | None = None


TRANSACTION = named(
    "Transaction",
    obj(
        id=TEXT,
        accountId=TEXT,
        type=choice("credit", "debit"),
        amount=CREDITS,
        description=maybe(TEXT),
        reason=TEXT,
        paymentMethod=maybe(TEXT),
        usageId=maybe(TEXT),
        balanceAfter=CREDITS,
        metadata=by_name(ANY),
        createdAt=MOMENT,
    ),
)
_ITEM = with_fields(TRANSACTION, optional={"usage": maybe(USAGE_RECORD), "reservation": maybe(RESERVATION)})


@described(
    query=TransactionsQuery,
    answer=success(items=many(_ITEM), pagination=PAGINATION),
    rules="dates are ISO 8601, start before end; include is reservation, usage, or both with a comma",
)
async def list_all(services: Services, request: Request) -> Reply:
    """Newest first."""
    query = request.params(TransactionsQuery)
    start_us, end_us = span(query.start_date, query.end_date)
    organization_id = await organization_around(services, request.principal, query)
    account = await find_account(services, request.principal, organization_id, query)
    wanted = TransactionFilter(
        organization_id=organization_id,
        account_id=account.id if account else None,
        type=query.type,
        start_us=start_us,
        end_us=end_us,
    )
    parts = cast(frozenset[Part], frozenset(query.include.split(",")) if query.include else frozenset())
    page = await services.ledger.transactions.list(wanted, limit=query.limit, offset=query.offset, include=parts)
    items = [_item_json(item, parts, services.clock.now_us()) for item in page.items]
    return ok(items=items, pagination=pagination(page))


@described(
    body=NewTransaction,
    answer=success(transaction=TRANSACTION),
    rules="accountId or externalId, unless the key is bound to an account; amounts have at most six decimal places",
    example={"externalId": "user-7", "type": "credit", "amount": 10},
)
async def create(services: Services, request: Request) -> Reply:
    """A credit goes the way of credits/add, a debit that of credits/deduct."""
    body = request.body(NewTransaction)
    amount = parse_credits(body.amount, "amount")
    organization_id = await organization_around(services, request.principal, body)
    account = await account_of(services, request.principal, organization_id, body)
    if body.type == "credit":
        deposit = Deposit(account=account, microcredits=amount, description=body.description, metadata=body.metadata)
        return ok(transaction=entry_json(await add(services, request, deposit)))
    debit = Debit(
        account=account,
        microcredits=amount,
        endpoint="transactions.create",
        description=body.description,
        metadata=body.metadata or {},
    )
    entry, replayed = await deduct(services, request, debit)
    return replayable(replayed, transaction=entry_json(entry))


def entry_json(entry: Entry) -> dict[str, object]:
    """An entry as the API shows it: `amount` has no sign, `type` says which way it went."""
    return {
        "id": entry.id,
        "accountId": entry.account_id,
        "type": entry.type,
        "amount": credits(abs(entry.amount)),
        "description": entry.description,
        "reason": entry.reason,
        "paymentMethod": entry.payment_method,
        "usageId": entry.usage_id,
        "balanceAfter": credits(entry.balance_after),
        "metadata": entry.metadata or {},
        "createdAt": iso(entry.created_us),
    }


def _item_json(item: Transaction, parts: frozenset[Part], now_us: int) -> dict[str, object]:
    shown = entry_json(item.entry)
    if "usage" in parts:
        shown["usage"] = None if item.usage is None else record_json(item.usage)
    if "reservation" in parts:
        shown["reservation"] = None if item.reservation is None else reservation_json(item.reservation, now_us)
    return shown
