"""`faregate doctor`: one line a check, in the order a start needs them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Literal

from faregate.clock import SystemClock
from faregate.commands.catalog import configured_catalog
from faregate.commands.drift import gate_drift, journal_drift
from faregate.commands.local import WAIT_S, Book, connected
from faregate.commands.options import AsJson, Config
from faregate.commands.shared import run, to_json
from faregate.credits.pipe import Pipe
from faregate.errors import FaregateError
from faregate.ledger import schema
from faregate.ledger.queries import Ledger
from faregate.settings import IMPLEMENTED_KINDS, Settings, load

_SKEW_S = 1.0
_OLDEST_REDIS = 7
"""The oldest release that serves; Valkey says it is a Redis 7.2.4."""

State = Literal["ok", "note", "FAIL"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. A note is worth reading and no failure."""

    name: str
    state: State
    detail: str


def doctor(config: Config = None, as_json: AsJson = False) -> int:
    """Check configuration, Redis, SQL, providers, clock and drift. Changes nothing. Exit code 1: a check failed."""
    settings = load(config)
    source = f"from {config}" if config is not None else "from the environment"
    failed = run(_report(settings, Check("configuration", "ok", source), as_json=as_json))
    return 1 if failed else 0


async def _report(settings: Settings, first: Check, *, as_json: bool) -> bool:
    failed = False
    async for check in _checks(settings, first):
        failed = failed or check.state == "FAIL"
        fields = {"check": check.name, "state": check.state.lower(), "detail": check.detail}
        print(to_json(fields) if as_json else f"{check.state:<4}  {check.name:<13}  {check.detail}", flush=True)
    return failed


async def _checks(settings: Settings, first: Check) -> AsyncIterator[Check]:
    yield first
    yield _data_dir(settings)
    for check in (*_providers(settings), _prices(settings)):
        yield check
    pipe = await connected(settings)
    try:
        async for check in _redis(settings, pipe):
            yield check
        async for check in _book(settings, pipe):
            yield check
    finally:
        if pipe is not None:
            await pipe.close()


# Without a connection -----------------------------------------------------------------------------------


def _data_dir(settings: Settings) -> Check:
    folder = settings.data_dir
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        return Check("data_dir", "FAIL", f"{folder} cannot be written")
    made = "" if folder == settings.data_dir else " (made at the first start)"
    return Check("data_dir", "ok", f"{settings.data_dir}{made}")


def _providers(settings: Settings) -> Iterator[Check]:
    """Configured, with or without a key. Nothing is sent to them."""
    if not settings.providers:
        yield Check("providers", "note", "none is configured: only test keys have a model to call (the sandbox)")
    for name, provider in settings.providers.items():
        if provider.kind not in IMPLEMENTED_KINDS:
            yield Check("provider", "FAIL", f"{name}: kind {provider.kind} is not implemented in this release")
        elif provider.api_key is None and provider.kind != "sandbox":
            yield Check("provider", "note", f"{name}: {provider.kind}, without a key")
        else:
            yield Check("provider", "ok", f"{name}: {provider.kind}{', has a key' if provider.api_key else ''}")


def _prices(settings: Settings) -> Check:
    """Every model of the configuration has a price."""
    try:
        catalog = configured_catalog(settings)
    except FaregateError as error:
        return Check("prices", "FAIL", error.message)
    targets = sorted({target for targets in settings.models.values() for target in targets})
    now_us = SystemClock().now_us()
    unpriced = [
        target
        for target in targets
        if catalog.find(target.partition("/")[2], provider=target.partition("/")[0], now_us=now_us) is None
    ]
    if unpriced:
        return Check("prices", "FAIL", f"no price for {', '.join(unpriced)}: calls of it are refused")
    return Check("prices", "ok", f"{len(targets)} configured models have prices")


# Redis --------------------------------------------------------------------------------------------------


async def _redis(settings: Settings, pipe: Pipe | None) -> AsyncIterator[Check]:
    if pipe is None and settings.redis_url is not None:
        yield Check("redis", "FAIL", "does not answer")
    elif pipe is None:
        yield Check("redis", "ok", "embedded, not running: no server is on this data directory")
    else:
        yield await _version(pipe)
        yield await _eviction(pipe)
        yield await _clock(pipe)


async def _version(pipe: Pipe) -> Check:
    info = (await pipe.command((b"INFO", b"server"), WAIT_S)).decode()
    found = dict(re.findall(r"^(valkey_version|redis_version):(\S+)", info, re.MULTILINE))
    version = found.get("redis_version", "0")
    name = f"Valkey {found['valkey_version']}" if "valkey_version" in found else f"Redis {version}"
    if int(version.partition(".")[0]) < _OLDEST_REDIS:
        return Check("redis", "FAIL", f"{name} is too old: Redis 7 or Valkey 8 is needed")
    return Check("redis", "ok", name)


async def _eviction(pipe: Pipe) -> Check:
    """From INFO, which managed services allow where they refuse CONFIG."""
    info = (await pipe.command((b"INFO", b"memory"), WAIT_S)).decode()
    found = re.search(r"^maxmemory_policy:(\S+)", info, re.MULTILINE)
    if found is None:
        return Check("eviction", "note", "Redis does not tell: make sure that maxmemory-policy is noeviction")
    if found[1] != "noeviction":
        return Check("eviction", "FAIL", f"maxmemory-policy is {found[1]}: Redis would forget holds; set noeviction")
    return Check("eviction", "ok", found[1])


async def _clock(pipe: Pipe) -> Check:
    before = time.time()
    seconds, micros = await pipe.command((b"TIME",), WAIT_S)
    skew_s = int(seconds) + int(micros) / 1_000_000 - (before + time.time()) / 2
    if abs(skew_s) > _SKEW_S:
        return Check("clock", "FAIL", f"Redis is {skew_s:+.1f} s from this machine: limit windows would be off")
    return Check("clock", "ok", f"Redis is {skew_s * 1000:+.0f} ms from this machine")


# The book -----------------------------------------------------------------------------------------------


async def _book(settings: Settings, pipe: Pipe | None) -> AsyncIterator[Check]:
    if settings.database_url is None and not (settings.data_dir / "faregate.db").exists():
        yield Check("sql", "ok", "SQLite, made at the first start")
        return
    ledger = Ledger(settings.book_url)
    try:
        version = await ledger.database.read(schema.stored_version)
        if version != schema.HEAD:
            yield Check(
                "sql", "FAIL", f"the schema is at {version}, this release needs {schema.HEAD}: faregate migrate"
            )
            return
        yield Check("sql", "ok", f"schema {version}")
        yield await _drift(Book(settings=settings, ledger=ledger, pipe=pipe, gate=None))
        yield await _journals(settings, running=pipe is not None)
    except FaregateError as error:
        yield Check("sql", "FAIL", error.message)
    finally:
        await ledger.close()


async def _drift(book: Book) -> Check:
    if book.pipe is None:
        return Check("drift", "ok", "nothing to compare: Redis is not running")
    found = await gate_drift(book)
    if found:
        more = f" (and {len(found) - 1} more: faregate audit)" if len(found) > 1 else ""
        return Check("drift", "FAIL", f"{found[0].check}: {found[0].subject}: {found[0].detail}{more}")
    return Check("drift", "ok", "Redis agrees with the book")


async def _journals(settings: Settings, *, running: bool) -> Check:
    found = await journal_drift(settings, running=running)
    if not found:
        return Check("journals", "ok", "nothing is left of dead processes")
    if running:
        return Check("journals", "FAIL", f"{found[0].subject}: {found[0].detail}")
    return Check("journals", "note", f"{found[0].subject}: {found[0].detail}: the next start replays them")
