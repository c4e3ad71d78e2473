"""A book that is locked, a disk that is full, a journal that was torn, a balance that everybody wants at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faregate.journal.records import LEARNED, frame
from tests.chaos.load import Answer, Load, Wire, request
from tests.chaos.world import ACCOUNT, World

pytestmark = pytest.mark.xdist_group("chaos")


async def test_answers_go_on_while_the_book_is_locked_and_charges_land_once(world: World) -> None:
    await world.start()
    async with Load(world.gateway.port) as load:
        await asyncio.sleep(0.8)
        with _locked_book(world.gateway.data_dir):
            before, records = load.whole, _records(world)
            await asyncio.sleep(3.0)
            assert load.whole > before + 20
            assert _records(world) == records
        await asyncio.sleep(0.5)
    assert await world.rest(12.0)
    assert await world.findings(load.answers) == []


async def test_a_gateway_killed_while_the_book_is_locked_books_its_journal_later(world: World) -> None:
    await world.start()
    async with Load(world.gateway.port) as load:
        await asyncio.sleep(0.5)
        with _locked_book(world.gateway.data_dir):
            before = load.whole
            await asyncio.sleep(1.0)
            assert load.whole > before
            valkey = world.gateway.valkey_pid()
            world.gateway.kill()
            os.kill(valkey, signal.SIGKILL)
    await asyncio.to_thread(world.gateway.start)
    assert await world.findings(load.answers) == []


async def test_two_hundred_calls_on_a_balance_for_a_few_do_not_overspend(world: World) -> None:
    world.gateway.workers = 4
    balance = 1_000_000
    await world.start(credits=1)
    told: dict[str, object] = {"output_tokens": 60, "first_byte_s": 0.05}
    load = Load(world.gateway.port, connections=200, calls=200, told=lambda n: told, stream=lambda n: n % 2 == 0)
    async with load:
        await load.done()
    assert set(load.statuses()) <= {200, 402}
    assert 0 < load.whole < 20
    assert await world.findings(load.answers) == []
    assert _spent(world) <= balance
    answers = await _until_refused(world, load.answers)
    last = answers[-1]
    assert last.status == 402
    assert len(answers) > 1 or _posted(world) < 200_000
    assert await world.findings(load.answers) == []
    assert _posted(world) == balance - _spent(world)


async def _until_refused(world: World, answers: dict[str, Answer]) -> list[Answer]:
    """One after the other: what is left must be usable to the last call that fits."""
    wire, found = Wire(world.gateway.port), []
    for n in range(40):
        answer = Answer(call=f"single-{n}", stream=False)
        answers[answer.call] = answer
        found.append(await wire.call(answer, request(answer.call, {"output_tokens": 5}, stream=False)))
        if answer.status != 200:
            break
    await wire.close()
    return found


async def test_a_torn_tail_is_cut_off_and_nothing_before_it_is_lost(world: World) -> None:
    await world.start()
    async with Load(world.gateway.port) as load:
        await asyncio.sleep(1.0)
        valkey = world.gateway.valkey_pid()
        world.gateway.kill()
        os.kill(valkey, signal.SIGKILL)
    journals = list((world.gateway.data_dir / "journal").glob("*"))
    assert journals
    for journal in journals:
        with journal.open("ab") as file:
            file.write(frame(LEARNED, b'{"hold_id": "call_torn", "charge_microcredits": 99999}')[:-7])
    await asyncio.to_thread(world.gateway.start)
    assert await world.findings(load.answers) == []


async def test_a_full_disk_under_the_journal_refuses_new_calls_and_loses_none(world: World) -> None:
    journal = world.gateway.data_dir / "journal"
    journal.mkdir(parents=True)
    with _small_disk(journal, "1m"):
        await world.start()
        async with Load(world.gateway.port) as load:
            await asyncio.sleep(0.6)
            _fill(journal / "ballast")
            await asyncio.sleep(1.5)
            full = load.statuses()
            assert full.get(503, 0) > 0
            (journal / "ballast").unlink()
            before = load.whole
            await asyncio.sleep(0.8)
            assert load.whole > before
        assert await asyncio.to_thread(world.gateway.stop) == 0
        assert world.findings_now(load.answers, running=False) == []


@contextmanager
def _locked_book(data_dir: Path) -> Iterator[None]:
    book = sqlite3.connect(data_dir / "faregate.db", isolation_level=None, timeout=5)
    book.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        book.execute("ROLLBACK")
        book.close()


@contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[None]:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def _records(world: World) -> int:
    return _ask(world, "SELECT count(*) FROM usage_records")


def _posted(world: World) -> int:
    return _ask(world, f"SELECT posted FROM accounts WHERE id = '{ACCOUNT}'")


def _spent(world: World) -> int:
    return sum(call.price_microcredits for call in world.upstream.account())


def _ask(world: World, query: str) -> int:
    book = sqlite3.connect(f"file:{world.gateway.data_dir}/faregate.db?mode=ro", uri=True)
    try:
        return int(book.execute(query).fetchone()[0])
    finally:
        book.close()
