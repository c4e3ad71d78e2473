"""How long questions about usage take: pages by cursor at every depth and with every filter, sums of a month.

    ./scripts/bench queries [--records 5000000] [--keep FILE] [--write benchmarks/QUERIES.md]

Fills an SQLite file as the ledger would have (records.py), then asks it through the ledger's own readers. Times are
of the whole question, connection thread included: the median and the worst of seven, after one that warms up.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.records import DAYS, RARE, START_US, Made, make
from faregate.ledger.database import Database
from faregate.ledger.rollups import DAY_US, HOUR_US
from faregate.ledger.summary import Summaries
from faregate.ledger.usage import UsageRecords
from faregate.ledger.usage_filter import UsageFilter

PAGE_MS, MONTH_MS = 50, 100
_DEPTHS = (0.0, 0.5, 0.99)
_RUNS = 7


@dataclass(frozen=True, slots=True)
class Question:
    """One line of the table. `most_ms` None: no promise."""

    name: str
    ask: Callable[[], Awaitable[object]]
    most_ms: float | None


def _filters(made: Made) -> dict[str, dict[str, Any]]:
    busy, quiet = made.accounts[0], made.accounts[-1]
    key = f"key_{int(busy[-4:], 16):05x}0" + "0" * 26
    month = {"start_us": START_US + 31 * DAY_US, "end_us": START_US + 59 * DAY_US}
    return {
        "no filter": {},
        "model": {"model": "gpt-5"},
        "model, rare": {"model": RARE["model"]},
        "model, none such": {"model": "nobody"},
        "provider": {"provider": "anthropic"},
        "provider, rare": {"provider": RARE["provider"]},
        "context": {"context": "system"},
        "key": {"key_id": key},
        "key, rare": {"key_id": "key_rare"},
        "agent": {"agent": "agent-1"},
        "agent, rare": {"agent": RARE["agent"]},
        "feature": {"feature": "chat"},
        "feature, rare": {"feature": RARE["feature"]},
        "tag.team": {"attribution": {"tag.team": "t7"}},
        "tag.team, rare": {"attribution": {"tag.team": "rare"}},
        "user": {"attribution": {"user": "u77"}},
        "account": {"account_id": busy},
        "account, quiet": {"account_id": quiet},
        "account + model": {"account_id": quiet, "model": "gpt-5"},
        "account + rare model": {"account_id": busy, "model": RARE["model"]},
        "key + tag.team": {"key_id": key, "attribution": {"tag.team": "t7"}},
        "dates": month,
        "dates + model + context": {**month, "model": "gpt-5", "context": "system"},
        "everything": {**month, "account_id": busy, "model": "gpt-5", "provider": "openai", "context": "customer"},
    }


def _questions(made: Made, database: Database) -> Iterator[Question]:
    records, summaries = UsageRecords(database), Summaries(database)
    filters = {
        name: UsageFilter(organization_id=made.organization_id, **found) for name, found in _filters(made).items()
    }
    for name, wanted in filters.items():
        for depth in _DEPTHS:
            yield Question(f"page | {name} | {depth:.0%}", _page(records, wanted, depth), PAGE_MS)
    for number in (1, 1_000, 40_000):
        yield Question(f"page by number | no filter | {number}", _numbered(records, filters["no filter"], number), None)
        yield Question(f"page by number | feature | {number}", _numbered(records, filters["feature"], number), None)
    month = {"start_us": START_US + 31 * DAY_US, "end_us": START_US + 59 * DAY_US}
    odd = {"start_us": month["start_us"] + 17, "end_us": month["end_us"] + HOUR_US // 3}
    for name in ("no filter", "model", "provider", "context", "account", "key", "agent", "feature", "tag.team"):
        found = {**_filters(made)[name], **month}
        promised = MONTH_MS if name in ("no filter", "model", "provider", "context") else None
        yield Question(f"month by model | {name} |", _sum(summaries, made, found, "model"), promised)
    yield Question("month by model | cut within hours |", _sum(summaries, made, odd, "model"), MONTH_MS)
    for group in ("day", "provider", "context", "account", "agent", "feature"):
        promised = MONTH_MS if group in ("day", "provider", "context") else None
        yield Question(f"month by {group} | no filter |", _sum(summaries, made, month, group), promised)
    yield Question("all by month | no filter |", _sum(summaries, made, {}, "month"), None)


def _page(records: UsageRecords, wanted: UsageFilter, depth: float) -> Callable[[], Awaitable[object]]:
    moment = START_US + int(DAYS * DAY_US * (1 - depth))
    cursor = urlsafe_b64encode(f"{moment}:usage_".encode()).decode().rstrip("=")
    return lambda: records.list(wanted, limit=100, cursor=cursor)


def _numbered(records: UsageRecords, wanted: UsageFilter, number: int) -> Callable[[], Awaitable[object]]:
    return lambda: records.page(wanted, ("occurred", True), limit=100, offset=(number - 1) * 100)


def _sum(summaries: Summaries, made: Made, found: dict[str, Any], group: Any) -> Callable[[], Awaitable[object]]:
    wanted = UsageFilter(organization_id=made.organization_id, **found)
    return lambda: summaries.get(wanted, group_by=group)


async def _measure(made: Made) -> tuple[list[str], bool]:
    database = Database(made.url)
    lines, kept = ["| question | filter | depth | median ms | worst ms | promised |", "|---|---|---|---|---|---|"], True
    for question in _questions(made, database):
        times = []
        for _ in range(_RUNS + 1):
            started = time.perf_counter()
            await question.ask()
            times.append((time.perf_counter() - started) * 1000)
        median, worst = statistics.median(times[1:]), max(times[1:])
        missed = question.most_ms is not None and median > question.most_ms
        kept = kept and not missed
        promise = "" if question.most_ms is None else f"< {question.most_ms}{' MISSED' if missed else ''}"
        lines.append(f"| {question.name} | {median:.1f} | {worst:.1f} | {promise} |")
        print(lines[-1], flush=True)
    await database.close()
    return lines, kept


def main() -> int:
    """Fill, ask, print. Returns 1 when a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=5_000_000)
    parser.add_argument("--keep", type=Path, help="write the file here and leave it (a new path)")
    parser.add_argument("--write", type=Path, help="also write the table to this file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faregate-queries-") as folder:
        path = given.keep or Path(folder, "book.db")
        started = time.perf_counter()
        made = make(path, given.records)
        size = path.stat().st_size / 1e9
        said = f"{given.records:,} records in {time.perf_counter() - started:.0f} s, {size:.1f} GB"
        print(f"{said}\n", flush=True)
        lines, kept = asyncio.run(_measure(made))
    if given.write:
        given.write.write_text(
            f"# Questions about usage\n\n`./scripts/bench queries`: {said}.\n\n" + "\n".join(lines) + "\n"
        )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
