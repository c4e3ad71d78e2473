"""What a request with an Idempotency-Key has done so far, written down in the very transactions that did it.

While such a request's handler runs, every `Database.write` it awaits is a *step*: the transaction first claims the
key's row, then does the work, then keeps the work's result in the row. A repeat after a crash runs the handler again,
and the steps that are in the row answer from there instead of being done twice. So nothing has to be cleaned up, and
two requests at once, in one process or several, meet at the row: each step happens once.

Steps are what the handler's own task awaits: shared work that others started (a rebuild of the gate, say) is none.
Work that is no effect but upkeep, and whose answer must be fresh, goes through `Database.upkeep`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection, RowMapping, select

from faregate.errors import IdempotencyMismatch, InProgress
from faregate.ledger import tables
from faregate.ledger.dialect import insert_many
from faregate.ledger.results import decode, encode

T = TypeVar("T")

KEPT_US = 24 * 3_600_000_000
"""How long a key is kept."""
_t = tables.idempotency.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A key, whose it is, and the request it came with. `fingerprint`: hex digest of everything it asks for."""

    tenant: str
    key: str
    route: str
    fingerprint: str


@dataclass(slots=True)
class Running:
    """A request with a key whose handler runs now."""

    claim: Claim
    task: asyncio.Task[Any] | None
    claimed: bool = False
    """The row was made before any effect: a refusal takes it away again."""
    found: bool = False
    """Something of it had been done before."""
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction of a request: its function's name and how often that has been called."""

    running: Running
    name: str


_running: ContextVar[Running | None] = ContextVar("faregate_running", default=None)


@contextmanager
def steps_of(claim: Claim) -> Iterator[Running]:
    """Within this block the current task's writes are steps of the claim."""
    running = Running(claim, asyncio.current_task())
    token = _running.set(running)
    try:
        yield running
    finally:
        running.task = None  # Tasks that were started meanwhile have a copy of the context.
        _running.reset(token)


def current() -> Running | None:
    """The request with a key that the current task itself is handling."""
    running = _running.get()
    return running if running is not None and running.task is asyncio.current_task() else None


def next_step(work: Callable[..., object]) -> Step | None:
    """The step that this work is; None outside of a request with a key."""
    running = current()
    if running is None:
        return None
    name = f"{getattr(work, '__module__', '')}.{getattr(work, '__qualname__', '')}"
    count = running.counts[name] = running.counts.get(name, 0) + 1
    return Step(running, f"{name}#{count}")


def do_once(conn: Connection, step: Step, work: Callable[[], T], now_us: int) -> T:
    """Do the work and keep its result, or answer with the one that is kept. Raises IdempotencyMismatch, InProgress."""
    claim = step.running.claim
    kept = orjson.loads(open_claim(conn, claim, now_us)["results"])
    if step.name in kept:
        step.running.found = True
        found: T = decode(kept[step.name])
        return found
    result = work()
    kept[step.name] = encode(result)
    conn.execute(_of(tables.idempotency.update(), claim).values(results=orjson.dumps(kept).decode()))
    return result


def open_claim(conn: Connection, claim: Claim, now_us: int) -> RowMapping:
    """The claim's row, locked, made if it was not there. Raises IdempotencyMismatch, InProgress."""
    for _ in range(2):
        insert_many(conn, tables.idempotency, [_new_row(claim, now_us)], "ON CONFLICT (tenant, key) DO NOTHING")
        row = conn.execute(_of(select(tables.idempotency), claim).with_for_update()).mappings().first()
        if row is not None and row["expires_us"] > now_us:
            break
        conn.execute(_of(tables.idempotency.delete(), claim))
    else:
        raise _ended()
    check(row, claim)
    if row["state"] == "done":
        raise _ended()
    return row


def check(row: RowMapping, claim: Claim) -> None:
    """Raises IdempotencyMismatch unless the row is the same request's."""
    if (row["fingerprint"], row["route"]) != (claim.fingerprint, claim.route):
        raise mismatch()


def name_of(claim: Claim, created_us: int) -> str:
    """32 hex digits for effects outside of SQL: the same for every repeat, another once the key has expired.

    They begin with the milliseconds of the claim, as all ids do: what is named after them is stored by time.
    """
    digest = sha256("\0".join((claim.tenant, claim.key, str(created_us))).encode()).hexdigest()
    return f"{created_us // 1000:012x}{digest[:20]}"


def mismatch() -> IdempotencyMismatch:
    """The same key, another request."""
    return IdempotencyMismatch("this Idempotency-Key came with another request before", param="Idempotency-Key")


def _ended() -> InProgress:
    return InProgress("a request with this Idempotency-Key is just ending, ask again", retry_after_s=1)


def _of(statement: Any, claim: Claim) -> Any:
    return statement.where(_t.tenant == claim.tenant, _t.key == claim.key)


def _new_row(claim: Claim, now_us: int) -> tuple[Any, ...]:
    kept_until = now_us + KEPT_US
    return claim.tenant, claim.key, claim.route, claim.fingerprint, "running", "{}", None, None, now_us, kept_until
