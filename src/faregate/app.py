"""The composition root: builds every adapter from the settings, wires the flow, and starts and stops it in order.

start   schema -> admin key -> Redis -> dead journals' holds back in Redis -> their truths into the book -> traffic
stop    no new calls (the server sees to it) -> calls end, or are broken off -> commits end, while the heartbeat goes on
        -> Redis and book closed -> journal empty
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp

from faregate.api.auth import authenticate
from faregate.api.price_layer import PriceLayer
from faregate.api.routes import routes as control_plane
from faregate.api.services import Services
from faregate.auth.accounts import AccountResolver
from faregate.auth.identity import Identity, ProviderFacts
from faregate.auth.jwks import MOST_BYTES as MOST_KEY_SET_BYTES
from faregate.auth.keys import hash_secret, make_admin
from faregate.auth.principals import Principals
from faregate.auth.scopes import Scope as KeyScope
from faregate.auth.scopes import require
from faregate.background import Background
from faregate.billing import Billing, Meters, dead_letters
from faregate.chores import Chores
from faregate.clock import SystemClock
from faregate.core.call import Principal
from faregate.core.estimate import CallEstimator, EstimateSettings
from faregate.core.ids import uuid7_hex
from faregate.credits import embedded
from faregate.credits.gate import GateTiming, RedisGate
from faregate.credits.store import Store
from faregate.errors import BookUnavailable, JournalUnavailable, StoreUnavailable
from faregate.flow import Flow
from faregate.forwarding import Forwarder
from faregate.gateway.doors import DOORS, PATTERNS, Door
from faregate.gateway.endpoint import Endpoint
from faregate.gateway.front import Front
from faregate.gateway.kept import PATHS, KeptEndpoint
from faregate.gateway.kept import ROUTES as KEPT
from faregate.gateway.metrics import Metrics
from faregate.gateway.realtime import RealtimeEndpoint
from faregate.gateway.replays import Replays
from faregate.journal import FileJournal, dead_journals
from faregate.ledger import schema
from faregate.ledger.queries import Ledger
from faregate.ledger.replays import Replays as ReplayedAnswers
from faregate.ledger.responses import Responses
from faregate.meter import meter_for
from faregate.modes import Parts, modes
from faregate.owner import Owner
from faregate.pricing import file as price_file
from faregate.pricing.catalog import LayeredCatalog
from faregate.pricing.zones import zoned_providers
from faregate.providers.documents import fetch
from faregate.providers.registry import build_providers, sandbox_name
from faregate.providers.router import ModelRouter
from faregate.providers.upstream import Upstream
from faregate.realtime.door import Realtime
from faregate.realtime.fares import Parts as RealtimeParts
from faregate.recovery import BUCKETS, Recovery
from faregate.reservations import Reserver
from faregate.settings import Settings
from faregate.shutdown import shutdown_shares

log = logging.getLogger("faregate")

_START_PATIENCE_S = 5.0
_PROXY: tuple[KeyScope, ...] = ("proxy",)
_NOTE_S = 10.0
_BREAK_S = 0.2
"""How long broken calls get to end by themselves: less than the forwarder waits before it tries again."""


@dataclass(slots=True, kw_only=True)
class Runtime:
    """Everything one worker is made of."""

    settings: Settings
    worker: int = 0
    fresh: bool = False
    """The embedded Valkey was started for this run: once every journal is replayed, nobody else was in it."""
    clerk: str | None = None
    """The socket of the process that writes an SQLite book for all workers; None: this one writes it itself."""
    metrics_dir: Path | None = None
    """Where the workers' counters meet, when there are several."""
    say: Callable[[str], None] = print
    clock: SystemClock = field(default_factory=SystemClock)
    metrics: Metrics = field(init=False)
    ledger: Ledger = field(init=False)
    pipe: Store = field(init=False)
    gate: RedisGate = field(init=False)
    journal: FileJournal = field(init=False)
    owner: Owner = field(init=False)
    reserver: Reserver = field(init=False)
    recovery: Recovery = field(init=False)
    chores: Chores = field(init=False)
    keys: Principals = field(init=False)
    accounts: AccountResolver = field(init=False)
    catalog: LayeredCatalog = field(init=False)
    prices: PriceLayer = field(init=False)
    router: ModelRouter = field(init=False)
    upstream: Upstream = field(init=False)
    background: Background = field(init=False)
    flow: Flow = field(init=False)
    replays: Replays | None = field(init=False)
    """In front of the flow, when answers are kept for repeats."""
    realtime: Realtime = field(init=False)
    calls: set[asyncio.Task[None]] = field(default_factory=set)
    """The data plane's calls that are running."""
    _loops: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings, boot = self.settings, f"{self.clock.now_us():016d}-{uuid7_hex()[-8:]}"
        timing = settings.timing
        self.metrics = Metrics(self.metrics_dir)
        metered = settings.stripe.metered
        self.ledger = Ledger(settings.book_url, now_us=self.clock.now_us, clerk=self.clerk, metered=metered)
        self.pipe = Store(redis_url(settings))
        self.gate = RedisGate(
            self.pipe,
            self.ledger.book,
            self.clock,
            GateTiming(
                heartbeat_s=timing.heartbeat_s,
                hold_wait_s=timing.hold_wait_ms / 1000,
                grace_patience_s=timing.grace_patience_s,
            ),
        )
        folder = settings.data_dir / "journal"
        self.journal = FileJournal(folder, boot, max_bytes=settings.journal.max_bytes)
        self.owner = Owner(
            journal=self.journal,
            gate=self.gate,
            book=self.ledger.book,
            clock=self.clock,
            events=self.metrics,
            name=boot,
            heartbeat_s=timing.heartbeat_s,
            settle_wait_s=settings.credits.settle_wait_ms / 1000,
        )
        self.reserver = Reserver(
            gate=self.gate,
            book=self.ledger.book,
            rows=self.ledger.reservations,
            clock=self.clock,
            events=self.metrics,
            heartbeat_s=timing.heartbeat_s,
        )
        self.recovery = Recovery(
            gate=self.gate,
            book=self.ledger.book,
            clock=self.clock,
            events=self.metrics,
            reservations=self.reserver,
            find=lambda: dead_journals(folder),
            name=boot,
            policy=settings.credits.on_unconfirmed,
            heartbeat_s=timing.heartbeat_s,
        )
        self.chores = Chores(self.ledger, self.gate, name=boot, every_s=timing.heartbeat_s)
        self._build_calls(boot)

    def _build_calls(self, boot: str) -> None:
        """Routing, prices, providers and the flow over them."""
        settings, chosen = self.settings, self.settings.credits
        self.upstream = Upstream()
        providers = build_providers(settings.providers, self.upstream, meter_for)
        kinds = {name: providers[name].kind for name in settings.providers}
        entries = price_file.read(settings.prices) if settings.prices is not None else ()
        zoned = zoned_providers(settings.providers)
        self.catalog = LayeredCatalog(entries, kinds=kinds, unpriced=chosen.unpriced, zoned=zoned)
        self.prices = PriceLayer(self.ledger.prices, self.catalog)
        self.router = ModelRouter(
            providers=kinds,
            models=settings.models,
            card=self.catalog.card,
            sandbox=sandbox_name(providers),
            serves=lambda provider, endpoint, model: providers[provider].serves(endpoint, model),
        )
        self.keys = Principals(self.ledger.keys, self.gate, self.clock)
        cap = chosen.on_low_credit == "cap"
        estimator = CallEstimator(
            EstimateSettings(
                bytes_per_token=chosen.bytes_per_token,
                min_output_tokens=chosen.min_output_tokens,
                default_max_output_tokens=chosen.default_max_output_tokens,
                cap=cap,
            )
        )
        self.background = Background(
            owner=self.owner,
            book=self.ledger.book,
            gate=self.gate,
            store=Responses(self.ledger.database, boot),
            providers=providers,
            clock=self.clock,
            events=self.metrics,
            policy=chosen.on_unconfirmed,
            heartbeat_s=settings.timing.heartbeat_s,
        )
        accounts = self.accounts = AccountResolver(self.ledger.accounts, self.clock)
        self.flow = Flow(
            keys=self.keys,
            accounts=accounts,
            router=self.router,
            estimator=estimator,
            owner=self.owner,
            forwarder=Forwarder(providers=providers, estimator=estimator, clock=self.clock),
            background=self.background,
            clock=self.clock,
            events=self.metrics,
            share_permille=chosen.share_permille,
            cap_on_low_credit=cap,
            allow=lambda principal: require(principal, "proxy"),
        )
        self.replays = self._replays(accounts, boot) if settings.replay.ttl_s > 0 else None
        self.realtime = Realtime(
            RealtimeParts(
                flow=self.flow,
                keys=self.keys,
                accounts=accounts,
                router=self.router,
                catalog=self.catalog,
                estimator=estimator,
                owner=self.owner,
                book=self.ledger.book,
                providers=providers,
                meter_for=lambda kind: meter_for(kind, "realtime", stream=True),
                clock=self.clock,
                events=self.metrics,
                allow=lambda principal: require(principal, "proxy"),
            )
        )

    def _replays(self, accounts: AccountResolver, boot: str) -> Replays:
        settings = self.settings
        return Replays(
            self.flow,
            keys=self.keys,
            accounts=accounts,
            allow=lambda principal: require(principal, "proxy"),
            store=ReplayedAnswers(self.ledger.database, boot),
            clock=self.clock,
            ttl_s=settings.replay.ttl_s,
            max_bytes=settings.replay.max_bytes,
            heartbeat_s=settings.timing.heartbeat_s,
        )

    # Starting and stopping ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Everything that must be in order before the first call."""
        await self._admin_key()
        await self.prices.refresh()
        if self.worker == 0:
            await self._recover()
        works = (
            self.owner.run,
            self.recovery.run,
            self.background.run,
            self.chores.run,
            self.prices.run,
            self._note,
            *self._billing(),
            *([] if self.replays is None else [self.replays.run]),
        )
        self._loops = [asyncio.create_task(_kept_up(work)) for work in works]

    def _billing(self) -> list[Callable[[], Awaitable[None]]]:
        """One worker sends: Stripe's library is large, and takes one event of a customer at a time anyway."""
        chosen = self.settings.stripe
        if chosen.api_key is None or self.worker != 0:
            return []
        api_key = chosen.api_key.get_secret_value()

        def load() -> Meters:
            meters: Meters = import_module("faregate.export.stripe").StripeMeters(api_key, chosen.base_url)
            return meters

        billing = Billing(
            self.ledger.database,
            meter=chosen.event_name,
            connect=lambda: asyncio.to_thread(load),
            clock=self.clock,
            events=self.metrics,
        )
        return [billing.run]

    async def _admin_key(self) -> None:
        """The bootstrap admin key: from the environment, or made on the first start and said once."""
        given = self.settings.admin_key
        per_usd = self.settings.credits.per_usd
        found = await self.ledger.bootstrap(
            hash_secret(given.get_secret_value()) if given else None, credits_per_usd=per_usd
        )
        if found.admin_hash is None:
            made = make_admin()
            found = await self.ledger.bootstrap(hash_secret(made))
            self.say(f"admin key (shown once): {made}")
        self.keys.admin_hash = found.admin_hash

    async def _recover(self) -> None:
        """Holds of dead processes go back into Redis before traffic; the book may come later."""
        try:
            await self._await_redis()
            await self._check_eviction()
            tickets = await asyncio.gather(*(self.gate.ticket(bucket) for bucket in BUCKETS))
            await self.recovery.reassert()
            done = await asyncio.wait_for(self.recovery.replay(), _START_PATIENCE_S)
            if self.fresh and done:
                await asyncio.gather(*map(self.gate.calm, BUCKETS, tickets))
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("recovery goes on in the background: %s", error)

    async def _await_redis(self) -> None:
        deadline = self.clock.monotonic() + _START_PATIENCE_S
        while True:
            try:
                return await self.pipe.connect()
            except StoreUnavailable:
                if self.clock.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)

    async def _check_eviction(self) -> None:
        """An evicting Redis would forget holds in silence. INFO, since managed servers refuse CONFIG."""
        for node in self.pipe.nodes():
            memory: bytes = await node.command((b"INFO", b"memory"), 1.0)
            found = re.search(rb"maxmemory_policy:(\S+)", memory)
            if found and found[1] != b"noeviction":
                policy = found[1].decode()
                self.metrics.trouble("eviction", f"Redis evicts keys ({policy}): set maxmemory-policy noeviction")

    async def _note(self) -> None:
        """What people look at, now and then: gauges, and when each key was last used."""
        while True:
            await asyncio.sleep(_NOTE_S)
            self._measure()
            try:
                await self.ledger.keys.touch(self.keys.take_used())
            except BookUnavailable as error:
                log.info("last uses of keys are not noted: %s", error)

    async def journal_has_room(self) -> None:
        if self.journal.full:
            raise JournalUnavailable("the journal is full")

    def metrics_text(self) -> bytes:
        """The exposition, with what is read off at the moment it is asked for."""
        self._measure()
        return self.metrics.text()

    def _measure(self) -> None:
        self.metrics.open_holds.set(self.owner.open_holds)
        self.metrics.backlog.set(self.owner.backlog)
        self.metrics.journal_bytes.set(self.journal.bytes)
        self.metrics.degraded(self.modes())

    def modes(self) -> dict[str, int]:
        """How this worker fares: 0 is well."""
        parts = Parts(
            owner=self.owner,
            gate=self.gate,
            keys=self.keys,
            accounts=self.accounts,
            recovery=self.recovery,
            lately=self.metrics.lately,
            journal=self.journal,
        )
        return modes(parts)

    async def stop(self) -> None:
        """When the server waits no longer: break off the calls left, end what is ending, leave an empty journal.

        The heartbeat goes on until the last hold is ended: nobody may sweep what is about to be charged.
        """
        deadline = self.clock.monotonic() + shutdown_shares(self.settings.timing.shutdown_s)[1]
        await self.background.stop()
        await self._break_off(deadline)
        if not await self.owner.drain(max(0.0, deadline - self.clock.monotonic())):
            log.warning("%d holds are left to the next start", self.owner.open_holds)
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self.pipe.close()
        await self.ledger.close()
        self.journal.close()

    async def _break_off(self, deadline: float) -> None:
        """Calls that still run are charged for what has come.

        A body does not always notice that its connection was closed, and a client that reads nothing holds its call
        up: those are cancelled, which makes the flow charge, too.
        """
        await self.upstream.close()
        if self.calls:
            log.warning("%d calls are broken off", len(self.calls))
            _, late = await asyncio.wait(set(self.calls), timeout=_BREAK_S)
            for call in late:
                call.cancel()
        if self.calls:
            await asyncio.wait(set(self.calls), timeout=max(0.0, deadline - self.clock.monotonic()))


def redis_url(settings: Settings) -> str:
    """The configured Redis, or the data directory's own."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    return embedded.url(settings.data_dir)


async def _kept_up(work: Callable[[], Awaitable[None]]) -> None:
    """A background loop that a defect ends begins again: without the heartbeat every hold would be swept."""
    while True:
        try:
            await work()
            return
        except Exception:  # the process edge of what nobody awaits
            log.exception("a background loop failed and begins again")
            await asyncio.sleep(1)


def _doors() -> tuple[tuple[str, str, str], ...]:
    """The data plane as it is described: method, path, endpoint."""
    exact = [("POST", path, door.endpoint) for path, door in DOORS.items()]
    inner = [("POST", pattern.path, pattern.door.endpoint) for pattern in PATTERNS]
    kept = [(*route.split(" ", 1), "responses") for route in KEPT]
    return (*exact, *inner, *((method, path, what) for method, path, what in kept))


def build(runtime: Runtime) -> ASGIApp:
    """The ASGI application of one worker."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await runtime.start()
        try:
            yield
        finally:
            await runtime.stop()

    exact = {path: _endpoint(runtime, door) for path, door in DOORS.items()}
    named = [(pattern, _endpoint(runtime, pattern.door)) for pattern in PATTERNS]
    return Front(Starlette(routes=_routes(runtime), lifespan=lifespan), exact, named)


def _endpoint(runtime: Runtime, door: Door) -> Endpoint:
    most = runtime.settings.server.max_body_bytes
    return Endpoint(
        door.endpoint,
        door.dialect,
        runtime.replays or runtime.flow,
        runtime.metrics,
        max_body_bytes=most,
        calls=runtime.calls,
    )


def _routes(runtime: Runtime) -> list[BaseRoute]:
    services = Services(
        keys=runtime.keys,
        identity=Identity(runtime.ledger.people, runtime.clock, _identity_provider(runtime)),
        ledger=runtime.ledger,
        owner=runtime.owner,
        reserver=runtime.reserver,
        gate=runtime.gate,
        catalog=runtime.catalog,
        prices=runtime.prices,
        router=runtime.router,
        clock=runtime.clock,
        metrics_text=runtime.metrics_text,
        credits_per_usd=f"{runtime.settings.credits.per_usd:f}",
        probes={"journal": runtime.journal_has_room},
        modes=runtime.modes,
        notes={} if runtime.settings.stripe.api_key is None else {"stripe": dead_letters(runtime.ledger.database)},
        doors=_doors(),
    )

    async def caller(secret: str) -> Principal:
        return await authenticate(services, secret, _PROXY)

    kept = KeptEndpoint(runtime.background, caller, runtime.metrics)
    talk = WebSocketRoute("/v1/realtime", RealtimeEndpoint(runtime.realtime, runtime.metrics, runtime.calls))
    return [*(Route(path, kept) for path in PATHS), talk, *control_plane(services)]


def _identity_provider(runtime: Runtime) -> ProviderFacts | None:
    auth = runtime.settings.auth
    if auth.jwks_url is None:
        return None
    return ProviderFacts(
        fetch=partial(fetch, runtime.upstream, auth.jwks_url, most_bytes=MOST_KEY_SET_BYTES),
        audience=auth.audience,
        issuer=auth.issuer,
        roles_claim=auth.roles_claim,
    )


def prepare(settings: Settings) -> None:
    """Bring the schema up, before any connection of ours is opened."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    schema.prepare(settings.book_url)
