"""The real parts under owner and recovery: Valkey, SQLite, files; each can be told to fail or to lose a reply."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from faregate.core.call import Committed, Hold, Limit, Principal, Record
from faregate.core.codec import encode_record
from faregate.credits import names
from faregate.credits.embedded import EmbeddedValkey, url
from faregate.credits.gate import GateTiming, RedisGate
from faregate.credits.pipe import Arg, Pipe
from faregate.errors import BookRefused, BookUnavailable, JournalUnavailable, StoreUnavailable
from faregate.journal.writer import FileJournal
from faregate.ledger.book import SqlBook
from faregate.ledger.database import Database
from faregate.ledger.organizations import Organizations
from faregate.ledger.schema import prepare
from faregate.ledger.usage import UsageRecords
from faregate.ledger.usage_filter import UsageFilter
from faregate.ports import Ask

HEARTBEAT_S = 5.0
Fault = Literal["refuse", "lose"]
"""refuse: it never arrives; lose: it is applied, its reply is lost."""


@dataclass
class Clock:
    """Monotonic time moves by `pass_s` alone, wall time as ever."""

    at: float = 1000.0

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return self.at

    def pass_s(self, seconds: float) -> None:
        self.at += seconds


@dataclass
class Seen:
    """`ports.Events`, remembered."""

    troubles: list[str] = field(default_factory=list)
    overruns: list[int] = field(default_factory=list)

    def call_ended(self, record: Record, duration_s: float) -> None: ...

    def call_refused(self, code: str) -> None: ...

    def overrun(self, microcredits: int) -> None:
        self.overruns.append(microcredits)

    def trouble(self, what: str, detail: str) -> None:
        self.troubles.append(what)


class StagedPipe(Pipe):
    """Scripts by name: logged, and failing as told, once for each fault."""

    log: list[str]
    faults: dict[str, list[Fault]]

    async def run(
        self, name: str, keys: Sequence[str], args: Sequence[Arg], timeout_s: float, also: Sequence[str] = ()
    ) -> Any:
        self.log.append(name)
        fault = self.faults[name].pop(0) if self.faults.get(name) else None
        if fault == "refuse":
            raise StoreUnavailable("staged")
        reply = await super().run(name, keys, args, timeout_s)
        if fault == "lose":
            raise StoreUnavailable("staged")
        return reply


class StagedBook(SqlBook):
    """The book: logged; `away` is out of reach, `slow` waits until set, `refuses` names accounts it will not take."""

    log: list[str]
    away = False
    slow: asyncio.Event | None = None

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.refuses: set[str] = set()

    async def commit(self, record: Record) -> Committed:
        self.log.append("commit")
        if self.away:
            raise BookUnavailable("staged")
        if record.hold_id in self.refuses:
            raise BookRefused("staged")
        if self.slow is not None:
            await self.slow.wait()
        return await super().commit(record)


class StagedJournal(FileJournal):
    """The journal: logged; `fails` names the words it cannot write."""

    log: list[str]
    fails: frozenset[str] = frozenset()

    def _say(self, word: str) -> None:
        self.log.append(f"journal {word}")
        if word in self.fails:
            raise JournalUnavailable("staged")

    def open(self, hold_id: str, intent: Record) -> None:
        self._say("open")
        super().open(hold_id, intent)

    def forward(self, hold_id: str, hold: Hold) -> None:
        self._say("forward")
        super().forward(hold_id, hold)

    def progress(self, hold_id: str, microcredits: int) -> None:
        self._say("progress")
        super().progress(hold_id, microcredits)

    def learned(self, record: Record) -> None:
        self._say("learned")
        super().learned(record)

    def carry(self, hold_id: str, intent: Record, hold: Hold | None, progress_microcredits: int) -> None:
        self._say("carry")
        super().carry(hold_id, intent, hold, progress_microcredits)

    def closed(self, hold_id: str) -> None:
        self._say("closed")
        super().closed(hold_id)

    async def sync(self) -> None:
        self._say("sync")
        await super().sync()


@dataclass
class Site:
    """One organization with one account of a million microcredits, in real stores."""

    pipe: StagedPipe
    gate: RedisGate
    book: StagedBook
    journal: StagedJournal
    clock: Clock
    seen: Seen
    log: list[str]
    database: Database
    folder: Path
    organization_id: str = ""
    account_id: str = ""
    began_us: int = field(default_factory=lambda: time.time_ns() // 1000)

    @property
    def principal(self) -> Principal:
        """A caller without a key of its own: nothing to recheck."""
        return Principal(
            key_id="",
            rev=0,
            organization_id=self.organization_id,
            account_id=None,
            default_account_id=self.account_id,
            scopes=frozenset(),
        )

    @property
    def bucket(self) -> int:
        return self.principal.bucket

    def intent(self, hold_id: str = "h", charge: int = 100, **changes: Any) -> Record:
        return replace(
            Record(
                hold_id=hold_id,
                hold_kind="call",
                kind="actual",
                organization_id=self.organization_id,
                account_id=self.account_id,
                key_id=None,
                request_id=f"req_{hold_id}",
                occurred_at_us=self.began_us,
                charge_microcredits=charge,
                cost_usd=Decimal(charge).scaleb(-9),
                endpoint="chat.completions",
            ),
            **changes,
        )

    def ask(self, hold_id: str = "h", want: int = 1000, limits: tuple[Limit, ...] = (), **changes: Any) -> Ask:
        return replace(
            Ask(
                hold_id=hold_id,
                kind="call",
                principal=replace(self.principal, limits=limits),
                account_id=self.account_id,
                want_microcredits=want,
                floor_microcredits=want,
                want_tokens=10,
                floor_tokens=10,
                progress_microcredits=100,
                meta=encode_record(self.intent(hold_id)),
            ),
            **changes,
        )

    def fail(self, script: str, fault: Fault, times: int = 1) -> None:
        """The next calls of a script fail so."""
        self.pipe.faults[script] = [fault] * times

    async def flush(self) -> None:
        """Redis forgets everything, and nobody waits for a grace."""
        await self.pipe.command(("FLUSHALL",), 5)
        await self.calm()

    async def warm(self) -> None:
        """Redis knows the account."""
        await self.gate.release(await self.gate.reserve(self.ask("warm")))

    async def calm(self) -> None:
        """New holds need not wait for a grace."""
        await self.gate.calm(self.bucket, await self.gate.ticket(self.bucket))

    async def new_epoch(self) -> None:
        """As after a failover: the data is there, the epoch is another."""
        await self.pipe.command(("REPLICAOF", "127.0.0.1", 1), 5)
        await self.pipe.command(("REPLICAOF", "NO", "ONE"), 5)
        await self.calm()

    async def expire(self) -> None:
        """Every hold is past its deadline on Redis's clock."""
        due = names.hold_keys(self.bucket, self.account_id)[3]
        for member in await self.pipe.command(("ZRANGE", due, 0, -1), 5):
            await self.pipe.command(("ZADD", due, 1, member), 5)

    async def held(self) -> int:
        """Microcredits held in Redis, which must always be the sum of the open holds."""
        account = await self.gate.account(self.bucket, self.account_id)
        held = int(account.get("held", 0))
        assert held == sum((await self.holds()).values())
        return held

    async def holds(self) -> dict[str, int]:
        """Open holds in Redis, by id, and what they hold."""
        found = await self.gate.holds(self.bucket, self.account_id)
        return {one.hold.id: one.hold.microcredits for one in found}

    async def posted(self) -> int:
        """The account's balance in SQL, which Redis shows too."""
        return (await self.book.snapshot(self.account_id, (), gate=False)).posted

    async def records(self) -> list[tuple[str, str, int]]:
        """What the book says was used, oldest first: hold, kind, charge."""
        page = await UsageRecords(self.database).list(UsageFilter(organization_id=self.organization_id), limit=100)
        rows = sorted(page.records, key=lambda row: row.id)
        return [(row.hold_id, row.kind, row.charge_microcredits) for row in rows]


@contextmanager
def stores() -> Iterator[tuple[Path, Path]]:
    """A running Valkey's folder and a migrated book to copy: once per module, for they take longer than most tests."""
    with tempfile.TemporaryDirectory(prefix="fg") as folder:
        server = EmbeddedValkey(Path(folder))
        server.start()
        try:
            prepare(f"sqlite:///{folder}/template.db")
            yield Path(folder), Path(folder) / "template.db"
        finally:
            server.stop()


@asynccontextmanager
async def site(running: tuple[Path, Path], folder: Path) -> AsyncIterator[Site]:
    """Empty stores and one account."""
    shutil.copy(running[1], folder / "book.db")
    log: list[str] = []
    clock = Clock()
    pipe = StagedPipe(url(running[0]))
    pipe.log, pipe.faults = log, {}
    await pipe.command(("FLUSHALL",), 5)
    database = Database(f"sqlite:///{folder}/book.db", now_us=clock.now_us)
    book = StagedBook(database)
    book.log = log
    journal = StagedJournal(folder / "journal", "boot")
    journal.log = log
    timing = GateTiming(heartbeat_s=HEARTBEAT_S, hold_wait_s=2.0, grace_patience_s=0.0)
    gate = RedisGate(pipe, book, clock, timing)
    made = Site(pipe, gate, book, journal, clock, Seen(), log, database, folder)
    organization = await Organizations(database).create(name="Acme")
    made.organization_id, made.account_id = organization.id, organization.default_account_id
    await book.add_credits(made.account_id, 1_000_000)
    log.clear()
    yield made
    await pipe.close()
    await database.close()
    journal.close()


async def until(condition: Callable[[], bool], timeout_s: float = 3.0) -> None:
    """Wait for what goes on in the background."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.002)
