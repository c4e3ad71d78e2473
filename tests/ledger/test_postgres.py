"""What only PostgreSQL can do to the book: connections die, transactions collide, replies get lost."""

from __future__ import annotations

import asyncio
import os
import time
import traceback

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from tests.ledger.conftest import POSTGRES, World, rival
from tests.postgres import Cluster

from faregate.errors import BookUnavailable, ConfigError, InvalidRequest
from faregate.ledger import postgres
from faregate.ledger.accounts import Accounts
from faregate.ledger.audit import audit
from faregate.ledger.committer import COLLISIONS
from faregate.ledger.database import Database
from faregate.ledger.engine import parse_url, transact
from faregate.ledger.organizations import Organizations
from faregate.ledger.schema import prepare


def _setting(conn: Connection, name: str) -> str:
    return str(conn.exec_driver_sql(f"SHOW {name}").scalar_one())


@POSTGRES
async def test_commits_reach_the_disk_whatever_the_server_is_told(world: World) -> None:
    async with rival(world) as other:
        assert await other.fetchval("SHOW synchronous_commit") == "off"
    assert await world.database.write(_setting, "synchronous_commit") == "on"
    assert await world.database.write(_setting, "transaction_isolation") == "read committed"
    assert await world.database.read(_setting, "transaction_isolation") == "repeatable read"
    assert await world.database.read(_setting, "transaction_read_only") == "on"
    for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
        assert await world.database.write(_setting, name) != "0"


@POSTGRES
async def test_text_is_ordered_as_python_orders_it(world: World) -> None:
    names = ["b", "B", "a", "_", "é", "\U0001f600", "\uffee", "ab", "a b"]
    for name in names:
        await world.book.commit(world.record(1, attribution={"agent": name}))
    sql = "SELECT agent FROM detail_rollups ORDER BY agent"
    assert await world.database.read(lambda conn: list(conn.exec_driver_sql(sql).scalars())) == sorted(names)
    assert audit(world.url) == []


@POSTGRES
async def test_a_nul_in_a_tag_parks_nothing(world: World) -> None:
    record = world.record(5, attribution={"agent": "a\0", "tag.x": "\0"}, description="\0", limit_keys=())
    assert (await world.book.commit(record)).snapshot.posted == -5
    assert audit(world.url) == []


@POSTGRES
@pytest.mark.parametrize("reference", ["acc\0", "\ud800"])
async def test_looking_for_what_cannot_be_there_is_a_mistake_of_the_caller(world: World, reference: str) -> None:
    with pytest.raises(InvalidRequest):
        await Accounts(world.database).get(world.organization_id, reference)


@POSTGRES
async def test_a_text_too_long_for_an_index_is_parked_alone(world: World) -> None:
    long = os.urandom(20_000).hex()
    answers = await asyncio.gather(
        *(world.book.commit(world.record(5, request_id=text)) for text in ("a", long, "b")), return_exceptions=True
    )
    assert [getattr(answer, "code", "ok") for answer in answers] == ["ok", "book_refused", "ok"]


@POSTGRES
async def test_a_deadlock_is_run_again(world: World) -> None:
    update = "UPDATE accounts SET name = name WHERE id = $1"
    mine, theirs = world.account_id, world.other_account_id
    first = asyncio.Event()
    attempts = 0

    def job(conn: Connection) -> int:
        nonlocal attempts
        attempts += 1
        conn.exec_driver_sql(update, (mine,))
        first.set()
        conn.exec_driver_sql(update, (theirs,))
        return attempts

    async with rival(world) as other:
        await other.execute("SET deadlock_timeout = '20s'")  # so that ours is the one that is shot
        await other.execute(update, theirs)
        running = asyncio.create_task(world.database.write(job))
        await first.wait()
        await other.execute(update, mine)
    assert await running == 2


@POSTGRES
async def test_a_collision_without_end_is_unavailable(world: World) -> None:
    attempts = 0

    def job(conn: Connection) -> None:
        nonlocal attempts
        attempts += 1
        conn.exec_driver_sql("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '40001'; END $$")

    with pytest.raises(BookUnavailable, match="40001"):
        await world.database.write(job)
    assert attempts == COLLISIONS + 1


@POSTGRES
async def test_connections_that_were_closed_meanwhile_are_replaced(world: World) -> None:
    await world.book.snapshot(world.account_id, [], gate=False)
    async with rival(world) as other:
        await other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )
    await asyncio.sleep(0.05)
    assert (await world.book.snapshot(world.account_id, [], gate=False)).posted == 0
    assert (await world.book.commit(world.record(5))).new


@POSTGRES
async def test_who_holds_locks_and_does_nothing_is_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(postgres._BOUNDED, "idle_in_transaction_session_timeout", "50")
    database = Database(world.url)

    def frozen(conn: Connection) -> None:
        conn.exec_driver_sql("SELECT * FROM accounts FOR UPDATE")
        time.sleep(0.3)
        conn.exec_driver_sql("SELECT 1")

    with pytest.raises(BookUnavailable):
        await database.write(frozen)
    assert (await database.commit(world.record(5))).new
    await database.close()


@POSTGRES
async def test_a_cancelled_reader_costs_no_connection(world: World) -> None:
    def slow(conn: Connection) -> int:
        conn.exec_driver_sql("SELECT pg_sleep(0.2)")
        return int(conn.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())

    database = Database(world.url, readers=1)
    before = await database.read(slow)
    reading = asyncio.create_task(database.read(slow))
    await asyncio.sleep(0.05)
    reading.cancel()
    assert await database.read(slow) == before
    await database.close()


@POSTGRES
async def test_many_first_sights_make_one_account(world: World) -> None:
    databases = [Database(world.url) for _ in range(4)]
    seen = await asyncio.gather(
        *(Accounts(database).ensure(world.organization_id, f"u{user}") for database in databases for user in range(5))
    )
    assert len({account.id for account in seen}) == 5
    await asyncio.gather(*(database.close() for database in databases))


@POSTGRES
async def test_many_processes_bootstrap_once(world: World) -> None:
    databases = [Database(world.url) for _ in range(4)]
    answers = await asyncio.gather(*(Organizations(database).bootstrap("hash") for database in databases))
    assert len({answer.account_id for answer in answers}) == 1
    await asyncio.gather(*(database.close() for database in databases))


@POSTGRES
async def test_a_killed_server_loses_and_doubles_nothing(world: World, cluster: Cluster) -> None:
    async def persist(number: int) -> None:
        record = world.record(5, request_id=str(number))
        while True:
            try:
                await world.book.commit(record)
            except BookUnavailable:
                await asyncio.sleep(0.05)
            else:
                return

    async def caller(number: int) -> None:
        for turn in range(40):
            await persist(number * 40 + turn)

    callers = [asyncio.create_task(caller(number)) for number in range(20)]
    for _ in range(3):
        await asyncio.sleep(0.15)
        await asyncio.to_thread(cluster.kill)
        await asyncio.to_thread(cluster.start)
    await asyncio.gather(*callers)
    snapshot = await world.book.snapshot(world.account_id, [], gate=False)
    assert (snapshot.posted, snapshot.seq) == (-5 * 800, 800)
    assert audit(world.url) == []


@POSTGRES
async def test_a_lost_reply_is_answered_by_a_retry(world: World, cluster: Cluster) -> None:
    """Waiting for a standby that does not exist, a transaction is committed, and its client not told."""
    await world.book.commit(world.record(1))
    cluster.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    cluster.sql("SELECT pg_reload_conf()")
    record = world.record(5)
    committing = asyncio.create_task(world.book.commit(record))
    async with rival(world) as other:
        while not await other.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"):
            assert not committing.done()
            await asyncio.sleep(0.02)
        cluster.kill()
        with pytest.raises(BookUnavailable):
            await committing
    cluster.start()
    cluster.sql("ALTER SYSTEM RESET synchronous_standby_names")
    cluster.sql("SELECT pg_reload_conf()")
    again = await world.book.commit(record)
    assert (again.new, again.snapshot.posted, again.charge_microcredits) == (False, -6, 5)
    assert audit(world.url) == []


def test_many_may_prepare_an_empty_database_at_once(cluster: Cluster) -> None:
    async def all_at_once(url: str) -> None:
        await asyncio.gather(*(asyncio.to_thread(prepare, url) for _ in range(4)))

    with cluster.blank() as url:
        asyncio.run(all_at_once(url))
        assert audit(url) == []


def test_a_database_that_cannot_hold_every_text_is_refused(cluster: Cluster) -> None:
    cluster.sql("CREATE DATABASE latin TEMPLATE template0 ENCODING LATIN1 LOCALE_PROVIDER libc LOCALE 'C'")
    with pytest.raises(ConfigError, match="LATIN1"):
        prepare(cluster.url("latin"))
    cluster.sql("DROP DATABASE latin")


@pytest.mark.parametrize("where", ["/nowhere?host={folder}", "127.0.0.1:1/x", "/x?host=/nowhere"])
def test_no_error_tells_the_password(cluster: Cluster, where: str) -> None:
    url = f"postgres://faregate:hunter2@{where}".format(folder=cluster.folder)
    with pytest.raises(BookUnavailable) as caught:
        prepare(url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in repr(parse_url(url))


def test_parameters_of_libpq_work_and_nonsense_is_a_mistake_of_the_configuration(cluster: Cluster) -> None:
    url = cluster.url("empty_book")
    prepare(f"{url}&sslmode=disable&channel_binding=prefer&application_name=x")
    with pytest.raises(ConfigError):
        prepare(f"{url}&sslmode=maybe")


def test_what_was_given_to_a_failing_statement_stays_out_of_its_error(cluster: Cluster) -> None:
    def fail(conn: Connection) -> None:
        conn.exec_driver_sql("SELECT $1::text::int", ("hunter2 is the secret",))

    with pytest.raises(SQLAlchemyError) as caught:
        transact(cluster.url("empty_book"), fail)
    assert "[SQL parameters hidden" in str(caught.value)
