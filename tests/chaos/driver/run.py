"""One run: the town starts, traffic runs, faults come, everything comes to rest, and the figures are compared."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import redis

from tests.chaos.driver.checks import violations
from tests.chaos.driver.figures import Book, Done, Seen, read_book, seen
from tests.chaos.driver.host import Host
from tests.chaos.driver.plan import Step, plan
from tests.chaos.driver.sidelines import Sidelines, Told
from tests.chaos.driver.town import Town
from tests.chaos.driver.traffic import Traffic
from tests.chaos.load import ADMIN_KEY
from tests.chaos.verify import Forwarded, open_in, open_in_journals
from tests.chaos.world import ROOT

_SERVE_AGAIN_S = 45.0
_REST_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`seconds` and `faults` are both reached, whichever comes later."""

    seed: int
    seconds: float
    faults: int
    pause_s: tuple[float, float] = (0.3, 1.5)
    clients: int = 12
    think_s: float = 0.15
    only: str = ""
    """Only faults with this in their names."""


@dataclass(slots=True, kw_only=True)
class Result:
    """Everything the report says."""

    options: Options
    seconds: float
    missing: Sequence[str]
    faults: list[Done]
    calls: list[Seen]
    book: Book
    told: Told
    upstream: list[Forwarded]
    left: list[str]
    audits: list[str]
    found: list[str] = field(default_factory=list)


async def run(town: Town, options: Options, say: Callable[[str], None] = lambda line: None) -> Result:
    """The town is stopped afterwards, whatever happens."""
    began = time.monotonic()
    try:
        await town.start()
        traffic = Traffic(options.seed, town.hosts, options.clients, options.think_s)
        sidelines = Sidelines(options.seed, town.hosts)
        await sidelines.prepare()
        for line in town.missing:
            say(f"CANNOT BE DONE HERE: {line}")
        traffic.start()
        sidelines.start()
        faults = await _disturb(town, traffic, options, say)
        await asyncio.gather(traffic.stop(), sidelines.stop())
        left = await _rest(town)
        audits = await _each(town, _audit)
        book = await asyncio.to_thread(read_book, town.book_url)
        upstream = await asyncio.to_thread(town.upstream.account)
        ends = await _each(town, _end)
    finally:
        await town.stop()
    calls = seen(traffic.calls, book, upstream, faults, slack_s=town.pace.long_s + 3 * town.pace.heartbeat_s)
    result = Result(
        options=options,
        seconds=time.monotonic() - began,
        missing=town.missing,
        faults=faults,
        calls=calls,
        book=book,
        told=sidelines.told,
        upstream=upstream,
        left=left,
        audits=audits,
    )
    result.found = [
        *violations(calls, book, sidelines.told, upstream),
        *(
            f"not served within {_SERVE_AGAIN_S:g} s after {fault.names}"
            for fault in faults
            if fault.served_after_s is None
        ),
        *left,
        *audits,
        *ends,
    ]
    return result


async def _disturb(town: Town, traffic: Traffic, options: Options, say: Callable[[str], None]) -> list[Done]:
    chosen = [fault for fault in town.faults() if options.only in fault.name]
    begin, done, count = time.monotonic(), [], 0
    await _served_again(town, traffic, begin)
    for step in plan(options.seed, chosen, pause_s=options.pause_s):
        if count >= options.faults and time.monotonic() - begin >= options.seconds:
            break
        await asyncio.sleep(step.pause_s)
        fault = await _do(step)
        fault.served_after_s = await _served_again(town, traffic, fault.ended)
        done.append(fault)
        count += len(fault.names)
        say(_line(count, fault, begin))
    return done


async def _do(step: Step) -> Done:
    done = Done(
        names=tuple(fault.name for fault in step.faults),
        details=(),
        marks=frozenset(itertools.chain.from_iterable(fault.marks for fault in step.faults)),
        began=time.monotonic(),
    )

    async def one(number: int, dice: random.Random) -> str:
        await asyncio.sleep(dice.uniform(0, 0.3) if number else 0)
        return await step.faults[number].act(dice)

    done.details = tuple(await asyncio.gather(*(one(number, dice) for number, dice in enumerate(step.dice))))
    done.ended = time.monotonic()
    return done


async def _served_again(town: Town, traffic: Traffic, moment: float) -> float | None:
    """Seconds until every host had answered a later call whole."""
    while (now := time.monotonic()) < moment + _SERVE_AGAIN_S:
        if all(traffic.whole_since(moment, host.name) for host in town.hosts):
            return now - moment
        await asyncio.sleep(0.05)
    return None


def _line(count: int, fault: Done, begin: float) -> str:
    again = "NOT SERVED AGAIN" if fault.served_after_s is None else f"served again after {fault.served_after_s:4.1f} s"
    what = " + ".join(
        f"{name}: {detail}" if detail else name for name, detail in zip(fault.names, fault.details, strict=True)
    )
    return f"{fault.began - begin:6.1f} s  {count:3d}  {again}  {what}"


# The end ------------------------------------------------------------------------------------------------


async def _rest(town: Town) -> list[str]:
    """What is still open when nothing should be."""
    deadline = time.monotonic() + _REST_S
    left = await asyncio.to_thread(_open, town)
    while left and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
        left = await asyncio.to_thread(_open, town)
    return left


def _open(town: Town) -> list[str]:
    found = []
    for host in town.hosts:
        with suppress(FileNotFoundError):  # Deleted while we looked.
            left = open_in_journals(host.gateway.data_dir)
            found += [f"open in a journal: {hold} {state}" for hold, state in left.items()]
            continue
        found.append("a journal is being deleted")
    for client in town.stores():
        try:
            with client:
                found += open_in(client)
        except redis.RedisError as error:
            found.append(f"the store does not answer: {error}")
    return found


async def _each(town: Town, work: Callable[[Host], list[str]]) -> list[str]:
    """Of every host, side by side."""
    said = await asyncio.gather(*(asyncio.to_thread(work, host) for host in town.hosts))
    return [line for lines in said for line in lines]


def _audit(host: Host) -> list[str]:
    """`faregate audit`, on the host's own configuration."""
    gateway = host.gateway
    command = [
        *gateway.prefix,
        sys.executable,
        "-m",
        "faregate",
        "audit",
        "--config",
        f"{gateway.folder}/faregate.yaml",
    ]
    environment = {**os.environ, **gateway.environment, "FAREGATE_ADMIN_KEY": ADMIN_KEY}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    if done.returncode or "not compared" in said:
        return [f"audit {host.name}: {line}" for line in said.splitlines() or [f"ended with {done.returncode}"]]
    return []


def _end(host: Host) -> list[str]:
    """SIGTERM at rest: a clean end, and an empty journal."""
    code = host.gateway.stop()
    left = [path.name for path in (host.gateway.data_dir / "journal").glob("*")]
    found = [f"the gateway {host.name} ended with {code}"] if code else []
    return found + [f"journals left by {host.name}: {left}"] * bool(left)
