"""`faregate gate`."""

from __future__ import annotations

from collections import defaultdict

import typer

from faregate.commands.drift import scan, transaction
from faregate.commands.local import connected
from faregate.commands.options import Config
from faregate.commands.shared import run
from faregate.credits.names import base
from faregate.credits.pipe import Pipe
from faregate.errors import StoreUnavailable
from faregate.settings import Settings, load

app = typer.Typer(help="Rebuild Redis from the book.", rich_markup_mode=None, add_completion=False)


@app.callback()
def _group() -> None:
    """Keeps `reset` a command of its own."""


@app.command()
def reset(config: Config = None) -> None:
    """Rebuild Redis from the book, by force: after the book was restored from a backup, or when audit says so.

    Everything Redis knows is forgotten. Accounts are read from the book at their next call; running servers put
    their open holds back within a heartbeat, and new calls wait for that (for one hold deadline).
    """
    settings = load(config)
    forgotten = run(_reset(settings))
    if forgotten is None:
        print("nothing to reset: the embedded Valkey is not running, and starts empty")
    else:
        print(f"forgot {forgotten} keys: every account is read from the book at its next call")


async def _reset(settings: Settings) -> int | None:
    pipe = await connected(settings)
    if pipe is None and settings.redis_url is not None:
        raise StoreUnavailable("Redis does not answer")
    if pipe is None:
        return None
    try:
        return await forget(pipe)
    finally:
        await pipe.close()


async def forget(pipe: Pipe) -> int:
    """Delete what Redis knows, one bucket at a time and each as one step, as if it had been wiped. Returns how much.

    Deadlines stay: owners renew them with their holds, and the sweeper drops those that have no hold. An account
    that comes in between the listing and the step keeps what it has, which is the book's.
    """
    buckets: defaultdict[int, list[str]] = defaultdict(list)
    async for key in scan(pipe, "fg:{b*}:*"):
        bucket = int(key.removeprefix("fg:{b")[:3])
        if key != f"{base(bucket)}due":
            buckets[bucket].append(key)
    forgotten = 0
    for bucket, keys in sorted(buckets.items()):
        gate = f"{base(bucket)}gate"
        (deleted,) = await transaction(pipe.at(gate), (b"DEL", gate, *{*keys} - {gate}))
        forgotten += int(deleted)
    return forgotten
