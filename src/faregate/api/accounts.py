"""Accounts and their credits: `/v1/accounts/…`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from faregate.api.auth import require_organization_wide
from faregate.api.describe import (
    ANY,
    CREDITS,
    MOMENT,
    PAGINATION,
    TEXT,
    by_name,
    described,
    many,
    maybe,
    named,
    obj,
    success,
)
from faregate.api.fields import Amount, Limit, Metadata, Moment, Name, Offset, Text, iso, pagination, parse_moment
from faregate.api.http import Body, Reply, Request, ok
from faregate.api.money import Debit, Deposit, add, deduct
from faregate.api.services import Services
from faregate.api.tenancy import Reference, account_of, organization_around, organization_of
from faregate.core.call import Principal, bucket_of
from faregate.core.money import credits, parse_credits
from faregate.ledger.accounts import Account, Page


class NewAccount(Body):
    """POST /v1/accounts/create."""

    name: Name
    external_id: Reference | None = None
    email: Reference | None = None
    metadata: Metadata | None = None
    organization_id: Reference | None = None


class AccountQuery(Body):
    """Names an account."""

    account_id: Reference | None = None
    external_id: Reference | None = None
    organization_id: Reference | None = None


class BalanceQuery(AccountQuery):
    """GET /v1/accounts/balance. `at`: a moment that has passed."""

    at: Moment | None = None


class AccountsQuery(Body):
    """GET /v1/accounts."""

    limit: Limit = 100
    offset: Offset = 0
    organization_id: Reference | None = None


class AddCredits(AccountQuery):
    """POST /v1/accounts/credits/add."""

    amount: Amount
    description: Text | None = None
    payment_method: Text | None = None
    expires_at: Moment | None = None
    metadata: Metadata | None = None


class DeductCredits(AccountQuery):
    """POST /v1/accounts/credits/deduct."""

    amount: Amount
    description: Text | None = None
    metadata: Metadata | None = None


ACCOUNT = named(
    "Account",
    obj(
        id=TEXT,
        externalId=maybe(TEXT),
        organizationId=TEXT,
        name=TEXT,
        email=maybe(TEXT),
        balance=CREDITS,
        metadata=maybe(by_name(ANY)),
        createdAt=MOMENT,
        updatedAt=MOMENT,
    ),
)
_BALANCE = success(
    accountId=TEXT,
    externalId=maybe(TEXT),
    balance=CREDITS,
    optional={"reserved": CREDITS, "available": CREDITS, "at": MOMENT},
)
_NAMED = "accountId or externalId, unless the key is bound to an account; amounts have at most six decimal places"


@described(body=NewAccount, answer=success(account=ACCOUNT), example={"name": "Ann", "externalId": "user-7"})
async def create(services: Services, request: Request) -> Reply:
    """A new account of the key's organization."""
    require_organization_wide(request.principal)
    body = request.body(NewAccount)
    organization_id = await organization_of(services, request.principal, body.organization_id)
    account = await services.ledger.accounts.create(
        organization_id,
        name=body.name,
        external_id=body.external_id,
        email=body.email,
        metadata=body.metadata,
    )
    return ok(account=account_json(account))


@described(query=AccountsQuery, answer=success(accounts=many(ACCOUNT), pagination=PAGINATION))
async def list_all(services: Services, request: Request) -> Reply:
    """The organization's accounts, oldest first; a bound key sees its own."""
    query = request.params(AccountsQuery)
    organization_id = await organization_of(services, request.principal, query.organization_id)
    page = await _page(services, request.principal, organization_id, query)
    return ok(accounts=[account_json(account) for account in page.items], pagination=pagination(page))


async def _page(services: Services, principal: Principal, organization_id: str, query: AccountsQuery) -> Page[Account]:
    if principal.account_id is None:
        return await services.ledger.accounts.list(organization_id, limit=query.limit, offset=query.offset)
    own = await services.ledger.accounts.get(organization_id, principal.account_id)
    items = (own,) if query.offset == 0 else ()
    return Page(items=items, total=1, limit=query.limit, offset=query.offset)


@described(query=AccountQuery, answer=success(account=ACCOUNT), rules=_NAMED)
async def get(services: Services, request: Request) -> Reply:
    """One account, with what grants have started or ended up to now."""
    account = await _named(services, request, request.params(AccountQuery))
    snapshot = await services.ledger.book.snapshot(account.id, (), gate=False)
    return ok(account=account_json(replace(account, posted=snapshot.posted)))


@described(query=BalanceQuery, answer=_BALANCE, rules=_NAMED)
async def balance(services: Services, request: Request) -> Reply:
    """What the book has posted, what open holds reserve, and what is left. Raises StoreUnavailable without Redis:
    a reserved sum that is not known is not made up. `at`: what was posted then, recomputed."""
    query = request.params(BalanceQuery)
    account = await _named(services, request, query)
    if query.at is not None:
        return await _balance_at(services, account, parse_moment(query.at, "at"))
    snapshot = await services.ledger.book.snapshot(account.id, (), gate=False)
    reserved = await _held(services, account)
    return ok(
        **_ids(account),
        balance=credits(snapshot.posted),
        reserved=credits(reserved),
        available=credits(snapshot.posted - reserved + snapshot.overdraft),
    )


async def _balance_at(services: Services, account: Account, moment_us: int) -> Reply:
    posted = await services.ledger.book.balance_at(account.id, moment_us)
    return ok(**_ids(account), balance=credits(posted), at=iso(moment_us))


async def _held(services: Services, account: Account) -> int:
    """Held in Redis; when the account is cold there, what the book has reserved (no call has been held since)."""
    bucket = bucket_of(account.organization_id)
    seen = await services.gate.account(bucket, account.id)
    if "held" not in seen or seen.get("epoch") != await services.gate.epoch(bucket):
        pending = await services.ledger.reservations.pending(account.id)
        return sum(one.microcredits for one in pending)
    return int(seen["held"])


@described(
    body=AddCredits,
    answer=success(accountId=TEXT, externalId=maybe(TEXT), balance=CREDITS, added=CREDITS, transactionId=TEXT),
    rules=_NAMED,
    example={"externalId": "user-7", "amount": "250.5", "description": "top-up"},
)
async def credits_add(services: Services, request: Request) -> Reply:
    """Credits come in; with `expiresAt` they are gone from then on."""
    body = request.body(AddCredits)
    amount = parse_credits(body.amount, "amount")
    expires_us = None if body.expires_at is None else parse_moment(body.expires_at, "expiresAt")
    account = await _named(services, request, body)
    deposit = Deposit(
        account=account,
        microcredits=amount,
        description=body.description,
        payment_method=body.payment_method,
        expires_us=expires_us,
        metadata=body.metadata,
    )
    entry = await add(services, request, deposit)
    return ok(
        **_ids(account),
        balance=credits(entry.balance_after),
        added=credits(amount),
        transactionId=entry.id,
    )


@described(
    body=DeductCredits,
    answer=success(accountId=TEXT, externalId=maybe(TEXT), balance=CREDITS, deducted=CREDITS, transactionId=TEXT),
    rules=_NAMED,
    example={"externalId": "user-7", "amount": 3},
)
async def credits_deduct(services: Services, request: Request) -> Reply:
    """Credits go out, behind a hold."""
    body = request.body(DeductCredits)
    amount = parse_credits(body.amount, "amount")
    account = await _named(services, request, body)
    debit = Debit(
        account=account,
        microcredits=amount,
        endpoint="credits.deduct",
        description=body.description,
        metadata=body.metadata or {},
    )
    entry, replayed = await deduct(services, request, debit)
    return replayable(
        replayed,
        **_ids(account),
        balance=credits(entry.balance_after),
        deducted=credits(amount),
        transactionId=entry.id,
    )


def replayable(replayed: bool, **fields: object) -> Reply:
    """A 2xx that says whether it is a first result or its repetition."""
    return replace(ok(**fields), headers={"idempotent-replayed": "true"} if replayed else {})


async def _named(services: Services, request: Request, query: AccountQuery) -> Account:
    organization_id = await organization_around(services, request.principal, query)
    return await account_of(services, request.principal, organization_id, query)


def _ids(account: Account) -> dict[str, object]:
    return {"accountId": account.id, "externalId": account.external_id}


def account_json(account: Account) -> Mapping[str, object]:
    """The account as the API shows it."""
    return {
        "id": account.id,
        "externalId": account.external_id,
        "organizationId": account.organization_id,
        "name": account.name,
        "email": account.email,
        "balance": credits(account.posted),
        "metadata": account.metadata,
        "createdAt": iso(account.created_us),
        "updatedAt": iso(account.updated_us),
    }
