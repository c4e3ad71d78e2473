"""The control plane with real parts: either database, an embedded Valkey, a journal, the ASGI app under httpx."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from starlette.applications import Starlette

from faregate.api.price_layer import PriceLayer
from faregate.api.routes import routes
from faregate.api.services import Services
from faregate.auth.identity import Identity, ProviderFacts
from faregate.auth.keys import hash_secret
from faregate.auth.principals import Principals
from faregate.clock import SystemClock
from faregate.core.call import Record
from faregate.core.ids import uuid7
from faregate.credits.embedded import EmbeddedValkey
from faregate.credits.embedded import url as redis_url
from faregate.credits.gate import GateTiming, RedisGate
from faregate.credits.pipe import Pipe
from faregate.gateway.metrics import Metrics
from faregate.journal import FileJournal
from faregate.ledger.queries import Ledger
from faregate.owner import Owner
from faregate.pricing.catalog import LayeredCatalog
from faregate.pricing.file import parse
from faregate.providers.router import ModelRouter
from faregate.reservations import Reserver

ADMIN = "an-admin-key-of-at-least-32-characters"
PRICES = """
- provider: my-llm
  model: small
  per_million: {input: 0.1, output: 0.4, cached_input: 0.025}
  context_window: 128000
"""


@pytest.fixture(scope="session")
def valkey() -> Iterator[Path]:
    """The data directory of a running server."""
    with tempfile.TemporaryDirectory(prefix="fg") as folder:
        server = EmbeddedValkey(Path(folder))
        server.start()
        yield Path(folder)
        server.stop()


@dataclass
class Caller:
    """One key at the front door."""

    http: httpx.AsyncClient
    secret: str
    headers: dict[str, str] = field(default_factory=dict)

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
        **params: Any,
    ) -> httpx.Response:
        content = raw if raw is not None else None if body is None else orjson.dumps(body)
        sent = {"authorization": f"Bearer {self.secret}", **self.headers, **(headers or {})}
        return await self.http.request(method, path, content=content, headers=sent, params=params or None)

    async def get(self, path: str, **params: Any) -> httpx.Response:
        return await self.send("GET", path, **params)

    async def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.send("POST", path, body, headers=named)


@dataclass
class World:
    """One gateway process, as far as the control plane needs it."""

    services: Services
    ledger: Ledger
    gate: RedisGate
    owner: Owner
    pipe: Pipe
    http: httpx.AsyncClient
    app: Starlette

    @property
    def admin(self) -> Caller:
        return Caller(self.http, ADMIN)

    async def organization(self, name: str = "Acme", **facts: Any) -> str:
        answer = await self.admin.post("/v1/admin/organizations", {"name": name, **facts})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["organization"]["id"])

    async def key(self, organization_id: str | None, *scopes: str, **facts: Any) -> Caller:
        body = {"name": "k", "scopes": list(scopes) or ["credits:write", "usage:read", "proxy", "admin"], **facts}
        if organization_id is not None:
            body["organizationId"] = organization_id
        answer = await self.admin.post("/v1/admin/keys", body)
        assert answer.status_code == 201, answer.text
        return Caller(self.http, answer.json()["secret"])

    async def user(
        self, email: str = "ann@example.com", *, by: Caller | None = None, roles: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """A user, with a role in each organization that is named."""
        answer = await (by or self.admin).post("/v1/admin/users", {"email": email})
        assert answer.status_code == 201, answer.text
        user: dict[str, Any] = answer.json()["user"]
        for organization_id, role in (roles or {}).items():
            body = {"userId": user["id"], "organizationId": organization_id, "role": role}
            made = await (by or self.admin).post("/v1/admin/memberships", body)
            assert made.status_code == 201, made.text
        return user

    async def person(self, user: dict[str, Any], *, by: Caller | None = None, **facts: Any) -> Caller:
        """The user with an app password."""
        answer = await (by or self.admin).post(f"/v1/admin/users/{user['id']}/app-passwords", facts)
        assert answer.status_code == 201, answer.text
        return Caller(self.http, answer.json()["appPassword"]["token"])

    async def tenant(self, credits: str | None = None) -> tuple[Caller, str]:
        """A key of a new organization, and an account of it with credits."""
        caller = await self.key(await self.organization())
        account = (await caller.post("/v1/accounts/create", {"name": "Ann", "externalId": "ann"})).json()["account"]
        if credits is not None:
            added = await caller.post("/v1/accounts/credits/add", {"accountId": account["id"], "amount": credits})
            assert added.status_code == 200, added.text
        return caller, account["id"]

    async def used(self, caller: Caller, account_id: str, **changes: Any) -> Record:
        """One call's record in the book."""
        me = await self.services.keys.authenticate(caller.secret)
        facts: dict[str, Any] = {
            "hold_id": f"call_{uuid7().hex}",
            "hold_kind": "call",
            "kind": "actual",
            "organization_id": me.organization_id,
            "account_id": account_id,
            "key_id": me.key_id,
            "request_id": f"req_{uuid7().hex}",
            "occurred_at_us": self.services.clock.now_us(),
            "charge_microcredits": 1_500,
            "cost_usd": Decimal("0.0000015"),
            "endpoint": "chat.completions",
            "public_model": "fast",
            "provider": "my-llm",
            "provider_kind": "openai",
            "model": "small",
            "usage": {"input_tokens": 7, "output_tokens": 2, "cached_input_tokens": 1},
            "lines": (("input", "6", "0.0000001", "0.0000006"), ("output", "2", "0.0000004", "0.0000008")),
            "card": self.services.catalog.find("small", provider="my-llm", now_us=self.services.clock.now_us()),
        }
        record = Record(**{**facts, **changes})
        await self.ledger.book.commit(record)
        return record


def build_services(
    ledger: Ledger, gate: RedisGate, owner: Owner, metrics: Metrics, provider: ProviderFacts | None = None
) -> Services:
    clock = SystemClock()
    kinds = {"my-llm": "openai", "openai": "openai"}
    catalog = LayeredCatalog(parse(PRICES), kinds=kinds)
    reserver = Reserver(gate=gate, book=ledger.book, rows=ledger.reservations, clock=clock, events=metrics)
    return Services(
        keys=Principals(ledger.keys, gate, clock, admin_hash=hash_secret(ADMIN)),
        identity=Identity(ledger.people, clock, provider),
        ledger=ledger,
        owner=owner,
        reserver=reserver,
        gate=gate,
        catalog=catalog,
        prices=PriceLayer(ledger.prices, catalog),
        router=ModelRouter(providers=kinds, models={"fast": ["my-llm/small"]}, card=catalog.card),
        clock=clock,
        metrics_text=metrics.text,
    )


@pytest.fixture
async def world(url: str, valkey: Path, tmp_path: Path) -> AsyncIterator[World]:
    ledger, clock, metrics = Ledger(url), SystemClock(), Metrics()
    await ledger.bootstrap(hash_secret(ADMIN))
    pipe = Pipe(redis_url(valkey))
    await pipe.command((b"FLUSHALL",), 5.0)
    gate = RedisGate(pipe, ledger.book, clock, GateTiming(hold_wait_s=5.0))
    journal = FileJournal(tmp_path / "journal", "boot")
    owner = Owner(
        name="boot", journal=journal, gate=gate, book=ledger.book, clock=clock, events=metrics, settle_wait_s=5.0
    )
    services = build_services(ledger, gate, owner, metrics)
    app = Starlette(routes=routes(services))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://faregate.test") as http:
        yield World(services, ledger, gate, owner, pipe, http, app)
    assert await owner.drain(5.0), "a hold was left open"
    journal.close()
    await pipe.close()
    await ledger.close()


def exact(answer: httpx.Response) -> Any:
    """The body with its numbers as they were printed."""

    return json.loads(answer.text, parse_float=Decimal)


def code(answer: httpx.Response) -> tuple[int, str]:
    """Status and error code; every error has the one shape."""
    body = answer.json()
    assert body["success"] is False
    assert body["error"].keys() <= {"code", "message", "param"}
    return answer.status_code, body["error"]["code"]
