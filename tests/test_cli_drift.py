"""Redis compared with the book: each kind of drift is found, a running server's middle states are not."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Connection

from faregate.commands import drift
from faregate.commands.drift import InGate, balance_findings, gate_drift, journal_drift
from faregate.commands.gate import forget
from faregate.commands.local import Book, LocalDesk, opened
from faregate.commands.mend import mend, tell
from faregate.core.call import Principal, Record, bucket_of
from faregate.core.codec import encode_record
from faregate.core.ids import uuid7
from faregate.credits.embedded import EmbeddedValkey
from faregate.credits.names import base, hold_keys
from faregate.ledger.engine import transact
from faregate.ledger.organizations import BOOTSTRAP_ACCOUNT_ID as ACCOUNT
from faregate.ledger.organizations import BOOTSTRAP_ORGANIZATION_ID as ORGANIZATION
from faregate.ledger.repair import repair
from faregate.ports import Ask
from faregate.settings import Settings, load

BUCKET = bucket_of(ORGANIZATION)
GATE, ACCT, HOLDS, DUE = hold_keys(BUCKET, ACCOUNT)
SEEN = InGate(posted=5, seq=3, held=2, warm=True, holds={"h": 2})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(None, {"FAREGATE_DATA_DIR": str(tmp_path), "FAREGATE_TIMING__HEARTBEAT_S": "0.2"})


@pytest.fixture
async def book(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Book]:
    """A book and a real Valkey that know one account of 10 credits and one open hold of 1."""
    monkeypatch.setattr(drift, "_AGAIN_S", 0.01)
    valkey = EmbeddedValkey(settings.data_dir)
    valkey.start()
    try:
        async with opened(settings, create=True) as at:
            assert at.gate is not None
            await at.gate.calm(BUCKET, await at.gate.ticket(BUCKET))
            await LocalDesk(at).grant(None, ACCOUNT, {"amount": "10"})
            await at.gate.reserve(ask())
            yield at
    finally:
        valkey.stop()


def ask() -> Ask:
    principal = Principal(
        key_id="",
        rev=0,
        organization_id=ORGANIZATION,
        account_id=None,
        default_account_id=ACCOUNT,
        scopes=frozenset(),
    )
    return Ask(
        hold_id=uuid7().hex,
        kind="call",
        principal=principal,
        account_id=ACCOUNT,
        want_microcredits=1_000_000,
        floor_microcredits=1_000_000,
        want_tokens=0,
        floor_tokens=0,
        progress_microcredits=0,
        meta=b"{}",
        ttl_ms=60_000,
    )


async def redis(book: Book, *words: str | int) -> object:
    assert book.pipe is not None
    return await book.pipe.command(tuple(words), 1.0)


async def checks(book: Book) -> list[str]:
    return [finding.check for finding in await gate_drift(book)]


async def test_an_open_hold_is_no_drift(book: Book) -> None:
    assert await checks(book) == []
    (hold,) = await LocalDesk(book).holds()
    assert (hold["accountId"], hold["amount"], hold["kind"]) == (ACCOUNT, 1, "call")


async def test_held_that_is_not_the_sum_of_holds(book: Book) -> None:
    await redis(book, "HINCRBY", ACCT, "held", 1)
    assert await checks(book) == ["gate held"]


async def test_a_balance_that_is_not_the_books(book: Book) -> None:
    await redis(book, "HINCRBY", ACCT, "posted", 1)
    assert await checks(book) == ["gate posted"]


@pytest.mark.parametrize("step", [1, -1])
async def test_a_sequence_that_is_not_the_books(book: Book, step: int) -> None:
    await redis(book, "HINCRBY", ACCT, "seq", step)
    assert await checks(book) == ["gate seq"]


async def test_an_account_the_book_does_not_have(book: Book) -> None:
    await redis(book, "HSET", f"{base(BUCKET)}acct:acc_nobody", "posted", 1, "seq", 1)
    assert await checks(book) == ["gate"]


async def test_a_hold_without_a_deadline(book: Book) -> None:
    await redis(book, "DEL", DUE)
    assert await checks(book) == ["deadline"]


async def test_a_hold_that_nobody_sweeps(book: Book) -> None:
    member = (await redis(book, "ZRANGE", DUE, 0, -1))[0].decode()  # type: ignore[index]
    await redis(book, "ZADD", DUE, 1_000, member)
    assert await checks(book) == ["overdue"]


# Reservations -------------------------------------------------------------------------------------------


async def reserved(book: Book) -> str:
    """The id of a pending reservation of 2 credits."""
    body = {"amount": "2", "ttlSeconds": 300, "reservationId": "mine", "operation": None, "model": None}
    return str((await LocalDesk(book).reserve(None, ACCOUNT, body))["id"])


async def test_a_pending_reservation_is_no_drift(book: Book) -> None:
    await reserved(book)
    assert await checks(book) == []
    await LocalDesk(book).end_reservation(None, "confirm", {"reservationId": "mine", "actualAmount": "1"})
    assert await checks(book) == []
    assert await book.ledger.audit() == []


async def test_a_reservation_that_redis_does_not_hold(book: Book) -> None:
    hold = await reserved(book)
    await redis(book, "HDEL", HOLDS, hold)
    await redis(book, "ZREM", DUE, f"{ACCOUNT}|{hold}")
    await redis(book, "HINCRBY", ACCT, "held", -2_000_000)
    assert await checks(book) == ["reservation"]


async def test_a_reservation_that_has_ended_and_is_held_for_long(book: Book) -> None:
    hold = await reserved(book)
    await book.ledger.reservations.cancel(hold)
    assert await checks(book) == ["reservation"]
    await redis(book, "ZADD", DUE, "LT", 10**12 + 1, f"{ACCOUNT}|{hold}")  # due: the next sweep closes it
    assert await checks(book) == ["overdue"]


def test_behind_is_drift_only_below_what_the_book_said_before() -> None:
    assert list(balance_findings("a", SEEN, posted=9, seq=7, at_least=3)) == []
    assert [f.check for f in balance_findings("a", SEEN, posted=9, seq=7, at_least=4)] == ["gate seq"]
    cold = replace(SEEN, warm=False, held=0)
    assert list(balance_findings("a", cold, posted=9, seq=7, at_least=7)) == []


# Repairs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("HINCRBY", ACCT, "held", 1),
        ("HINCRBY", ACCT, "posted", 1),
        ("HINCRBY", ACCT, "seq", 1),
        ("HINCRBY", ACCT, "seq", -1),
        ("HSET", f"{base(BUCKET)}acct:acc_nobody", "posted", 1, "seq", 1),
        ("DEL", DUE),
    ],
)
async def test_what_redis_has_wrong_is_mended_and_the_next_call_is_right(
    book: Book, words: tuple[str | int, ...]
) -> None:
    assert book.gate is not None
    await redis(book, *words)
    found = await gate_drift(book)
    assert await mend(book, found)
    assert await checks(book) == []
    await book.gate.reserve(ask())
    seen = await book.gate.account(BUCKET, ACCOUNT)
    assert (seen["posted"], seen["seq"], seen["held"]) == ("10000000", "1", "2000000")
    assert await checks(book) == []


async def test_a_hold_that_nobody_sweeps_is_closed_with_a_record(book: Book) -> None:
    member = (await redis(book, "ZRANGE", DUE, 0, -1))[0].decode()  # type: ignore[index]
    text = (await redis(book, "HGETALL", HOLDS))[1]  # type: ignore[index]
    intent = Record(
        hold_id=member.partition("|")[2],
        hold_kind="call",
        kind="actual",
        organization_id=ORGANIZATION,
        account_id=ACCOUNT,
        key_id=None,
        request_id="req_1",
        occurred_at_us=1_790_000_000_000_000,
        charge_microcredits=0,
        cost_usd=Decimal(0),
    )
    meta = encode_record(intent)
    await redis(book, "HSET", HOLDS, member.partition("|")[2], text.rpartition(b"|")[0] + b"|" + meta)
    await redis(book, "ZADD", DUE, 1_000, member)
    await mend(book, await gate_drift(book))
    assert await checks(book) == []
    assert book.gate is not None
    assert await book.gate.holds(BUCKET, ACCOUNT) == []
    assert (await LocalDesk(book).usage({"limit": "5"}))[0]["kind"] == "unconfirmed"


async def test_a_reservation_that_redis_lost_is_held_again_at_the_next_call(book: Book) -> None:
    hold = await reserved(book)
    await redis(book, "HDEL", HOLDS, hold)
    await redis(book, "ZREM", DUE, f"{ACCOUNT}|{hold}")
    await redis(book, "HINCRBY", ACCT, "held", -2_000_000)
    await mend(book, await gate_drift(book))
    assert await checks(book) == []
    assert book.gate is not None
    await book.gate.reserve(ask())
    assert (await book.gate.account(BUCKET, ACCOUNT))["held"] == "4000000"


async def test_a_reservation_that_is_over_is_held_no_more(book: Book) -> None:
    hold = await reserved(book)
    await book.ledger.reservations.cancel(hold)
    await mend(book, await gate_drift(book))
    assert await checks(book) == []
    assert book.gate is not None
    assert (await book.gate.account(BUCKET, ACCOUNT))["held"] == "1000000"


async def test_redis_hears_of_a_balance_that_was_repaired(book: Book) -> None:
    def corrupt(conn: Connection) -> None:
        conn.exec_driver_sql("UPDATE accounts SET posted = posted + 5 WHERE posted > 0")

    await asyncio.to_thread(transact, book.settings.book_url, corrupt)
    await tell(book, await asyncio.to_thread(repair, book.settings.book_url))
    assert await book.ledger.audit() == []
    assert await checks(book) == []
    assert book.gate is not None
    seen = await book.gate.account(BUCKET, ACCOUNT)
    assert (seen["posted"], seen["seq"]) == ("10000000", "2")


# A forced rebuild ---------------------------------------------------------------------------------------


async def test_reset_makes_every_account_cold_and_owners_put_holds_back(book: Book) -> None:
    assert book.pipe is not None
    assert book.gate is not None
    held = (await book.gate.holds(BUCKET, ACCOUNT))[0]
    await redis(book, "HINCRBY", ACCT, "seq", 5)  # as after a restored backup: newer than the book
    assert await forget(book.pipe) > 0
    assert await book.gate.account(BUCKET, ACCOUNT) == {}
    assert await book.gate.reassert([held]) == ["ok"]
    await book.gate.calm(BUCKET, await book.gate.ticket(BUCKET))
    await book.gate.reserve(ask())
    seen = await book.gate.account(BUCKET, ACCOUNT)
    assert (seen["posted"], seen["seq"], seen["held"]) == ("10000000", "1", "2000000")
    assert await checks(book) == []


# Journals -----------------------------------------------------------------------------------------------


async def test_a_dead_journal_is_found_and_a_live_or_empty_one_is_not(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = settings.data_dir / "journal"
    folder.mkdir()
    monkeypatch.setattr(drift, "unclosed", lambda data: {"h": 1} if data else {})
    (folder / "1-000001.journal").write_bytes(b"")
    (folder / "2-000001.journal").write_bytes(b"x")
    fd = os.open(folder / "3-000001.journal", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"x")
    fcntl.flock(fd, fcntl.LOCK_EX)
    found = await journal_drift(settings, running=False)
    os.close(fd)
    assert [finding.subject for finding in found] == ["2-000001.journal"]
