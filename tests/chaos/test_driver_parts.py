"""What the chaos driver disturbs with, tried on its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.chaos.driver.clock import SteppedClock
from tests.chaos.driver.disk import SmallDisk
from tests.chaos.driver.shim import Shim

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


@pytest.fixture
async def shim() -> AsyncIterator[Shim]:
    """In front of a server that says everything again."""
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    shim = Shim(server.sockets[0].getsockname()[:2])
    await shim.start()
    yield shim
    await shim.stop()
    server.close()


@asynccontextmanager
async def line(shim: Shim) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", shim.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def say(on: Line, word: bytes, patience_s: float = 2.0) -> bytes:
    on[1].write(word)
    return await asyncio.wait_for(on[0].read(100), patience_s)


async def test_what_hangs_comes_late(shim: Shim) -> None:
    async with line(shim) as on:
        assert await say(on, b"one") == b"one"
        async with shim.hanging():
            with pytest.raises(TimeoutError):
                await say(on, b"two", 0.1)
        assert await asyncio.wait_for(on[0].read(100), 2) == b"two"


async def test_a_lost_reply_is_never_taken_for_the_next_one(shim: Shim) -> None:
    async with line(shim) as on, line(shim) as untouched:
        async with shim.losing_replies():
            with pytest.raises(TimeoutError):
                await say(on, b"lost", 0.1)
        assert shim.lost_replies == 1
        with pytest.raises(ConnectionResetError):
            await say(on, b"next")
        assert await say(untouched, b"other") == b"other"


async def test_what_was_parted_is_broken_when_it_is_mended(shim: Shim) -> None:
    async with line(shim) as on:
        async with shim.parted():
            with pytest.raises(TimeoutError):
                await say(on, b"gone", 0.1)
        with pytest.raises(ConnectionResetError):
            await say(on, b"next")


def test_a_clock_is_set_while_a_process_runs(tmp_path: Path) -> None:
    clock = SteppedClock(tmp_path / "clock")
    if trouble := clock.make():
        pytest.skip(f"a clock cannot be set here: {trouble}")
    code = "import sys, time\nfor line in sys.stdin: print(time.time(), time.monotonic(), flush=True); time.sleep(0.01)"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, env={**clock.environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for offset_s in (0, 40, -40):
            clock.set(offset_s)
            process.stdin.write("\n")
            process.stdin.flush()
            wall, monotonic = map(float, process.stdout.readline().split())
            assert abs(wall - time.time() - offset_s) < 5
            assert abs(monotonic - time.monotonic()) < 5
        process.stdin.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk", tmp_path / "disk.img", megabytes=8)
    if trouble := disk.mount():
        pytest.skip(f"a disk cannot be filled here: {trouble}")
    yield disk
    disk.unmount()


def test_a_full_disk_takes_nothing_and_has_room_again(disk: SmallDisk) -> None:
    with disk.full(), pytest.raises(OSError, match="space"), (disk.folder / "file").open("wb", buffering=0) as file:
        file.write(bytes(8192))
    assert (disk.folder / "file").write_bytes(bytes(8192)) == 8192


def test_a_stalled_disk_keeps_a_writer_waiting(disk: SmallDisk) -> None:
    code = f"open({str(disk.folder / 'file')!r}, 'w').write('x')"
    with disk.stalled():
        writer = subprocess.Popen([sys.executable, "-c", code])
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(0.5)
    assert writer.wait(10) == 0
