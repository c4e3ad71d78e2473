"""A whole Faregate in one test: the real gateway under uvicorn, a real Valkey, a real book, a scripted upstream."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import uvicorn
from sqlalchemy import Connection

from faregate import app
from faregate.auth import keys
from faregate.auth.limits import parse_limits
from faregate.core.call import bucket_of
from faregate.credits.embedded import EmbeddedValkey
from faregate.errors import StoreUnavailable
from faregate.gateway.upgrade import upgraded
from faregate.ledger import audit
from faregate.ledger.accounts import Account, Accounts
from faregate.ledger.engine import transact
from faregate.ledger.keys import ApiKeys, KeyFacts
from faregate.ledger.organizations import Organization, Organizations
from faregate.ledger.usage import UsageRecord, UsageRecords
from faregate.ledger.usage_filter import UsageFilter
from faregate.ports import SweptHold
from faregate.settings import load
from faregate.settings_model import Settings
from tests.upstreams.scripted import Scripted

T = TypeVar("T")

INPUT = 1_000
"""Microcredits of one input token at the tests' price: 1 USD per million."""
OUTPUT = 2_000
"""Microcredits of one output token: 2 USD per million."""
HEARTBEAT_S = 0.2
PROVIDER_KEY = "sk-operators-own-0123456789abcdef"
CREDIT = 1_000_000

PRICES = """
- {provider: up, model: "*", per_million: {input: 1, output: 2}, max_output_tokens: 1000}
- {provider: down, model: "*", per_million: {input: 1, output: 2}, max_output_tokens: 1000}
"""


def settings(data_dir: Path, upstream_url: str, redis_url: str | None, changes: Mapping[str, object]) -> Settings:
    """Short timing, patient with a busy disk; `up` is the scripted upstream, `bare` the same without prices."""
    prices = data_dir / "prices.yaml"
    prices.write_text(str(changes.get("prices", PRICES)))
    up = {"kind": "openai", "base_url": upstream_url, "api_key": PROVIDER_KEY, "retries": 0}
    chosen: dict[str, object] = {
        "data_dir": str(data_dir),
        "redis_url": redis_url,
        "timing.heartbeat_s": HEARTBEAT_S,
        "timing.shutdown_s": 5.0,
        "credits.settle_wait_ms": 3000,
        "providers.up": up,
        "providers.bare": up,
        **{
            name: {**up, **_mapping(value)} if name.startswith("providers.") else value
            for name, value in changes.items()
        },
        "prices": str(prices),
    }
    return load(environ={"FAREGATE_ADMIN_KEY": "a" * 40}, overrides=chosen)


def _mapping(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value


@dataclass(frozen=True)
class Caller:
    """A key and what it may spend."""

    secret: str
    key_id: str
    organization: Organization
    account_id: str


@dataclass
class House:
    """A running gateway. `http` speaks for `caller`, whose account has 1000 credits."""

    runtime: app.Runtime
    upstream: Scripted
    url: str
    valkey: EmbeddedValkey
    callers: list[Caller] = field(default_factory=list)
    http: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.AsyncClient(base_url=self.url, timeout=30, limits=httpx.Limits(max_connections=None))

    async def __aenter__(self) -> Self:
        await self.caller()
        self.http.headers["authorization"] = f"Bearer {self.me.secret}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    # Who calls ------------------------------------------------------------------------------------------

    @property
    def me(self) -> Caller:
        return self.callers[0]

    async def caller(
        self,
        balance: int = 1000 * CREDIT,
        *,
        limits: Sequence[Mapping[str, object]] = (),
        organization: Mapping[str, Any] | None = None,
        of: Caller | None = None,
        **facts: Any,
    ) -> Caller:
        """A new key: of a new organization with `balance` microcredits, or of the same account as `of`."""
        tenant = (
            of.organization
            if of
            else await Organizations(self.runtime.ledger.database).create(name="tenant", **(organization or {}))
        )
        if of is None and balance:
            await self.runtime.ledger.book.add_credits(tenant.default_account_id, balance)
        made = keys.make(test=facts.get("test", False))
        facts = {"scopes": frozenset({"proxy"}), **facts}
        await ApiKeys(self.runtime.ledger.database).create(
            KeyFacts(
                id=made.id,
                prefix=made.prefix,
                secret_hash=made.secret_hash,
                name="k",
                organization_id=tenant.id,
                limits=parse_limits(made.id, list(limits)),
                **facts,
            )
        )
        self.callers.append(Caller(made.secret, made.id, tenant, facts.get("account_id") or tenant.default_account_id))
        return self.callers[-1]

    async def account(self, external_id: str, balance: int = 0) -> Account:
        """One more account of my organization."""
        accounts = Accounts(self.runtime.ledger.database)
        made = await accounts.create(self.me.organization.id, name=external_id, external_id=external_id)
        if balance:
            await self.runtime.ledger.book.add_credits(made.id, balance)
        return made

    # Calls ----------------------------------------------------------------------------------------------

    async def call(
        self,
        model: str = "up/m",
        prompt: str = "hi",
        *,
        by: Caller | None = None,
        script: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        **body: object,
    ) -> httpx.Response:
        """A chat completion, read whole; `script` tells the upstream what to do."""
        return await self.http.post(
            "/v1/chat/completions", json=asked(model, prompt, script, body), headers=_headers(by, headers)
        )

    @asynccontextmanager
    async def streaming(
        self,
        model: str = "up/m",
        prompt: str = "hi",
        *,
        by: Caller | None = None,
        script: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        **body: object,
    ) -> AsyncIterator[httpx.Response]:
        """A streamed chat completion, to be read while it comes; leaving early hangs up."""
        wanted = asked(model, prompt, script, {"stream": True, **body})
        async with self.http.stream("POST", "/v1/chat/completions", json=wanted, headers=_headers(by, headers)) as got:
            yield got

    async def stream(self, *args: Any, **kwargs: Any) -> bytes:
        """A streamed chat completion's bytes."""
        async with self.streaming(*args, **kwargs) as got:
            return await got.aread()

    # What came of it ------------------------------------------------------------------------------------

    async def records(self, of: Caller | None = None) -> list[UsageRecord]:
        """Usage records, newest first."""
        wanted = UsageFilter(organization_id=(of or self.me).organization.id)
        return list((await UsageRecords(self.runtime.ledger.database).list(wanted, limit=1000)).records)

    async def record(self, of: Caller | None = None) -> UsageRecord:
        """The one usage record, once everything is settled (a released hold may leave a record of zero)."""
        await self.settled(of)
        (record,) = [record for record in await self.records(of) if record.outcome != "released"]
        return record

    async def balance(self, of: Caller | None = None) -> int:
        """Microcredits by the book."""
        who = of or self.me
        return (await Accounts(self.runtime.ledger.database).get(who.organization.id, who.account_id)).posted

    async def redis(self, of: Caller | None = None) -> dict[str, str]:
        """The account as Redis has it."""
        who = of or self.me
        return await self.runtime.gate.account(bucket_of(who.organization.id), who.account_id)

    async def holds(self, of: Caller | None = None) -> list[SweptHold]:
        """The account's open holds in Redis."""
        who = of or self.me
        return await self.runtime.gate.holds(bucket_of(who.organization.id), who.account_id)

    async def settled(self, of: Caller | None = None) -> None:
        who = of or self.me
        await assert_settled(self.runtime, who.organization.id, who.account_id)

    @contextmanager
    def locked_book(self) -> Iterator[None]:
        """Another process has the book's write lock."""
        url = self.runtime.settings.book_url
        locked, release = threading.Event(), threading.Event()

        def lock(conn: Connection) -> None:  # SQLite's transaction is the lock
            if conn.dialect.name == "postgresql":
                conn.exec_driver_sql("LOCK TABLE accounts IN EXCLUSIVE MODE")
            locked.set()
            release.wait()

        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(transact, url, lock)
            try:
                assert locked.wait(20)
                yield
            finally:
                release.set()
                other.result()


def asked(
    model: str, prompt: str, script: Mapping[str, object] | None, body: Mapping[str, object]
) -> dict[str, object]:
    """The request body; a script travels in the prompt."""
    text = prompt if script is None else f"{prompt} x-script: {json.dumps(script)}"
    return {"model": model, "messages": [{"role": "user", "content": text}], **body}


def _headers(by: Caller | None, headers: Mapping[str, str] | None) -> dict[str, str]:
    return ({"authorization": f"Bearer {by.secret}"} if by else {}) | dict(headers or {})


async def assert_settled(runtime: app.Runtime, organization_id: str, account_id: str) -> None:
    """At rest: nothing held, Redis shows the book's (posted, seq), the entries add up, the journal is empty."""
    bucket = bucket_of(organization_id)

    async def unsettled() -> dict[str, object]:
        with suppress(StoreUnavailable):  # Redis may have come back this moment.
            return await differences()
        return {"redis": "away"}

    async def differences() -> dict[str, object]:
        held = await runtime.gate.account(bucket, account_id)
        holds = await runtime.gate.holds(bucket, account_id)
        booked = await Accounts(runtime.ledger.database).get(organization_id, account_id)
        found: dict[str, object] = {"holds": holds, "owner": runtime.owner.open_holds}
        found["journal"] = runtime.journal.open_holds
        if held:  # An account that never had a hold is not in Redis.
            shown = (held["posted"], held["seq"], held.get("held", "0"))
            found["redis"] = () if shown == (str(booked.posted), str(booked.seq), "0") else (shown, booked)
        return {name: value for name, value in found.items() if value}

    left: dict[str, object] = {}
    for _ in range(250):
        if not (left := await unsettled()):
            break
        await asyncio.sleep(0.02)
    assert left == {}
    assert await asyncio.to_thread(audit.audit, runtime.settings.book_url) == []


async def until(done: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait for something that happens by itself."""

    async def is_done() -> bool:
        return done()

    await eventually(is_done, timeout_s)


async def eventually(read: Callable[[], Awaitable[T]], timeout_s: float = 5.0) -> T:
    """Read until there is something."""
    async with asyncio.timeout(timeout_s):
        while not (found := await read()):  # noqa: ASYNC110 - a state elsewhere, nothing to be told by
            await asyncio.sleep(0.01)
    return found


def events(body: bytes) -> list[Any]:
    """The JSON of each data event of an SSE body; "[DONE]" as it stands."""
    found = [line[5:].strip() for line in body.splitlines() if line.startswith(b"data:")]
    return [text.decode() if text == b"[DONE]" else json.loads(text, parse_float=Decimal) for text in found]


def said(body: bytes) -> str:
    """The text of an SSE body."""
    chunks = [event for event in events(body) if isinstance(event, dict) and event.get("choices")]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


@asynccontextmanager
async def serving(runtime: app.Runtime) -> AsyncIterator[str]:
    """The runtime's app under uvicorn, in this loop. Yields its URL."""
    config = uvicorn.Config(
        app.build(runtime),
        http="httptools",
        ws=upgraded,  # type: ignore[arg-type]  # called like a class
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=5,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        await server.startup(sockets=[listener])
        assert server.started
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            await server.shutdown(sockets=[listener])


@asynccontextmanager
async def opened(
    data_dir: Path,
    database_url: str,
    valkey: EmbeddedValkey,
    upstream: Scripted,
    redis_url: str,
    changes: Mapping[str, object],
) -> AsyncIterator[House]:
    """A house on `data_dir` and a book that has its schema."""
    chosen = settings(data_dir, upstream.url, redis_url, {"database_url": database_url, **changes})
    runtime = app.Runtime(settings=chosen, fresh=True)
    async with serving(runtime) as url, House(runtime, upstream, url, valkey) as house:
        yield house
