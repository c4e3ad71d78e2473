from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest

from faregate import flow as module
from faregate.core.call import Call, Candidate, Estimate, Hold, Principal
from faregate.core.estimate import CallEstimator
from faregate.core.price import PriceCard
from faregate.errors import (
    InsufficientCredits,
    InvalidApiKey,
    InvalidRequest,
    PermissionDenied,
    StoreUnavailable,
    UpstreamError,
    UpstreamTimeout,
)
from faregate.flow import Flow
from faregate.gateway.openai import OpenAIDialect
from faregate.meter import meter_for
from faregate.owner import Owner
from faregate.ports import Answer, Inbound, Meter
from tests import parts
from tests.parts import HEARTBEAT_S, Site, until

M = Decimal("0.000001")
RETRIED = (408, 425, 429, 500, 502, 503, 504, 529)
ELSEWHERE = (401, 402, 403, 404)


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

    def _candidate(self, name: str) -> Candidate:
        rates = {"input": M * self.rates[name], "output": 2 * M * self.rates[name]}
        card = PriceCard(id=f"{name}{rates}", provider=name, model="m", rates=rates, source="t", max_output_tokens=100)
        return Candidate(provider=name, kind="openai", model=f"{name}-m", card=card)

    async def call(self, body: Mapping[str, Any] | None = None, **headers: str) -> Client:
        flow = Flow(
            keys=self,
            accounts=self,
            router=self,
            estimator=self.estimator,
            owner=self.owner,
            providers={"up": self.up, "down": self.down},
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


@pytest.fixture(scope="module")
def stores() -> Iterator[tuple[Path, Path]]:
    with parts.stores() as stores:
        yield stores


@pytest.fixture
async def house(stores: tuple[Path, Path], tmp_path: Path) -> AsyncIterator[House]:
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


@pytest.fixture(autouse=True)
def backoffs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was waited for."""
    waited: list[object] = []

    def at_once(failed: object) -> float:
        waited.append(failed)
        return 0

    monkeypatch.setattr(module, "_backoff_s", at_once)
    return waited


STREAMED = {"stream": True, "stream_options": {"include_usage": True}}

# The main path ------------------------------------------------------------------------------------------


async def test_an_answer_passes_as_it_came_with_its_bill(house: House) -> None:
    client = await house.call()
    (body,) = plain().pieces
    assert (client.status, client.body, client.ended) == (200, body, True)
    usage_id = client.headers.pop("x-faregate-usage-id")
    assert usage_id
    assert client.headers == {
        "content-type": "application/json",
        "content-length": str(len(client.body)),
        "x-faregate-provider": "up",
        "x-faregate-model": "up-m",
        "x-faregate-hold-credits": client.headers["x-faregate-hold-credits"],
        "x-faregate-cost-usd": "0.00002",
        "x-faregate-credits-charged": "0.02",
        "x-faregate-credits-remaining": "0.98",
    }
    assert await house.charges() == [20_000]


async def test_the_charge_is_booked_before_the_last_byte_and_the_first_when_there_is_one_body(house: House) -> None:
    await house.call()
    order = [word for word in house.site.log if word in ("commit", "start", "finish")]
    assert order == ["commit", "start", "finish"]


async def test_the_end_of_a_stream_waits_for_the_charge(house: House) -> None:
    house.up.answers = [stream(event("a"), event("b"), USAGE, DONE)]
    client = await house.call(STREAMED)
    order = [word for word in house.site.log if word in ("commit", "start", "finish")]
    assert order == ["start", "commit", "finish"]
    assert client.body == event("a") + event("b") + USAGE + DONE
    assert await house.charges() == [14_000]


async def test_every_event_of_a_stream_starts_the_idle_timer_again_but_comments_do_not(house: House) -> None:
    answer = stream(event("a"), b": keep-alive\n\n", event("b"), USAGE, DONE)
    house.up.answers = [answer]
    await house.call(STREAMED)
    assert answer.touched in (3, 4)
    assert answer.closed


async def test_while_sql_is_slow_the_bill_has_no_balance(house: House) -> None:
    house.site.book.slow = asyncio.Event()
    client = await house.call()
    assert client.headers["x-faregate-credits-charged"] == "0.02"
    assert not {"x-faregate-credits-remaining", "x-faregate-usage-id"} & set(client.headers)
    house.site.book.slow.set()
    assert await house.charges() == [20_000]


@pytest.mark.parametrize(
    ("stage", "error"), [("allow", PermissionDenied), ("body", InvalidRequest), ("credits", InsufficientCredits)]
)
async def test_what_is_refused_at_the_door_holds_nothing_and_reaches_nobody(
    house: House, stage: str, error: type[Exception]
) -> None:
    def deny(_: Principal) -> None:
        raise PermissionDenied("no")

    if stage == "allow":
        house.allow = deny
    if stage == "credits":
        house.rates = {"up": 1, "down": 10_000}
    with pytest.raises(error):
        await house.call({"stream": 3} if stage == "body" else None)
    assert (house.calls, house.client.started) == ([], False)
    assert await house.charges() == []


# Retries and fallbacks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", RETRIED)
async def test_trouble_is_tried_again_at_the_same_place_and_then_elsewhere(
    house: House, status: int, backoffs: list[object]
) -> None:
    house.up.answers, house.up.retries = [refusal(status)], 2
    client = await house.call()
    assert (house.calls, len(backoffs)) == (["up", "up", "up", "down"], 2)
    assert (client.status, client.headers["x-faregate-provider"]) == (200, "down")
    assert await house.charges() == [30_000]


async def test_a_retry_that_helps_is_the_last(house: House) -> None:
    house.up.answers, house.up.retries = [refusal(503), plain()], 5
    await house.call()
    assert house.calls == ["up", "up"]


@pytest.mark.parametrize("status", ELSEWHERE)
async def test_a_refusal_that_is_about_the_place_goes_elsewhere_at_once(
    house: House, status: int, backoffs: list[object]
) -> None:
    house.up.answers, house.up.retries = [refusal(status)], 2
    client = await house.call()
    assert (house.calls, backoffs, client.status) == (["up", "down"], [], 200)


@pytest.mark.parametrize("status", [400, 405, 409, 413, 422, 451])
async def test_a_refusal_that_is_about_the_call_is_final_and_passes(house: House, status: int) -> None:
    house.up.answers, house.up.retries = [refusal(status)], 2
    client = await house.call()
    assert (house.calls, client.status) == (["up"], status)
    assert client.body == refusal(status).pieces[0].replace(b"sk-secret", b"[redacted]")  # type: ignore[union-attr]
    assert client.headers["content-length"] == str(len(client.body))
    assert await house.charges() == []


@pytest.mark.parametrize("error", [UpstreamError("refused"), UpstreamTimeout("silent")])
async def test_a_place_that_does_not_answer_is_tried_again_and_then_left(house: House, error: UpstreamError) -> None:
    house.up.answers, house.up.retries = [error], 1
    await house.call()
    assert house.calls == ["up", "up", "down"]


async def test_when_nobody_answers_the_last_error_is_told_and_nothing_is_charged(house: House) -> None:
    house.up.answers, house.down.answers = [UpstreamError("first")], [UpstreamTimeout("last")]
    with pytest.raises(UpstreamTimeout, match="last"):
        await house.call()
    assert (house.client.started, await house.charges()) == (False, [])


@pytest.mark.parametrize(
    ("status", "told"), [(401, 502), (402, 502), (403, 502), (500, 502), (503, 502), (404, 404), (429, 429)]
)
async def test_the_last_places_refusal_is_told_as_whose_fault_it_is(house: House, status: int, told: int) -> None:
    house.up.answers = house.down.answers = [refusal(status)]
    if told == 502:
        with pytest.raises(UpstreamError) as caught:
            await house.call()
        assert (caught.value.status, "secret" in caught.value.message) == (502, False)
    else:
        assert (await house.call()).status == told
    assert (house.calls, await house.charges()) == (["up", "down"], [])


async def test_a_failure_that_counted_something_is_charged_and_not_repeated(house: House) -> None:
    house.up.answers, house.up.retries = [refusal(500, usage=True)], 2
    with pytest.raises(UpstreamError):
        await house.call()
    assert (house.calls, await house.charges()) == (["up"], [20_000])


async def test_a_body_that_breaks_off_before_anything_was_delivered_is_tried_elsewhere(house: House) -> None:
    house.up.answers = [Scripted(pieces=[b'{"choices"', UpstreamError("cut")])]
    assert (await house.call()).status == 200
    assert (house.calls, await house.charges()) == (["up", "down"], [30_000])


async def test_a_stream_that_breaks_off_is_neither_repeated_nor_made_to_look_finished(house: House) -> None:
    house.up.answers, house.up.retries = [stream(event("a"), event("b"), event("c"), UpstreamError("cut"))], 2
    client = await house.call(STREAMED)
    assert (house.calls, client.status) == (["up"], 200)
    assert b"[DONE]" not in client.body
    assert orjson.loads(client.body.splitlines()[-2].removeprefix(b"data: "))["error"]["code"] == "upstream_error"
    (charge,) = await house.charges()
    assert charge > 0


async def test_a_stream_that_ends_without_its_end_is_told_as_an_error(house: House) -> None:
    house.up.answers = [stream(event("a"), event("b"))]
    client = await house.call(STREAMED)
    assert b'"upstream_error"' in client.body


async def test_each_attempt_gets_back_its_connection(house: House) -> None:
    answers = [refusal(500), refusal(503), plain()]
    house.up.answers, house.up.retries = list(answers), 2
    await house.call()
    assert [answer.closed for answer in answers] == [True, True, True]


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        *(("2", 2, 2.25), ("4", 4, 4.25), ("0", 0, 0.25)),
        *((odd, 0.25, 0.5) for odd in ("5", "soon", "-1", "1.5", "9" * 400, "9" * 5000)),
    ],
    ids=lambda value: str(value)[:8],
)
def test_a_short_wait_a_provider_asks_for_is_kept(
    monkeypatch: pytest.MonkeyPatch, asked: str, least: float, most: float
) -> None:
    monkeypatch.undo()
    place = Place("up", [], [])
    answer = Scripted(429, headers={"retry-after": asked})
    attempt = module.Attempt(
        candidate=None,  # type: ignore[arg-type]
        provider=place,
        answer=answer,
        meter=None,  # type: ignore[arg-type]
        cap=None,
    )
    assert all(least <= module._backoff_s(attempt) <= most for _ in range(20))
    assert 0.25 <= module._backoff_s(UpstreamError("x")) <= 0.5


# Low credit ---------------------------------------------------------------------------------------------


async def test_what_the_hold_covers_goes_upstream_as_the_bound_and_is_told(house: House) -> None:
    house.rates = {"up": 4, "down": 4}
    client = await house.call({"max_tokens": 100})
    (cap,) = house.up.caps
    assert cap is not None
    assert 0 < cap < 100
    assert client.headers["x-faregate-output-cap"] == str(cap)


async def test_a_call_that_is_covered_goes_out_without_a_bound(house: House) -> None:
    client = await house.call({"max_tokens": 10})
    assert (house.up.caps, "x-faregate-output-cap" in client.headers) == ([None], False)


class NothingLeft(CallEstimator):
    """The hold does not even pay for the input at this place."""

    def output_cap(
        self,
        call: Call,
        candidates: Sequence[Candidate],
        principal: Principal,
        estimate: Estimate,
        hold: Hold,
    ) -> int | None:
        return 0 if candidates[0].provider == "down" else None


async def test_a_place_the_hold_does_not_pay_for_is_not_asked(house: House) -> None:
    house.estimator, house.up.answers = NothingLeft(), [refusal(500)]
    with pytest.raises(InsufficientCredits):
        await house.call()
    assert (house.calls, await house.charges()) == (["up"], [])


# Keys ---------------------------------------------------------------------------------------------------


async def test_a_key_that_redis_knows_otherwise_is_read_again_and_the_call_goes_on(house: House) -> None:
    house.principal = replace(house.principal, key_id="k", rev=6)
    assert (await house.call()).status == 200
    assert (house.refreshes, house.calls) == (1, ["up"])
    assert len(await house.charges()) == 1


async def test_a_key_that_changes_all_the_time_is_refused(house: House) -> None:
    house.principal, house.heals = replace(house.principal, key_id="k", rev=6), False
    with pytest.raises(InvalidApiKey):
        await house.call()
    assert (house.refreshes, house.calls, await house.charges()) == (3, [], [])


async def test_a_key_that_lost_its_scope_meanwhile_is_refused(house: House) -> None:
    seen: list[int] = []

    def allow(principal: Principal) -> None:
        seen.append(principal.rev)
        if principal.rev == 7:
            raise PermissionDenied("no")

    house.principal, house.allow = replace(house.principal, key_id="k", rev=6), allow
    with pytest.raises(PermissionDenied):
        await house.call()
    assert (seen, house.calls) == ([6, 7], [])


# Clients that leave, holds that are lost ----------------------------------------------------------------


async def in_flight(house: House, body: Mapping[str, Any], answer: Scripted) -> asyncio.Task[Client]:
    house.up.answers = [answer]
    serving = asyncio.create_task(house.call(body))
    await until(lambda: house.client.gone is not None or (house.calls != [] and house.owner.open_holds == 1))
    await asyncio.sleep(0.01)
    return serving


async def test_a_stream_whose_client_left_is_read_to_its_end_and_charged_exactly(house: House) -> None:
    waits = asyncio.Event()
    serving = await in_flight(house, STREAMED, stream(event("a") * 2, event("b"), USAGE, DONE, waits=waits))
    house.client.leave()
    waits.set()
    client = await serving
    assert b'"b"' not in client.body
    assert (client.ended, await house.charges()) == (False, [14_000])


async def test_where_the_operator_says_cancel_the_provider_is_stopped_and_what_came_is_charged(house: House) -> None:
    house.up.on_disconnect = "cancel"
    answer = stream(event("a") * 2, event("b"), USAGE, DONE, waits=asyncio.Event())
    serving = await in_flight(house, STREAMED, answer)
    house.client.leave()
    await serving
    assert answer.aborted.is_set()
    (charge,) = await house.charges()
    assert charge > 0


async def test_a_client_that_leaves_before_the_answer_begins_owes_the_input_when_the_provider_is_let_go(
    house: House,
) -> None:
    async def never(call: Call, candidate: Candidate, output_cap: int | None) -> Answer:
        house.calls.append("up")
        await asyncio.Event().wait()
        raise AssertionError

    house.up.on_disconnect, house.up.send = "cancel", never  # type: ignore[method-assign]
    serving = await in_flight(house, STREAMED, plain())
    house.client.leave()
    client = await serving
    (charge,) = await house.charges()
    assert (house.calls, client.started) == (["up"], False)
    assert 0 < charge < 100_000, "the input: the provider may have read it"


async def test_a_client_that_leaves_a_plain_call_is_waited_out(house: House) -> None:
    waits = asyncio.Event()
    serving = await in_flight(house, {}, Scripted(pieces=[b" ", *plain().pieces], waits=waits))
    assert house.client.gone is None
    waits.set()
    await serving
    assert await house.charges() == [20_000]


async def test_a_call_whose_hold_was_swept_is_stopped_and_told_so(house: House) -> None:
    answer = stream(event("a") * 2, event("b"), USAGE, DONE, waits=asyncio.Event())
    serving = await in_flight(house, STREAMED, answer)
    await house.site.expire()
    ((hold_id, _),) = (await house.site.holds()).items()
    await house.site.gate.claim(house.site.bucket, house.site.account_id, hold_id)
    house.site.clock.pass_s(HEARTBEAT_S)
    await house.owner.beat()
    client = await serving
    assert (answer.aborted.is_set(), b'"store_unavailable"' in client.body) == (True, True)
    assert len(await house.charges()) == 1


async def test_the_heartbeat_learns_what_was_delivered(house: House) -> None:
    waits = asyncio.Event()
    serving = await in_flight(house, STREAMED, stream(event("word " * 8) * 10, USAGE, DONE, waits=waits))
    (before,) = await house.site.gate.holds(house.site.bucket, house.site.account_id)
    house.site.clock.pass_s(HEARTBEAT_S)
    await house.owner.beat()
    (after,) = await house.site.gate.holds(house.site.bucket, house.site.account_id)
    waits.set()
    await serving
    assert after.progress_microcredits != before.progress_microcredits


async def test_a_reply_that_cannot_be_written_is_charged_all_the_same(house: House) -> None:
    async def broken(status: int, headers: Mapping[str, str]) -> None:
        raise RuntimeError("no wire")

    house.client.start = broken  # type: ignore[method-assign]
    house.up.answers = [stream(event("a"), USAGE, DONE)]
    with pytest.raises(RuntimeError):
        await house.call(STREAMED)
    (charge,) = await house.charges()
    assert charge > 0


async def test_nothing_is_forwarded_without_a_journal(house: House) -> None:
    house.site.journal.fails = frozenset({"forward"})
    with pytest.raises(StoreUnavailable):
        await house.call()
    house.site.journal.fails = frozenset()
    assert (house.calls, await house.charges()) == ([], [])
