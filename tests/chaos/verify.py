"""The guarantees, checked from outside: SQLite and Redis directly, the upstream's own account, the clients' answers.

G3  every answer received whole has exactly one usage record, and its charge is the exact price of what was served;
    every call the upstream served has one; a refused call that was never forwarded costs nothing
G4  the entries of an account sum to its balance, without gaps; at rest Redis says the same and holds nothing
G2  at rest no hold, no deadline and no journaled call is open
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Connection

from faregate.credits.embedded import socket_path
from faregate.journal.records import unclosed
from faregate.ledger.engine import transact
from tests.chaos.load import Answer

INPUT_MICROCREDITS, OUTPUT_MICROCREDITS = 400, 1600
"""Per token, as World's price file has it: 0.4 and 1.6 USD per million, 1000 credits per USD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded:
    """One call in the upstream's own account."""

    call: str
    status: int
    input_tokens: int
    output_tokens: int
    outcome: str

    @property
    def price_microcredits(self) -> int:
        return INPUT_MICROCREDITS * self.input_tokens + OUTPUT_MICROCREDITS * self.output_tokens


@dataclass(slots=True)
class Billed:
    """What the book has for one call."""

    kinds: list[str] = field(default_factory=list)
    """Of the records that are no adjustments: exactly one."""
    adjustments: int = 0
    charge_microcredits: int = 0


@dataclass(slots=True)
class Findings:
    """What is wrong, in words. Empty: all guarantees hold."""

    said: list[str] = field(default_factory=list)

    def expect(self, good: bool, text: str) -> None:
        if not good:
            self.said.append(text)


def verify(
    data_dir: Path,
    forwarded: Iterable[Forwarded],
    answers: Mapping[str, Answer],
    *,
    overrun_microcredits: int = 0,
    running: bool = True,
    database_url: str | None = None,
) -> list[str]:
    """Check everything; what was found wrong, one line each (at most ten per kind of fault)."""
    found = Findings()

    def check(book: Connection) -> dict[str, tuple[int, int, int]]:
        _check_calls(found, _billed(book), {call.call: call for call in forwarded}, answers)
        return _check_entries(found, book, overrun_microcredits)

    accounts = transact(database_url or f"sqlite:///{data_dir}/faregate.db", check, readonly=True)
    if running:
        _check_redis(found, data_dir, accounts)
    _check_journals(found, data_dir, gone=not running)
    return _shortened(found.said)


def _shortened(lines: list[str]) -> list[str]:
    by_kind: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        by_kind[line.partition(":")[0]].append(line)
    more = [f"... {len(group)} {kind}" for kind, group in by_kind.items() if len(group) > 10]
    return [line for group in by_kind.values() for line in group[:10]] + more


def _billed(book: Connection) -> dict[str, Billed]:
    rows = book.exec_driver_sql("SELECT tags, kind, is_adjustment, charge FROM usage_records")
    billed: dict[str, Billed] = defaultdict(Billed)
    for tags, kind, is_adjustment, charge in rows:
        call = billed[json.loads(tags)["user"]]
        call.charge_microcredits += charge
        if is_adjustment:
            call.adjustments += 1
        else:
            call.kinds.append(kind)
    return billed


def _check_calls(
    found: Findings, billed: Mapping[str, Billed], forwarded: Mapping[str, Forwarded], answers: Mapping[str, Answer]
) -> None:
    for name, bill in billed.items():
        found.expect(len(bill.kinds) == 1, f"billed more than once: {name} {bill.kinds}")
        found.expect(bill.adjustments <= 1, f"adjusted more than once: {name}")
        found.expect(bill.charge_microcredits >= 0, f"negative charge: {name}")
    for name, call in forwarded.items():
        heard = answers.get(name)
        told = f"{heard.status} {heard.complete} {heard.body[-200:]!r}" if heard else "nothing"
        found.expect(name in billed, f"forwarded but not billed: {name} {call}, the client heard {told}")
    for name, answer in answers.items():
        known, served = billed.get(name), forwarded.get(name)
        found.expect(answer.status != 500, f"a defect: {name} was answered 500 {answer.body!r}")
        if answer.whole:
            found.expect(known is not None, f"answered but not billed: {name}")
            found.expect(served is not None, f"answered but never forwarded: {name}")
            if known is not None and served is not None:
                charge, price = known.charge_microcredits, served.price_microcredits
                found.expect(charge == price, f"wrong charge: {name} {charge} for {price} {known.kinds}")
        elif answer.status >= 400 and served is None and known is not None:
            found.expect(known.charge_microcredits == 0, f"refused but billed: {name} {answer.status} {known}")


def _check_entries(found: Findings, book: Connection, overrun: int) -> dict[str, tuple[int, int, int]]:
    rows = book.exec_driver_sql("SELECT id, bucket, posted, seq FROM accounts")
    accounts = {account: (bucket, posted, seq) for account, bucket, posted, seq in rows}
    entries: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for account, seq, amount in book.exec_driver_sql("SELECT account_id, seq, amount FROM entries ORDER BY 1, 2"):
        entries[account].append((seq, amount))
    for account, (_, posted, seq) in accounts.items():
        lines = entries[account]
        found.expect([line[0] for line in lines] == list(range(1, seq + 1)), f"gap in the entries: {account}")
        found.expect(sum(line[1] for line in lines) == posted, f"entries do not sum up: {account}")
        found.expect(posted >= -overrun, f"overspent: {account} is at {posted}")
    orphans = book.exec_driver_sql(
        "SELECT u.id FROM usage_records u LEFT JOIN entries e ON e.id = u.entry_id"
        " WHERE u.charge <> 0 AND (e.id IS NULL OR e.amount <> -u.charge)"
    ).fetchall()
    found.expect(not orphans, f"charged without entry: {orphans[:3]}")
    return accounts


def connect(data_dir: Path) -> redis.Redis:
    """The data directory's own Valkey."""
    path = str(socket_path(data_dir))
    once = Retry(NoBackoff(), 0)
    return redis.Redis(unix_socket_path=path, decode_responses=True, socket_timeout=2, retry=once)


def open_in_redis(data_dir: Path) -> list[str]:
    """What is open in the data directory's Valkey."""
    with connect(data_dir) as client:
        return open_in(client)


def open_in(client: redis.Redis) -> list[str]:
    """What is open in one server: held amounts, holds and deadlines."""
    found = []
    reader: Any = client
    for key in reader.scan_iter("fg:*", count=1000):
        name = key.partition("}:")[2]
        if name.startswith("acct:") and int(reader.hget(key, "held") or 0):
            found.append(f"held: {key} {reader.hgetall(key)}")
        elif name.startswith("holds:"):
            found += [f"open hold: {hold} {text[:60]}" for hold, text in reader.hgetall(key).items()]
        elif name == "due":
            found.append(f"open deadline: {key} {reader.zrange(key, 0, 2)}")
        elif name.startswith("lim:") and int(reader.hget(key, "held") or 0):
            found.append(f"limit held: {key} {reader.hgetall(key)}")
    return found


def _check_redis(found: Findings, data_dir: Path, accounts: Mapping[str, tuple[int, int, int]]) -> None:
    found.said += open_in_redis(data_dir)
    with connect(data_dir) as client:
        reader: Any = client
        for account, (bucket, posted, seq) in accounts.items():
            there = reader.hgetall(f"fg:{{b{bucket:03d}}}:acct:{account}")
            if "posted" in there:
                told = (int(there["posted"]), int(there["seq"]))
                found.expect(told == (posted, seq), f"Redis differs: {account} {told}, the book {(posted, seq)}")


def open_in_journals(data_dir: Path) -> dict[str, str]:
    """Calls that are open in a journal: hold id and how far they came."""
    found = {}
    for path in sorted((data_dir / "journal").glob("*")):
        for hold, left in unclosed(path.read_bytes()).items():
            found[hold] = "learned" if left.learned else "forward" if left.hold else "open"
    return found


def _check_journals(found: Findings, data_dir: Path, *, gone: bool) -> None:
    if gone:
        left = [path.name for path in (data_dir / "journal").iterdir()]
        found.expect(not left, f"journals left: {left}")
    else:
        found.said += [f"open in a journal: {hold} {state}" for hold, state in open_in_journals(data_dir).items()]
