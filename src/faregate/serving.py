"""The parent of `serve`: owns the listening socket, the data directory, the embedded Valkey and the book's clerk;
workers do the rest.

Workers end when the parent does (the pipe they watch closes), so a killed parent leaves nobody on the port. The
embedded Valkey outlives a killed parent and is adopted by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from faregate.credits.embedded import EmbeddedValkey, socket_path
from faregate.errors import ConfigError, StoreUnavailable
from faregate.settings import Settings, child_environment
from faregate.shutdown import kill_after_s

log = logging.getLogger("faregate")

_POLL_S = 0.1
_RESTART_MOST_S = 5.0
_BIND_PATIENCE_S = 5.0
_CLERK_PATIENCE_S = 5.0


@dataclass(slots=True)
class _Worker:
    index: int
    process: subprocess.Popen[bytes]
    ready_fd: int
    started_at: float
    ready: bool = False
    failures: int = 0
    restart_at: float | None = None
    """Once it has ended: when it is started again."""


class _Clerk:
    """The process that writes an SQLite book for all workers. Its socket stays open while it is started again."""

    def __init__(self, settings: Settings) -> None:
        self._path = socket_path(settings.data_dir, "book")
        self.path = str(self._path)
        self._url = settings.book_url
        self._patience_s = settings.timing.shutdown_s + 10
        self._metered = settings.stripe.metered
        self._watch, self._keep = os.pipe()
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._path.chmod(0o600)
        self._listener.listen(256)
        self._started_at = 0.0
        self._process = self._start()

    def mend(self) -> None:
        """Start it again if it has ended, at most once a second."""
        if self._process.poll() is not None and time.monotonic() - self._started_at > 1:
            log.warning("the book's clerk ended with %s, starting it again", self._process.returncode)
            self._process = self._start()

    def end(self) -> None:
        """After the workers: it writes what it has, and goes."""
        os.close(self._keep)
        try:
            self._process.wait(_CLERK_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._watch)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _start(self) -> subprocess.Popen[bytes]:
        self._started_at = time.monotonic()
        listening, watch = self._listener.fileno(), self._watch
        task = {
            "url": self._url,
            "fd": listening,
            "watch": watch,
            "patience_s": self._patience_s,
            "metered": self._metered,
        }
        return subprocess.Popen(  # noqa: S603  # ourselves
            [sys.executable, "-m", "faregate.clerk", json.dumps(task)],
            pass_fds=(listening, watch),
            stdin=subprocess.DEVNULL,
            env=child_environment({}),
            start_new_session=True,
        )


@dataclass(slots=True)
class Parent:
    """One `faregate serve`. `arguments` is what workers need to load the same settings: config, overrides."""

    settings: Settings
    arguments: Mapping[str, object]
    on_ready: Callable[[str], None] = lambda url: None
    """Called once, with the address it listens on (http://host:port), when the first worker takes traffic."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the workers' environment (never on a command line, where anybody could read it)."""
    _workers: dict[int, _Worker] = field(default_factory=dict)
    _valkey: EmbeddedValkey | None = None
    _clerk: _Clerk | None = None
    _fresh: bool = False
    _stop: bool = False

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT. Returns the exit code: 0, or what a first worker that cannot start says."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        make_data_dir(self.settings.data_dir)
        host, port = self.settings.server.host, self.settings.server.port
        with self._owned(), _bound(host, port) as listener, self._embedded(), self._clerked(), _pipe() as watch:
            try:
                return self._serve(listener, watch)
            finally:
                listener.close()
                self._end_workers()
                shutil.rmtree(self._metrics_dir, ignore_errors=True)

    @property
    def _metrics_dir(self) -> Path:
        return self.settings.data_dir / f"metrics-{os.getpid()}"

    def _serve(self, listener: socket.socket, watch: int) -> int:
        if self.settings.server.workers > 1:
            self._clear_metrics()
        code = self._start_and_wait(0, listener, watch)
        if code or self._stopped():
            return code
        self._fresh = False
        for index in range(1, self.settings.server.workers):
            self._start(index, listener, watch)
        self.on_ready(_url(listener))
        while not self._stopped():
            time.sleep(_POLL_S)
            self._mend(listener, watch)
        return 0

    def _clear_metrics(self) -> None:
        """Counters begin with the parent; what killed ones left is nobody's."""
        for left in self.settings.data_dir.glob("metrics-*"):
            if not Path(f"/proc/{left.name.rpartition('-')[2]}").exists() or left == self._metrics_dir:
                shutil.rmtree(left, ignore_errors=True)
        self._metrics_dir.mkdir(mode=0o700)

    def _start_and_wait(self, index: int, listener: socket.socket, watch: int) -> int:
        """The first worker brings schema, admin key and journals in order; the others follow. Returns 0 or its code."""
        self._start(index, listener, watch)
        worker = self._workers[index]
        while not self._stopped():
            if not select.select([worker.ready_fd], [], [], _POLL_S)[0]:
                continue
            if os.read(worker.ready_fd, 1):
                worker.ready = True
                return 0
            return 2 if worker.process.wait() == 2 else 1
        return 0

    def _start(self, index: int, listener: socket.socket, watch: int) -> None:
        told, tell = os.pipe()
        task = dict(self.arguments) | {"fd": listener.fileno(), "watch": watch, "tell": tell, "index": index}
        task["fresh"] = self._fresh
        task["clerk"] = self._clerk.path if self._clerk is not None else None
        environment = dict(self.environment)
        if self.settings.server.workers > 1:
            task["metrics_dir"] = environment["PROMETHEUS_MULTIPROC_DIR"] = str(self._metrics_dir)
        process = subprocess.Popen(  # noqa: S603  # ourselves
            [sys.executable, "-m", "faregate.worker", json.dumps(task)],
            pass_fds=(listener.fileno(), watch, tell),
            stdin=subprocess.DEVNULL,
            env=child_environment(environment),
            start_new_session=True,
        )
        os.close(tell)
        failures = self._workers[index].failures if index in self._workers else 0
        self._workers[index] = _Worker(index, process, told, time.monotonic(), failures=failures)

    def _mend(self, listener: socket.socket, watch: int) -> None:
        self._mend_valkey()
        if self._clerk is not None:
            self._clerk.mend()
        for worker in list(self._workers.values()):
            if worker.process.poll() is None:
                continue
            now = time.monotonic()
            if worker.restart_at is None:
                worker.failures = 0 if now - worker.started_at > _RESTART_MOST_S else worker.failures + 1
                worker.restart_at = now + min(_RESTART_MOST_S, 0.1 * 2 ** min(worker.failures, 6) - 0.1)
            if now < worker.restart_at:
                continue
            if self._stopped():
                return
            os.close(worker.ready_fd)
            for left in self._metrics_dir.glob(f"gauge_live*_{worker.process.pid}.db"):
                left.unlink(missing_ok=True)
            log.warning("worker %d ended with %s, starting it again", worker.index, worker.process.returncode)
            self._start(worker.index, listener, watch)

    def _mend_valkey(self) -> None:
        """One that does not start is tried again at the next poll: the workers hold on without it."""
        if self._valkey is None or self._valkey.alive():
            return
        try:
            self._valkey.start()
        except (StoreUnavailable, OSError) as error:
            log.warning("the embedded Valkey is not started again yet: %s", error)

    def _end_workers(self) -> None:
        for worker in self._workers.values():
            with contextlib.suppress(ProcessLookupError):
                worker.process.terminate()
        deadline = time.monotonic() + kill_after_s(self.settings.timing.shutdown_s)
        for worker in self._workers.values():
            try:
                worker.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

    def _owned(self) -> contextlib.AbstractContextManager[None]:
        """The data directory's lock, when the embedded Valkey is to live in it. Asked for before the port."""
        if self.settings.redis_url is not None:
            return contextlib.nullcontext()
        return _locked(self.settings.data_dir / "lock")

    @contextlib.contextmanager
    def _embedded(self) -> Iterator[None]:
        if self.settings.redis_url is not None:
            yield
            return
        self._valkey = EmbeddedValkey(self.settings.data_dir)
        try:
            self._fresh = self._valkey.start()
            yield
        finally:
            self._valkey.stop()

    @contextlib.contextmanager
    def _clerked(self) -> Iterator[None]:
        """PostgreSQL takes writes from everybody; SQLite's one writer gets a process of its own."""
        if not self.settings.book_url.startswith("sqlite"):
            yield
            return
        self._clerk = _Clerk(self.settings)
        try:
            yield
        finally:
            self._clerk.end()

    def _stopped(self) -> bool:
        """Changes behind our back."""
        return self._stop

    def _on_signal(self, number: int, frame: object) -> None:
        self._stop = True


@contextlib.contextmanager
def _pipe() -> Iterator[int]:
    watch, keep = os.pipe()
    try:
        yield watch
    finally:
        os.close(watch)
        os.close(keep)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another faregate is running on {path.parent}") from None
        yield
    finally:
        os.close(fd)


def make_data_dir(data_dir: Path) -> None:
    """Readable by its owner only. Raises ConfigError."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"data_dir: {data_dir} cannot be made: {error.strerror}", param="data_dir") from None


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """The port, with patience for the workers of a killed parent that are about to leave it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        deadline = time.monotonic() + _BIND_PATIENCE_S
        while not _bind(listener, host, port, last=time.monotonic() > deadline):
            time.sleep(_POLL_S)
        listener.set_inheritable(True)
        yield listener


def _bind(listener: socket.socket, host: str, port: int, *, last: bool) -> bool:
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or last:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from None
        return False
    return True


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
