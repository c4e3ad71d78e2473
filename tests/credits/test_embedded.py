"""The embedded server: one per data directory, adopted if it runs, gone when it is stopped."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faregate.credits.embedded import EmbeddedValkey, socket_path, url


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: pytest's own are near the limit of a socket's."""
    with tempfile.TemporaryDirectory(prefix="fg") as name:
        yield Path(name)


@pytest.fixture
def server(folder: Path) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(folder)
    assert server.start()
    yield server
    server.stop()


def pid_of(server: EmbeddedValkey) -> int:
    assert server._process is not None
    return server._process.pid


def test_it_is_up_within_a_second(folder: Path) -> None:
    server = EmbeddedValkey(folder)
    began = time.monotonic()
    assert server.start()
    assert time.monotonic() - began < 1.0
    assert server.ping()
    server.stop()


def test_one_that_runs_is_adopted(server: EmbeddedValkey, folder: Path) -> None:
    other = EmbeddedValkey(folder)
    assert not other.start()
    assert other.alive()
    assert other._pid_of_adopted() == pid_of(server)


def test_an_adopted_one_can_be_stopped(server: EmbeddedValkey, folder: Path) -> None:
    other = EmbeddedValkey(folder)
    other.start()
    pid = pid_of(server)
    assert server._process is not None
    os.kill(pid, 0)
    # The test is its parent and must reap it, or it lives on as a zombie.
    server._process.send_signal(signal.SIGTERM)
    server._process.wait(5)
    other.stop()
    assert not other.ping()


def test_a_frozen_one_is_not_doubled(server: EmbeddedValkey, folder: Path) -> None:
    os.kill(pid_of(server), signal.SIGSTOP)
    try:
        assert not EmbeddedValkey(folder).start()
    finally:
        os.kill(pid_of(server), signal.SIGCONT)


def test_a_full_one_is_not_doubled(server: EmbeddedValkey, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(server.socket))
        client.sendall(b"CONFIG SET maxclients 1\r\n")
        assert client.recv(100).startswith(b"+OK")
        assert not EmbeddedValkey(folder).start()


def test_after_kill_9_it_starts_again_empty(server: EmbeddedValkey) -> None:
    os.kill(pid_of(server), signal.SIGKILL)
    assert server._process is not None
    server._process.wait(5)
    assert not server.alive()
    assert server.start()
    assert server.alive()


def test_stop_ends_the_process_and_may_be_repeated(folder: Path) -> None:
    server = EmbeddedValkey(folder)
    server.start()
    pid = pid_of(server)
    server.stop()
    server.stop()
    assert not server.alive()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_stop_ends_a_frozen_one_too(folder: Path) -> None:
    server = EmbeddedValkey(folder)
    server.start()
    os.kill(pid_of(server), signal.SIGSTOP)
    server.stop(timeout_s=0.2)
    assert not server.alive()


def test_a_long_data_directory_gets_a_short_private_socket(folder: Path) -> None:
    deep = folder / ("d" * 120)
    deep.mkdir()
    server = EmbeddedValkey(deep)
    assert len(os.fsencode(server.socket)) <= 100
    assert server.start()
    assert url(deep) == f"unix://{server.socket}"
    assert server.socket.parent.stat().st_mode & 0o077 == 0
    server.stop()


def test_a_short_one_has_it_inside(folder: Path) -> None:
    assert socket_path(folder) == folder / "valkey.sock"


def test_nothing_is_kept_on_disk(folder: Path) -> None:
    server = EmbeddedValkey(folder)
    server.start()
    server.stop()
    assert [path.name for path in folder.iterdir() if path.name != "valkey.log"] == []
