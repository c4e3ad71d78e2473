"""The pipe stays in step whatever its callers and the server do."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faregate.credits.embedded import EmbeddedValkey, url
from faregate.credits.pipe import Pipe
from faregate.errors import StoreUnavailable
from tests.credits.conftest import Bench


@pytest.fixture
def own() -> Iterator[tuple[Path, EmbeddedValkey]]:
    """A server of the test's own, to be ill-treated."""
    with tempfile.TemporaryDirectory(prefix="fg") as folder:
        server = EmbeddedValkey(Path(folder))
        server.start()
        yield Path(folder), server
        server.stop()


async def echo(pipe: Pipe, word: str, timeout_s: float = 5.0) -> str:
    reply: bytes = await pipe.command(("ECHO", word), timeout_s)
    return reply.decode()


async def blocked(pipe: Pipe) -> asyncio.Task[None]:
    """Hold the connection's replies back for a while: everything behind this waits for it."""

    async def pop() -> None:
        await pipe.command(("BLPOP", "nothing", "0.3"), 5.0)

    task = asyncio.create_task(pop())
    await asyncio.sleep(0.02)
    return task


async def test_calls_of_one_tick_leave_as_one_write(pipe: Pipe) -> None:
    writes: list[bytes] = []
    await echo(pipe, "warm")
    assert pipe._connection is not None
    writer = pipe._connection._writer
    assert writer is not None
    real = writer.write

    def write(data: bytes | bytearray | memoryview) -> None:
        writes.append(bytes(data))
        real(data)

    writer.write = write  # type: ignore[method-assign]
    assert await asyncio.gather(*(echo(pipe, f"w{n}") for n in range(50))) == [f"w{n}" for n in range(50)]
    assert len(writes) == 1


async def test_a_time_out_leaves_the_connection_in_step(pipe: Pipe) -> None:
    holding = await blocked(pipe)
    with pytest.raises(StoreUnavailable, match="in time"):
        await echo(pipe, "late", timeout_s=0.05)
    assert await echo(pipe, "next") == "next"
    await holding


async def test_a_cancelled_call_does_not_shift_replies(pipe: Pipe) -> None:
    holding = await blocked(pipe)
    calls = [asyncio.create_task(echo(pipe, f"w{n}")) for n in range(10)]
    await asyncio.sleep(0.02)
    for call in calls[::2]:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert answers[1::2] == [f"w{n}" for n in range(1, 10, 2)]
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
    await holding


async def test_flushed_scripts_are_loaded_again(bench: Bench) -> None:
    await bench.command("SCRIPT", "FLUSH")
    assert await bench.rebuild(100) == "ok"
    assert (await bench.reserve("h"))[0] == "ok"


async def test_an_error_reply_belongs_to_its_caller_alone(pipe: Pipe) -> None:
    await pipe.command(("SET", "word", "x"), 5.0)
    wrong = asyncio.create_task(pipe.command(("INCR", "word"), 5.0))
    assert await echo(pipe, "fine") == "fine"
    with pytest.raises(Exception, match="not an integer"):
        await wrong


async def test_more_than_max_waiting_is_refused_at_once(valkey: Path) -> None:
    pipe = Pipe(url(valkey), max_waiting=2)
    holding = await blocked(pipe)
    second = asyncio.create_task(echo(pipe, "second"))
    await asyncio.sleep(0.02)
    with pytest.raises(StoreUnavailable, match="overloaded"):
        await echo(pipe, "third")
    assert await second == "second"
    await holding
    await pipe.close()


async def test_a_killed_server_fails_what_waits_and_a_new_one_is_found(own: tuple[Path, EmbeddedValkey]) -> None:
    folder, server = own
    pipe = Pipe(url(folder))
    holding = await blocked(pipe)
    assert server._process is not None
    os.kill(server._process.pid, signal.SIGKILL)
    server._process.wait()
    with pytest.raises(StoreUnavailable):
        await holding
    with pytest.raises(StoreUnavailable):
        await echo(pipe, "nobody")
    assert await asyncio.to_thread(server.start)
    await asyncio.sleep(0.1)
    assert await echo(pipe, "back") == "back"
    await pipe.close()


async def test_nobody_there_is_an_unavailable_store(tmp_path: Path) -> None:
    pipe = Pipe(f"unix://{tmp_path}/none.sock")
    with pytest.raises(StoreUnavailable, match="out of reach"):
        await echo(pipe, "hello")
    with pytest.raises(StoreUnavailable):
        await pipe.connect()
    await pipe.close()


async def test_closing_fails_what_waits(valkey: Path) -> None:
    pipe = Pipe(url(valkey))
    holding = await blocked(pipe)
    await pipe.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await holding


async def test_a_frozen_server_times_out_and_goes_on(own: tuple[Path, EmbeddedValkey]) -> None:
    folder, server = own
    pipe = Pipe(url(folder))
    await echo(pipe, "warm")
    assert server._process is not None
    os.kill(server._process.pid, signal.SIGSTOP)
    with pytest.raises(StoreUnavailable, match="in time"):
        await echo(pipe, "frozen", timeout_s=0.1)
    os.kill(server._process.pid, signal.SIGCONT)
    assert await echo(pipe, "thawed") == "thawed"
    await pipe.close()


async def test_a_mute_server_is_given_up_and_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faregate.credits.pipe._CONNECT_S", 0.05)
    asked = 0

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(mute, tmp_path / "s")
    pipe = Pipe(f"unix://{tmp_path / 's'}")
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await pipe.command(("PING",), 0.2)
        await asyncio.sleep(0.15)
    assert asked >= 2
    await pipe.close()
    server.close()
    await server.wait_closed()
