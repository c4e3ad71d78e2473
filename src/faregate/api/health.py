"""Operations: `/health/live`, `/health/ready`, `/metrics`. Public, so each is cheap however often it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from faregate.api.describe import INTEGER, TEXT, by_name, choice, described, obj
from faregate.api.http import Reply, Request
from faregate.api.services import Services
from faregate.core.keys import BOOTSTRAP_KEY_ID
from faregate.errors import FaregateError

KEPT_S = 0.5
_READY = obj(
    status=choice("ok", "degraded", "unavailable"), checks=by_name(choice("ok", "down")), modes=by_name(INTEGER)
)
_PATIENCE_S = 1.0
_DEGRADED = ("redis_refuses", "redis_late", "redis_grace", "sql_backlog", "sql_reads", "replay", "parked")


@described(answer=obj(status=choice("ok")))
async def live(services: Services, request: Request) -> Reply:
    """The process answers."""
    return Reply(body={"status": "ok"})


@described(answer=TEXT, content="text/plain; version=0.0.4; charset=utf-8")
async def metrics(services: Services, request: Request) -> Reply:
    """Prometheus's text."""
    text = await asyncio.to_thread(services.metrics_text)
    return Reply(body=text, headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})


class Readiness:
    """What new calls need, asked at most twice a second.

    Redis (and whatever else admits) down: 503, nothing can be let in. SQL down alone: 200 and `degraded`, since
    answers complete on the journal and known keys and balances go on. `modes` says how this worker fares, row by row;
    what happens to single calls (a provider that fails, a client that leaves) does not make it degraded. Notes
    change nothing.
    """

    def __init__(self) -> None:
        self._asked_at = 0.0
        self._asking: asyncio.Task[Reply] | None = None

    @described(answer=_READY, answers={503: _READY})
    async def ready(self, services: Services, request: Request) -> Reply:
        """Which dependency is down, if any."""
        now = services.clock.monotonic()
        if self._asking is None or (self._asking.done() and now >= self._asked_at + KEPT_S):
            self._asked_at = now
            self._asking = asyncio.create_task(_ask(services))
        return await asyncio.shield(self._asking)


async def _ask(services: Services) -> Reply:
    async def redis() -> None:
        await services.gate.account(0, "health")

    async def sql() -> None:
        await services.ledger.keys.by_id(BOOTSTRAP_KEY_ID)

    probes = {"redis": redis, "sql": sql, **services.probes}
    answers = await asyncio.gather(*(_probe(probe) for probe in probes.values()))
    checks = dict(zip(probes, answers, strict=True))
    closed = any(word != "ok" for name, word in checks.items() if name != "sql")
    modes = dict(services.modes())
    degraded = checks["sql"] != "ok" or any(modes.get(mode) for mode in _DEGRADED)
    status = "unavailable" if closed else "degraded" if degraded else "ok"
    for name, word in zip(services.notes, await asyncio.gather(*map(_note, services.notes.values())), strict=True):
        if word:
            checks[name] = word
    return Reply(body={"status": status, "checks": checks, "modes": modes}, status=503 if closed else 200)


async def _note(note: Callable[[], Awaitable[str]]) -> str:
    """What cannot be asked now says nothing: the probes tell of its store."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await note()
    except (FaregateError, TimeoutError):
        return ""


async def _probe(probe: Callable[[], Awaitable[None]]) -> str:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await probe()
    except (FaregateError, TimeoutError):
        return "down"
    return "ok"
