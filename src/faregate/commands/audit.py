"""`faregate audit`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from faregate.commands.drift import gate_drift, journal_drift
from faregate.commands.local import Book, opened
from faregate.commands.mend import GATE_WOULD, mend, replay, tell
from faregate.commands.options import AsJson, Config
from faregate.commands.shared import run, to_json
from faregate.ledger.audit import Finding
from faregate.ledger.repair import Correction, repair, would
from faregate.settings import Settings, load

Repair = Annotated[bool, typer.Option("--repair", help="Correct what is found, by entries of their own.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What an audit came to. `compared`: Redis answered."""

    book: Sequence[Finding]
    gate: Sequence[Finding]
    journals: Sequence[Finding]
    compared: bool

    def __iter__(self) -> Iterator[tuple[Finding, str]]:
        """Each with what a repair does about it."""
        yield from ((finding, would(finding)) for finding in self.book)
        yield from ((finding, GATE_WOULD[finding.check]) for finding in [*self.gate, *self.journals])


def audit(config: Config = None, as_json: AsJson = False, mended: Repair = False) -> int:
    """Recompute every balance from the entries, and compare Redis with the book.

    Checks that entries add up to balances, that sequences have no gaps, that every charge has its usage record,
    that sums, limit windows and meters equal their records; in Redis, that balances agree with the book, that what is
    held equals the open holds and has every pending reservation, and that no hold outlives its deadline. Runs
    beside a server, and holds nothing up. Each finding says what --repair would do about it; with --repair it is
    done: corrections are entries of their own, none is edited. Exit code 1: drift (what is left of it).
    """
    return run(_audit(load(config), as_json=as_json, mended=mended))


async def _audit(settings: Settings, *, as_json: bool, mended: bool) -> int:
    async with opened(settings) as book:
        found = await look(book)
        _say(found, as_json=as_json)
        if mended and [*found]:
            _say_done(await _repair(book, found), as_json=as_json)
            found = await look(book)
            _say(found, as_json=as_json)
    return 1 if [*found] else 0


async def look(book: Book) -> Found:
    """The book, Redis and the journals."""
    return Found(
        book=await book.ledger.audit(),
        gate=await gate_drift(book),
        journals=await journal_drift(book.settings, running=book.pipe is not None),
        compared=book.pipe is not None,
    )


async def _repair(book: Book, found: Found) -> list[Correction]:
    """The book first: Redis follows it."""
    done = await asyncio.to_thread(repair, book.settings.book_url) if found.book else []
    await tell(book, done)
    if found.journals and book.gate is not None:
        done.append(Correction("journals", "replayed" if await replay(book) else "replayed as far as possible"))
    if found.gate:
        done += await mend(book, found.gate)
    return done


def _say(found: Found, *, as_json: bool) -> None:
    for finding, repairs in found:
        fields = {"check": finding.check, "subject": finding.subject, "detail": finding.detail, "repair": repairs}
        print(
            to_json(fields) if as_json else f"{finding.check}: {finding.subject}: {finding.detail}\n  repair: {repairs}"
        )
    if not [*found] and not as_json:
        gate = "Redis agrees with it" if found.compared else "Redis was not compared: it does not answer"
        print(f"no drift: the book adds up, {gate}")


def _say_done(done: Sequence[Correction], *, as_json: bool) -> None:
    for one in done:
        fields = {"repaired": one.subject, "what": one.what}
        print(to_json(fields) if as_json else f"repaired: {one.subject}: {one.what}")
