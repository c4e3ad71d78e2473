"""Real processes to kill: the scripted upstream and a whole gateway (parent, workers, Valkey) on a data directory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import psutil
import redis

from faregate.ledger.book import SqlBook
from faregate.ledger.database import Database
from tests.chaos.load import ADMIN_KEY, Answer
from tests.chaos.verify import Forwarded, connect, open_in_journals, open_in_redis, verify

__all__ = ["Gateway", "Upstream", "World", "verify"]

ACCOUNT = "acc_bootstrap"
ROOT = Path(__file__).parents[2]
_PRICES = """
- provider: up
  model: "*"
  per_million: {input: 0.4, output: 1.6}
  max_output_tokens: 1024
"""


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Upstream:
    """The scripted upstream as a process of its own, which outlives every gateway."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.upstreams.scripted", "--port", "0"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[-1]

    def account(self) -> list[Forwarded]:
        """What it was sent and what it served of it, by its own account."""
        with urlopen(self.url.removesuffix("/v1") + "/_served") as reply:
            rows = json.load(reply)["requests"]
        names = ("status", "input_tokens", "output_tokens", "outcome")
        return [Forwarded(call=json.loads(row["body"])["user"], **{name: row[name] for name in names}) for row in rows]

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass(slots=True)
class Gateway:
    """One `faregate serve` and its children."""

    folder: Path
    upstream_url: str
    workers: int = 1
    heartbeat_s: float = 0.4
    sections: Mapping[str, str] = field(default_factory=dict)
    """More lines of the configuration, as YAML flow mappings."""
    module: tuple[str, ...] = ("faregate", "serve")
    environment: Mapping[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    """Words before the command, of a program that becomes it."""
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> str:
        """All it has said."""
        path = self.folder / "out.log"
        return path.read_text() if path.exists() else ""

    @property
    def parent_pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def worker_pids(self) -> list[int]:
        """Oldest first."""
        return self._children("faregate.worker")

    def clerk_pid(self) -> int:
        """The process that writes the book."""
        return self._children("faregate.clerk")[-1]

    def _children(self, module: str) -> list[int]:
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.parent_pid).children()
            return [child.pid for child in children if module in child.cmdline()]
        return []

    def valkey_pid(self) -> int:
        """Asked of the server itself: an adopted one is nobody's child."""
        with connect(self.data_dir) as client:
            info = client.info("server")
            assert isinstance(info, dict)
            return int(info["process_id"])

    def start(self, timeout_s: float = 10.0) -> None:
        """Start it and wait until it takes traffic."""
        self.configure()
        begin = len(self.log)
        with (self.folder / "out.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", *self.module, "--config", str(self.folder / "faregate.yaml")],
                cwd=ROOT,
                env={**os.environ, "FAREGATE_ADMIN_KEY": ADMIN_KEY, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + timeout_s
        while "listening on" not in self.log[begin:]:
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def configure(self) -> None:
        """Write its configuration."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sections = {
            "data_dir": str(self.data_dir),
            "server": f"{{port: {self.port}, workers: {self.workers}}}",
            "timing": f"{{heartbeat_s: {self.heartbeat_s}, shutdown_s: 8}}",
            "providers": f'{{up: {{kind: openai, base_url: "{self.upstream_url}", api_key: sk-up, retries: 0}}}}',
            "models": "{m: [up/gpt-x]}",
            "prices": "prices.yaml",
            **self.sections,
        }
        (self.folder / "prices.yaml").write_text(_PRICES)
        (self.folder / "faregate.yaml").write_text("".join(f"{key}: {value}\n" for key, value in sections.items()))

    def kill(self) -> None:
        """SIGKILL for the parent, every worker and the clerk, as near to at once as it gets."""
        for pid in [self.parent_pid, *self.worker_pids(), *self._children("faregate.clerk")]:
            os.kill(pid, signal.SIGKILL)
        self._reap()

    def kill_parent(self) -> None:
        """SIGKILL for the parent alone."""
        os.kill(self.parent_pid, signal.SIGKILL)
        self._reap()

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        os.kill(self.parent_pid, signal.SIGTERM)

    def stop(self) -> int:
        """SIGTERM. The exit code."""
        self.terminate()
        return self.wait()

    def wait(self, timeout_s: float = 20.0) -> int:
        """Until it has ended."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def _reap(self) -> None:
        self.wait(5)

    def end(self) -> None:
        """Leave nothing behind, whatever the state."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        with suppress(OSError, redis.RedisError):
            os.kill(self.valkey_pid(), signal.SIGKILL)


@dataclass(slots=True)
class World:
    """An upstream, a gateway and what its clients were told."""

    folder: Path
    upstream: Upstream
    gateway: Gateway

    async def credit(self, credits: float) -> None:
        """Credits come in, past the gateway: what Redis does not know heals at the first `insufficient`."""
        database = Database(f"sqlite:///{self.gateway.data_dir / 'faregate.db'}")
        try:
            await SqlBook(database).add_credits(ACCOUNT, int(credits * 1_000_000))
        finally:
            await database.close()

    async def start(self, credits: float = 10_000) -> None:
        """The gateway takes traffic and the account has credits."""
        await asyncio.to_thread(self.gateway.start)
        if credits:
            await self.credit(credits)

    async def rest(self, timeout_s: float = 8.0) -> bool:
        """Wait until nothing is open in Redis and in the journals."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not await asyncio.to_thread(self.open):
                return True
            await asyncio.sleep(0.1)
        return False

    def open(self) -> list[str]:
        """What is open in Redis and in the journals."""
        try:
            return [*open_in_journals(self.gateway.data_dir), *open_in_redis(self.gateway.data_dir)]
        except redis.RedisError as error:
            return [f"Redis: {error}"]

    async def findings(self, answers: Mapping[str, Answer], **more: bool | int) -> list[str]:
        """After rest: what of the guarantees does not hold."""
        await self.rest()
        return self.findings_now(answers, **more)

    def findings_now(self, answers: Mapping[str, Answer], **more: bool | int) -> list[str]:
        """The same without waiting, for a gateway that has ended."""
        return verify(self.gateway.data_dir, self.upstream.account(), answers, **more)  # type: ignore[arg-type]
