"""`faregate audit`."""

from __future__ import annotations

from faregate.commands.drift import gate_drift, journal_drift
from faregate.commands.local import Book, opened
from faregate.commands.options import AsJson, Config
from faregate.commands.shared import run, to_json
from faregate.ledger.audit import Finding
from faregate.settings import Settings, load


def audit(config: Config = None, as_json: AsJson = False) -> int:
    """Recompute every balance from the entries, and compare Redis with the book.

    Checks that entries add up to balances, that sequences have no gaps, that every charge has its usage record,
    that sums, limit windows and meters equal their records; in Redis, that balances agree with the book, that what is
    held equals the open holds and has every pending reservation, and that no hold outlives its deadline. Runs
    beside a server. Exit code 1: drift.
    """
    findings, compared = run(_audit(load(config)))
    for finding in findings:
        fields = {"check": finding.check, "subject": finding.subject, "detail": finding.detail}
        print(to_json(fields) if as_json else f"{finding.check}: {finding.subject}: {finding.detail}")
    if not findings and not as_json:
        gate = "Redis agrees with it" if compared else "Redis was not compared: it does not answer"
        print(f"no drift: the book adds up, {gate}")
    return 1 if findings else 0


async def _audit(settings: Settings) -> tuple[list[Finding], bool]:
    async with opened(settings) as book:
        findings = await book.ledger.audit()
        findings += await everything_else(book)
        return findings, book.pipe is not None


async def everything_else(book: Book) -> list[Finding]:
    """What is not in the book: Redis and the journals."""
    found = await gate_drift(book)
    return found + await journal_drift(book.settings, running=book.pipe is not None)
