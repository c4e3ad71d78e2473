"""A desk on the data directory: the book itself, and Redis too when it answers, so that changes count at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, get_args

from faregate.api.usage import record_json
from faregate.auth.keys import make
from faregate.auth.limits import parse_limits
from faregate.auth.scopes import parse_models, parse_scopes
from faregate.clock import SystemClock
from faregate.commands.local_people import LocalPeople
from faregate.commands.local_plans import LocalPlans
from faregate.commands.local_reservations import LocalReservations
from faregate.commands.shapes import account_json, hold_json, key_json, price_row, totals_json, usage_json
from faregate.commands.shared import microseconds, moment_text, parse_moment
from faregate.core.call import Snapshot, bucket_of
from faregate.core.money import credits, parse_credits, parse_decimal
from faregate.credits import embedded
from faregate.credits.gate import GateTiming, RedisGate
from faregate.credits.names import base, hold_keys
from faregate.credits.pipe import Pipe
from faregate.credits.store import Store
from faregate.errors import ConfigError, InvalidRequest, StoreUnavailable
from faregate.ledger import schema
from faregate.ledger.accounts import Account
from faregate.ledger.admin_audit import Change
from faregate.ledger.keys import KeyFacts, KeyInfo
from faregate.ledger.organizations import BOOTSTRAP_ORGANIZATION_ID
from faregate.ledger.prices import StoredPrice
from faregate.ledger.queries import Ledger
from faregate.ledger.summary import GroupBy
from faregate.ledger.usage_filter import UsageFilter
from faregate.settings import Settings

WAIT_S = 2.0
"""How long Redis may take to answer a command of ours."""
BUCKETS = range(256)
_PAGE = 500
WHO = "command line"


# Opening ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """What is open: the ledger, and the gate when Redis answers."""

    settings: Settings
    ledger: Ledger
    pipe: Pipe | None
    gate: RedisGate | None


@asynccontextmanager
async def opened(settings: Settings, *, create: bool = False) -> AsyncIterator[Book]:
    """Book and gate of a data directory. Raises ConfigError when there is no book, unless it is to be created."""
    path = settings.data_dir / "faregate.db"
    if settings.database_url is None and not path.exists() and not create:
        raise ConfigError(f"there is no book in {settings.data_dir}: start faregate serve once, or see --config")
    with suppress(OSError):
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    schema.prepare(settings.book_url)
    ledger = Ledger(settings.book_url, metered=settings.stripe.metered)
    pipe = await connected(settings)
    try:
        await ledger.bootstrap(None)
        timing = GateTiming(heartbeat_s=settings.timing.heartbeat_s)
        gate = None if pipe is None else RedisGate(pipe, ledger.book, SystemClock(), timing)
        yield Book(settings=settings, ledger=ledger, pipe=pipe, gate=gate)
    finally:
        if pipe is not None:
            await pipe.close()
        await ledger.close()


async def connected(settings: Settings) -> Pipe | None:
    """A connection to the configured Redis, or to the running server's own; None: nothing answers."""
    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
    elif embedded.socket_path(settings.data_dir).exists():
        url = embedded.url(settings.data_dir)
    else:
        return None
    pipe = Store(url)
    try:
        await pipe.connect()
    except StoreUnavailable:
        await pipe.close()
        return None
    return pipe


# The desk -----------------------------------------------------------------------------------------------


class LocalDesk:
    """`desk.Desk` on an open book."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._ledger = book.ledger
        self._gate = book.gate

    async def create_key(self, body: Mapping[str, Any]) -> tuple[Any, str]:
        organization = await self._organization(body.get("organizationId"))
        new = make(test=bool(body.get("test")))
        account = body.get("accountId")
        facts = KeyFacts(
            id=new.id,
            prefix=new.prefix,
            secret_hash=new.secret_hash,
            name=str(body["name"]),
            organization_id=organization,
            account_id=None if account is None else (await self._ledger.accounts.get(organization, account)).id,
            scopes=parse_scopes(body["scopes"]),
            models=parse_models(body.get("models")),
            limits=parse_limits(new.id, body.get("limits")),
            max_multiplier=_multiplier(body.get("maxMultiplier")),
            test=bool(body.get("test")),
            expires_us=_moment(body.get("expiresAt"), "expiresAt"),
        )
        info = await self._ledger.keys.create(facts, by=_by("keys.create"))
        await self._changed(info)
        return key_json(info), new.secret

    async def keys(self, organization: str | None) -> Sequence[Any]:
        found: list[KeyInfo] = []
        wanted = None if organization is None else await self._organization(organization)
        while True:
            after = found[-1].id if found else None
            page = await self._ledger.keys.list(organization_id=wanted, limit=_PAGE, after=after)
            found += page
            if len(page) < _PAGE:
                return [key_json(info) for info in found]

    async def rotate_key(self, key_id: str) -> tuple[Any, str]:
        info = await self._ledger.keys.get(key_id)
        if info.above_organizations:
            raise InvalidRequest("the bootstrap admin key is changed with FAREGATE_ADMIN_KEY")
        new = make(test=info.test, key_id=info.id)
        info = await self._ledger.keys.rotate(
            info.id, secret_hash=new.secret_hash, prefix=new.prefix, by=_by("keys.rotate")
        )
        await self._changed(info)
        return key_json(info), new.secret

    async def revoke_key(self, key_id: str) -> None:
        info = await self._ledger.keys.get(key_id)
        if info.above_organizations:
            raise InvalidRequest("the bootstrap admin key cannot be revoked: change it with FAREGATE_ADMIN_KEY")
        await self._changed(await self._ledger.keys.revoke(info.id, by=_by("keys.revoke")))

    async def create_account(self, body: Mapping[str, Any]) -> Any:
        account = await self._ledger.accounts.create(
            await self._organization(body.get("organizationId")),
            name=str(body["name"]),
            external_id=body.get("externalId"),
            email=body.get("email"),
        )
        return account_json(account)

    async def accounts(self, organization: str | None) -> Sequence[Any]:
        chosen = await self._organization(organization)
        found: list[Account] = []
        while True:
            page = await self._ledger.accounts.list(chosen, limit=_PAGE, offset=len(found))
            found += page.items
            if not page.has_more:
                return [account_json(account) for account in found]

    async def account(self, organization: str | None, reference: str) -> Any:
        account = await self._ledger.accounts.get(await self._organization(organization), reference)
        return account_json(account) | await self._now(account)

    async def balance(self, organization: str | None, reference: str, at: str | None) -> Any:
        account = await self._ledger.accounts.get(await self._organization(organization), reference)
        shown = {"accountId": account.id, "externalId": account.external_id}
        moment_us = _moment(at, "--at")
        if moment_us is None:
            return shown | await self._now(account)
        posted = await self._ledger.book.balance_at(account.id, moment_us)
        return shown | {"balance": credits(posted), "at": moment_text(moment_us)}

    async def create_plan(self, body: Mapping[str, Any]) -> Any:
        return await LocalPlans(self._ledger).create(await self._organization(body["organizationId"]), body)

    async def plans(self, organization: str | None) -> Sequence[Any]:
        return await LocalPlans(self._ledger).list(await self._organization(organization))

    async def archive_plan(self, organization: str | None, plan_id: str) -> Any:
        return await LocalPlans(self._ledger).archive(await self._organization(organization), plan_id)

    async def assign_plan(self, organization: str | None, reference: str, body: Mapping[str, Any]) -> Any:
        account = await self._ledger.accounts.get(await self._organization(organization), reference)
        shown, snapshot = await LocalPlans(self._ledger).assign(account, body)
        await self._settle(account, snapshot)
        return shown

    async def create_person(self, kind: str, body: Mapping[str, Any]) -> Any:
        return await LocalPeople(self._ledger, WHO).create(kind, body)

    async def people(self, kind: str, organization: str | None) -> Sequence[Any]:
        return await LocalPeople(self._ledger, WHO).list(kind, organization)

    async def prices(self, organization: str | None) -> Sequence[Any]:
        whose = None if organization is None else await self._organization(organization)
        found: list[StoredPrice] = []
        while True:
            after = found[-1].id if found else None
            page = await self._ledger.prices.list(whose, every=whose is None, limit=_PAGE, after=after)
            found += page
            if len(page) < _PAGE:
                return [price_row(price) for price in found]

    async def grant(self, organization: str | None, reference: str, body: Mapping[str, Any]) -> Any:
        account = await self._ledger.accounts.get(await self._organization(organization), reference)
        amount = parse_credits(body["amount"], "amount")
        entry, snapshot = await self._ledger.book.add_credits(
            account.id,
            amount,
            description=body.get("description"),
            expires_us=_moment(body.get("expiresAt"), "expiresAt"),
        )
        await self._settle(account, snapshot)
        return {
            "accountId": account.id,
            "externalId": account.external_id,
            "added": credits(amount),
            "balance": credits(entry.balance_after),
            "transactionId": entry.id,
        }

    async def reserve(self, organization: str | None, reference: str, body: Mapping[str, Any]) -> Any:
        account = await self._ledger.accounts.get(await self._organization(organization), reference)
        return await self._reservations().create(account, body)

    async def reservations(self, organization: str | None, query: Mapping[str, Any]) -> Sequence[Any]:
        chosen, account = await self._organization(organization), query.get("accountId")
        known = None if account is None else await self._ledger.accounts.get(chosen, account)
        return await self._reservations().list(chosen, known, active_only=query["activeOnly"] == "true")

    async def end_reservation(self, organization: str | None, verb: str, body: Mapping[str, Any]) -> Any:
        return await self._reservations().end(await self._organization(organization), verb, body)

    async def usage(self, query: Mapping[str, Any]) -> Sequence[Any]:
        page = await self._ledger.usage.list(await self._filter(query), limit=int(query["limit"]))
        return [usage_json(record) for record in page.records]

    async def usage_page(self, query: Mapping[str, Any], cursor: str | None) -> tuple[Sequence[Any], str | None]:
        organization = await self._organization(query.get("organizationId"))
        wanted = await self._filter({**query, "organizationId": organization})
        page = await self._ledger.usage.list(wanted, limit=int(query["limit"]), cursor=cursor)
        return [record_json(record) for record in page.records], page.next_cursor

    async def usage_summary(self, query: Mapping[str, Any]) -> Any:
        group: GroupBy | None = query.get("groupBy")
        if group is not None and group not in get_args(GroupBy):
            raise InvalidRequest(f"--group-by must be one of {', '.join(get_args(GroupBy))}")
        summary = await self._ledger.summaries.get(await self._filter(query), group_by=group)
        groups = [totals_json(totals) | {"groupKey": name} for name, totals in summary.groups.items()]
        return totals_json(summary.total) | ({} if group is None else {"groups": groups})

    async def holds(self) -> Sequence[Any]:
        if self._book.pipe is None:
            return []
        rows = []
        for bucket in BUCKETS:
            rows += await _holds_of(self._book.pipe, bucket)
        return rows

    def _reservations(self) -> LocalReservations:
        return LocalReservations(self._ledger, self._gate, self._book.settings.timing.heartbeat_s)

    # What it rests on -----------------------------------------------------------------------------------

    async def _organization(self, named: str | None) -> str:
        return (await self._ledger.organizations.get(named or BOOTSTRAP_ORGANIZATION_ID)).id

    async def _filter(self, query: Mapping[str, Any]) -> UsageFilter:
        organization, account = query.get("organizationId"), query.get("accountId")
        chosen = None if organization is None and account is None else await self._organization(organization)
        if account is not None and chosen is not None:
            account = (await self._ledger.accounts.get(chosen, account)).id
        return UsageFilter(
            organization_id=chosen,
            account_id=account,
            model=query.get("modelId"),
            start_us=_moment(query.get("startDate"), "--since"),
            end_us=_moment(query.get("endDate"), "--until"),
        )

    async def _changed(self, info: KeyInfo) -> None:
        """The book has it; tell Redis, so that the next call already knows."""
        if self._gate is not None:
            with suppress(StoreUnavailable):  # then the key is read again within its minute
                await self._gate.set_rev(bucket_of(info.organization_id), info.id, info.rev)

    async def _settle(self, account: Account, snapshot: Snapshot) -> None:
        if self._gate is not None:
            with suppress(StoreUnavailable):  # heals: `insufficient` is only answered after the book was read
                await self._gate.settle(None, snapshot, bucket_of(account.organization_id))

    async def _now(self, account: Account) -> dict[str, object]:
        """Its balance, and what is reserved and available when Redis can say."""
        snapshot = await self._ledger.book.snapshot(account.id, (), gate=False)
        reserved = await self._reserved(account)
        if reserved is None:
            return {"balance": credits(snapshot.posted)}
        available = snapshot.posted - reserved + snapshot.overdraft
        return {"balance": credits(snapshot.posted), "reserved": credits(reserved), "available": credits(available)}

    async def _reserved(self, account: Account) -> int | None:
        if self._gate is None:
            return None
        try:
            open_holds = await self._gate.holds(bucket_of(account.organization_id), account.id)
        except StoreUnavailable:
            return None
        return sum(hold.hold.microcredits for hold in open_holds)


def _multiplier(value: object) -> Decimal:
    number = Decimal(1) if value is None else parse_decimal(value, "maxMultiplier")
    if not 1 <= number <= 10:
        raise InvalidRequest("maxMultiplier must be from 1 to 10", param="maxMultiplier")
    return number


def _moment(text: str | None, param: str) -> int | None:
    return None if text is None else microseconds(parse_moment(text, param))


async def _holds_of(pipe: Pipe, bucket: int) -> list[dict[str, object]]:
    """A bucket's holds, the one due first on top."""
    reply: list[bytes] = await pipe.command((b"ZRANGE", f"{base(bucket)}due", 0, -1, b"WITHSCORES"), WAIT_S)
    rows = []
    for member, score in zip(reply[::2], reply[1::2], strict=True):
        account_id, _, hold_id = member.decode().partition("|")
        text = await pipe.command((b"HGET", hold_keys(bucket, account_id)[2], hold_id), WAIT_S)
        if text is not None:
            rows.append(hold_json(text, bucket, account_id, hold_id, int(float(score)) * 1000))
    return rows


def _by(what: str) -> Change:
    return Change(who=WHO, what=what, detail={})
