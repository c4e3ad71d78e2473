"""A server on loopback that speaks Stripe's shapes: meter events, meters and their summaries, and faults on demand.

It is as strict as Stripe: identifiers once, whole numbers of 15 digits, timestamps within bounds, one call at a time
for each customer and meter. `applied` is what it has counted, whatever it answered.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web

KEY = "sk_test_operators0123456789abcdef"
DAY_S = 86_400
Play = Literal["ok", "lost", "cut", "hang", "hang_applied", "500", "500_applied", "429", "401", "400", "garbage"]


@dataclass(frozen=True)
class Counted:
    """A meter event that Stripe has."""

    identifier: str
    event_name: str
    customer: str
    value: int
    timestamp: int


@dataclass
class FakeStripe:
    """Start with `await FakeStripe.started(now_us)`. `plays` says what the next calls do; then all is well."""

    now_us: Callable[[], int]
    plays: deque[Play] = field(default_factory=deque)
    applied: list[Counted] = field(default_factory=list)
    requests: list[Counted] = field(default_factory=list)
    forgets: bool = False
    """Identifiers are forgotten at once: their 24 hours are over."""
    formula: str = "sum"
    meters: list[str] = field(default_factory=lambda: ["llm_usage"])
    summaries_fail: bool = False
    delay_s: float = 0.0
    overlaps: int = 0
    """Calls that met another one of the same customer and meter."""
    url: str = ""
    released: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """An event came in."""
    _busy: set[tuple[str, str]] = field(default_factory=set)
    _runner: web.AppRunner | None = None

    @classmethod
    async def started(cls, now_us: Callable[[], int], port: int = 0) -> Self:
        fake = cls(now_us)
        app = web.Application()
        app.router.add_post("/v1/billing/meter_events", fake._event)
        app.router.add_get("/v1/billing/meters", fake._list)
        app.router.add_get("/v1/billing/meters/{meter}/event_summaries", fake._summaries)
        fake._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await fake._runner.setup()
        site = web.TCPSite(fake._runner, "127.0.0.1", port)
        await site.start()
        host, bound = fake._runner.addresses[0][:2]
        fake.url = f"http://{host}:{bound}"
        return fake

    async def stop(self) -> None:
        self.released.set()
        if self._runner is not None:
            await self._runner.cleanup()

    def total(self, customer: str = "cus_1") -> int:
        return sum(event.value for event in self.applied if event.customer == customer)

    # Meter events -------------------------------------------------------------------------------------------

    async def _event(self, request: web.Request) -> web.StreamResponse:
        if (refused := _unauthorized(request)) is not None:
            return refused
        form = await request.post()
        event = Counted(
            identifier=str(form["identifier"]),
            event_name=str(form["event_name"]),
            customer=str(form["payload[stripe_customer_id]"]),
            value=int(str(form["payload[value]"])),
            timestamp=int(str(form["timestamp"])),
        )
        self.requests.append(event)
        self.arrived.set()
        lane = (event.customer, event.event_name)
        if lane in self._busy:
            self.overlaps += 1
            return _error(429, "rate_limit_error", "one at a time", code="lock_timeout")
        self._busy.add(lane)
        try:
            await asyncio.sleep(self.delay_s)
            return await self._play(request, event, str(form["payload[value]"]))
        finally:
            self._busy.discard(lane)

    async def _play(self, request: web.Request, event: Counted, value: str) -> web.StreamResponse:
        play = self.plays.popleft() if self.plays else "ok"
        if play == "429":
            return _error(429, "rate_limit_error", "slow down", headers={"Retry-After": "30"})
        if play == "401":
            return _error(401, "invalid_request_error", f"Invalid API Key provided: {KEY}")
        if play == "400":
            return _error(400, "invalid_request_error", f"No such customer for {KEY}", code="resource_missing")
        if play == "500":
            return _error(500, "api_error", "sorry")
        if play == "cut":
            return _cut(request)
        if play == "hang":
            await self.released.wait()
            return _cut(request)
        answer = self._apply(event, value)
        if play == "hang_applied":
            await self.released.wait()
        if play in ("lost", "hang_applied"):
            return _cut(request)
        if play == "500_applied":
            return _error(500, "api_error", "sorry")
        return web.Response(text="<html>proxy</html>", status=200) if play == "garbage" else answer

    def _apply(self, event: Counted, value: str) -> web.Response:
        now_s = self.now_us() // 1_000_000
        if not re.fullmatch(r"[0-9]{1,15}", value):
            return _error(400, "invalid_request_error", "not a whole number", code="invalid_value")
        if not now_s - 35 * DAY_S <= event.timestamp <= now_s + 300:
            return _error(400, "invalid_request_error", "timestamp", code="timestamp_too_far_in_past")
        if len(event.identifier) > 100:
            return _error(400, "invalid_request_error", "identifier too long")
        if not self.forgets and any(known.identifier == event.identifier for known in self.applied):
            return _error(400, "invalid_request_error", f"An event already exists with identifier {event.identifier}.")
        self.applied.append(event)
        body = {"object": "billing.meter_event", "created": now_s, "livemode": False, "timestamp": event.timestamp}
        payload = {"stripe_customer_id": event.customer, "value": value}
        names = {"event_name": event.event_name, "identifier": event.identifier, "payload": payload}
        return web.json_response({**body, **names})

    # Meters and summaries -----------------------------------------------------------------------------------

    async def _list(self, request: web.Request) -> web.Response:
        if (refused := _unauthorized(request)) is not None:
            return refused
        after = request.query.get("starting_after")
        start = 0 if after is None else int(after.removeprefix("mtr_")) + 1
        page = [self._meter(number) for number in range(len(self.meters))][start : start + 1]
        more = start + 1 < len(self.meters)
        return web.json_response({"object": "list", "url": "/v1/billing/meters", "has_more": more, "data": page})

    def _meter(self, number: int) -> dict[str, Any]:
        return {
            "object": "billing.meter",
            "id": f"mtr_{number}",
            "event_name": self.meters[number],
            "status": "active",
            "default_aggregation": {"formula": self.formula},
        }

    async def _summaries(self, request: web.Request) -> web.Response:
        if (refused := _unauthorized(request)) is not None:
            return refused
        if self.summaries_fail:
            return _error(500, "api_error", "sorry")
        meter = self.meters[int(request.match_info["meter"].removeprefix("mtr_"))]
        customer = request.query["customer"]
        start, end = int(request.query["start_time"]), int(request.query["end_time"])
        if start % 60 or end % 60:
            return _error(400, "invalid_request_error", "not aligned with minutes")
        found = [
            event.value
            for event in self.applied
            if event.customer == customer and event.event_name == meter and start <= event.timestamp < end
        ]
        summary = {"object": "billing.meter_event_summary", "id": "mes_1", "aggregated_value": float(sum(found))}
        return web.json_response({"object": "list", "has_more": False, "data": [summary] if found else []})


def _unauthorized(request: web.Request) -> web.Response | None:
    if request.headers.get("authorization") == f"Bearer {KEY}":
        return None
    return _error(401, "invalid_request_error", "Invalid API Key provided")


def _cut(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _error(
    status: int, kind: str, message: str, *, code: str | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    error = {"type": kind, "message": message, **({"code": code} if code else {})}
    return web.json_response({"error": error}, status=status, headers=headers)
