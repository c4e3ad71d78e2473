"""Running the real command, as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_WAIT_S = 30


def environment(data_dir: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours without what an operator's shell may have set, on one data directory, with a quick heartbeat."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FAREGATE_", "OPENAI_"))}
    own = {"FAREGATE_DATA_DIR": str(data_dir), "FAREGATE_TIMING__HEARTBEAT_S": "0.5"}
    return kept | own | {"PYTHONUNBUFFERED": "1"} | dict(extra or {})


def faregate(*words: str, data_dir: Path, stdin: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "faregate", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=_WAIT_S,
        check=False,
        env=environment(data_dir, extra),
    )


@dataclass
class Running:
    """A server that listens."""

    process: subprocess.Popen[str]
    url: str
    data_dir: Path
    said: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def read_until(self, pattern: str) -> str:
        """The first line that matches, as it comes."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))
            if re.search(pattern, line):
                return line.rstrip("\n")
        raise AssertionError(f"ended without {pattern!r}: {self.said}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        self.process.send_signal(number)
        return self.process.wait(_WAIT_S)


@contextmanager
def running(*words: str, data_dir: Path, **extra: str) -> Iterator[Running]:
    """A server (`serve`, `demo`) on a port of the system's choice; whatever happens, nothing of it is left."""
    process = subprocess.Popen(
        [sys.executable, "-m", "faregate", *words, "--port", "0"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment(data_dir, extra),
    )
    server = Running(process, "", data_dir)
    try:
        server.url = server.read_until("listening on").rpartition(" ")[2]
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_WAIT_S)
        if process.stdout is not None:
            process.stdout.close()
        for left in valkeys(data_dir):
            left.kill()


def valkeys(data_dir: Path) -> list[psutil.Process]:
    """The embedded servers of this data directory: they run in it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name().startswith("valkey") and process.cwd() == str(data_dir):
                found.append(process)
    return found
