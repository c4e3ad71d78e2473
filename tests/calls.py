"""Calls through a real flow, owner and stores, to providers of our making."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import orjson

from faregate.background import Background
from faregate.core.call import Call, Candidate, Principal
from faregate.core.estimate import CallEstimator
from faregate.core.price import PriceCard
from faregate.errors import (
    UpstreamError,
)
from faregate.flow import Flow
from faregate.forwarding import Forwarder
from faregate.gateway.openai import OpenAIDialect
from faregate.ledger.responses import Responses
from faregate.meter import meter_for
from faregate.owner import Owner
from faregate.ports import Answer, Inbound, Meter
from tests import parts
from tests.parts import HEARTBEAT_S, Site, until

M = Decimal("0.000001")
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass
class Scripted:
    """An answer: pieces of a body, and where it breaks off."""

    status: int = 200
    pieces: Sequence[bytes | UpstreamError] = ()
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    waits: asyncio.Event | None = None
    """Held up after the first piece until it is set, or it is aborted."""
    touched: int = 0
    closed: bool = False
    aborted: asyncio.Event = field(default_factory=asyncio.Event)

    async def chunks(self) -> AsyncIterator[bytes]:
        for number, piece in enumerate(self.pieces):
            if number == 1 and self.waits is not None:
                waits = {asyncio.create_task(self.waits.wait()), asyncio.create_task(self.aborted.wait())}
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
            if self.aborted.is_set():
                raise UpstreamError("aborted")
            if isinstance(piece, UpstreamError):
                raise piece
            yield piece

    def touch(self) -> None:
        self.touched += 1

    def abort(self) -> None:
        self.aborted.set()

    async def close(self) -> None:
        self.closed = True


def plain(given: int = 10, made: int = 5) -> Scripted:
    usage = {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    return Scripted(pieces=[orjson.dumps({"object": "chat.completion", "choices": [choice], "usage": usage})])


def refusal(status: int, usage: bool = False, **headers: str) -> Scripted:
    body: dict[str, Any] = {"error": {"message": f"no: {status} sk-secret", "type": "x"}}
    if usage:
        body["usage"] = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return Scripted(status, [orjson.dumps(body)], {"content-type": "application/json", **headers})


def event(content: str | None = None, **more: Any) -> bytes:
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}, "finish_reason": None}]
    return b"data: " + orjson.dumps({"object": "chat.completion.chunk", "choices": choices, **more}) + b"\n\n"


USAGE = event(usage={"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12})
DONE = b"data: [DONE]\n\n"


def stream(*pieces: bytes | UpstreamError, waits: asyncio.Event | None = None) -> Scripted:
    return Scripted(pieces=pieces, headers={"content-type": "text/event-stream"}, waits=waits)


@dataclass
class Place:
    """`ports.Provider`: gives its answers in turn, the last one again and again."""

    name: str
    answers: list[Scripted | UpstreamError]
    calls: list[str]
    retries: int = 0
    on_disconnect: Literal["drain", "cancel"] = "drain"
    kind: str = "openai"
    caps: list[int | None] = field(default_factory=list)

    def serves(self, endpoint: str, model: str) -> bool:
        return True

    async def send(self, call: Call, candidate: Candidate, output_cap: int | None) -> Answer:
        self.calls.append(self.name)
        self.caps.append(output_cap)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, UpstreamError):
            raise answer
        return answer

    def meter(self, call: Call, answer: Answer) -> Meter:
        streams = answer.headers.get("content-type", "").startswith("text/event-stream")
        return meter_for("openai", call.endpoint, stream=streams, drop_usage_chunk=False, wants_cost=call.wants_cost)

    def reply_headers(self, answer: Answer) -> dict[str, str]:
        return {"content-type": answer.headers["content-type"]}

    def redact(self, body: bytes) -> bytes:
        return body.replace(b"sk-secret", b"[redacted]")


@dataclass
class Client:
    """`ports.Reply`, remembered."""

    log: list[str]
    started: bool = False
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    gone: Callable[[], object] | None = None

    def on_gone(self, act: Callable[[], object] | None) -> None:
        self.gone = act

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        self.started, self.status, self.headers = True, status, dict(headers)
        self.log.append("start")

    async def send(self, chunk: bytes) -> None:
        self.body += chunk

    async def finish(self, chunk: bytes) -> None:
        self.body += chunk
        self.ended = True
        self.log.append("finish")

    def leave(self) -> None:
        assert self.gone is not None
        self.gone()


@dataclass
class House:
    """A flow on real stores with places of our making: `up`, then `down`."""

    site: Site
    owner: Owner
    principal: Principal
    up: Place
    down: Place
    client: Client
    rates: dict[str, int] = field(default_factory=lambda: {"up": 1, "down": 1})
    refreshes: int = 0
    heals: bool = True
    allow: Callable[[Principal], None] = lambda _: None
    estimator: CallEstimator = field(default_factory=CallEstimator)

    async def authenticate(self, secret: str) -> Principal:
        return self.principal

    async def refresh(self, principal: Principal) -> Principal:
        self.refreshes += 1
        if self.heals:
            self.principal = replace(principal, rev=7)
            await self.site.gate.set_rev(principal.bucket, principal.key_id, 7)
        return self.principal

    async def resolve(self, principal: Principal, named: str | None) -> str:
        return self.site.account_id

    def candidates(self, model: str, *, endpoint: str, principal: Principal, now_us: int) -> tuple[Candidate, ...]:
        return tuple(self._candidate(place.name) for place in (self.up, self.down))

    def with_models(self, candidate: Candidate, models: Iterable[str], principal: Principal, now_us: int) -> Candidate:
        return candidate

    def _candidate(self, name: str) -> Candidate:
        rates = {"input": M * self.rates[name], "output": 2 * M * self.rates[name]}
        card = PriceCard(id=f"{name}{rates}", provider=name, model="m", rates=rates, source="t", max_output_tokens=100)
        return Candidate(provider=name, kind="openai", model=f"{name}-m", card=card)

    async def call(self, body: Mapping[str, Any] | None = None, **headers: str) -> Client:
        places = {"up": self.up, "down": self.down}
        forwarder = Forwarder(providers=places, estimator=self.estimator, clock=self.site.clock)
        background = Background(
            owner=self.owner,
            book=self.site.book,
            gate=self.site.gate,
            store=Responses(self.site.database, "test"),
            providers=places,
            clock=self.site.clock,
            events=self.site.seen,
        )
        flow = Flow(
            keys=self,
            accounts=self,
            router=self,
            estimator=self.estimator,
            owner=self.owner,
            forwarder=forwarder,
            background=background,
            clock=self.site.clock,
            events=self.site.seen,
            allow=self.allow,
        )
        raw = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 40}], **(body or {})})
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        inbound = Inbound(endpoint="chat.completions", secret="s", headers=named, body=raw, request_id="req_1")
        await flow.serve(inbound, OpenAIDialect(), self.client)
        return self.client

    @property
    def calls(self) -> list[str]:
        return self.up.calls

    async def charges(self) -> list[int]:
        """What the book has, when nothing is held any more."""
        await until(lambda: self.owner.open_holds == 0)
        assert await self.site.holds() == {}
        return [charge for _, _, charge in await self.site.records()]


@asynccontextmanager
async def opened(stores: tuple[Path, Path], tmp_path: Path) -> AsyncIterator[House]:
    async with parts.site(stores, tmp_path) as site:
        owner = Owner(
            journal=site.journal,
            gate=site.gate,
            book=site.book,
            clock=site.clock,
            events=site.seen,
            name="boot",
            heartbeat_s=HEARTBEAT_S,
        )
        calls: list[str] = []
        up, down = Place("up", [plain()], calls), Place("down", [plain(20, 5)], calls)
        yield House(site, owner, site.principal, up, down, Client(site.log))
        await owner.drain(3)


async def in_flight(house: House, body: Mapping[str, Any], answer: Scripted) -> asyncio.Task[Client]:
    house.up.answers = [answer]
    serving = asyncio.create_task(house.call(body))
    await until(lambda: house.client.gone is not None or (house.calls != [] and house.owner.open_holds == 1))
    await asyncio.sleep(0.01)
    return serving
