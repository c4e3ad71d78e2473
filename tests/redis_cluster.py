"""Real servers from Debian's redis: a cluster of three masters with replicas, Sentinel, TLS and ACL users."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import redis

SLOTS = 16384


def available() -> bool:
    """Whether Debian's server is here (the wheel's has neither TLS nor a cli)."""
    return shutil.which("redis-server") is not None


def free_port() -> int:
    """A port whose cluster bus port (+10000) exists, too."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < 50_000:
            return port


class Server:
    """One redis-server."""

    def __init__(self, folder: Path, *options: str, port: int | None = None, sentinel: bool = False) -> None:
        self.port = port or free_port()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._command = [
            "redis-server",
            *((str(folder / "sentinel.conf"), "--sentinel") if sentinel else ()),
            *("--port", str(self.port), "--dir", str(folder), "--bind", "127.0.0.1"),
            *(() if sentinel else ("--save", "", "--appendonly", "no")),
            *options,
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        with (self.folder / "out.log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        return self

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, decode_responses=True, socket_timeout=5)

    def ready(self) -> Server:
        until(self._pings, 10)
        return self

    def _pings(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Cluster:
    """Three masters, each with a replica. Fails over within about a second."""

    def __init__(self, folder: Path) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "800", "--cluster-require-full-coverage", "no")
        self.servers = [Server(folder / f"n{n}", *options) for n in range(6)]

    def start(self) -> Cluster:
        for server in self.servers:
            server.start()
        for server in self.servers:
            server.ready()
        first, *others = self.servers
        share = SLOTS // 3
        for n, server in enumerate(self.servers[:3]):
            last = SLOTS - 1 if n == 2 else (n + 1) * share - 1
            self.say(server, "CLUSTER", "ADDSLOTSRANGE", n * share, last)
        for n, server in enumerate(self.servers, start=1):
            self.say(server, "CLUSTER", "SET-CONFIG-EPOCH", n)
        for server in others:
            self.say(server, "CLUSTER", "MEET", "127.0.0.1", first.port)
        until(lambda: all(self._known(server) == 6 for server in self.servers), 15)
        for n, server in enumerate(self.servers[3:]):
            master = self.id_of(self.servers[n])
            until(partial(self._replicates, server, master), 10)
        until(lambda: all("cluster_state:ok" in self.info(server) for server in self.servers), 15)
        until(lambda: all(self._linked(server) for server in self.servers[3:]), 15)
        return self

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.servers[0].port},127.0.0.1:{self.servers[1].port}"

    def say(self, server: Server, *words: object) -> object:
        """A command as it is, answered raw."""
        with server.client() as client:
            return client.execute_command(*words)

    def info(self, server: Server) -> str:
        with redis.Redis(port=server.port, socket_timeout=5) as client:
            client.response_callbacks.clear()
            said = client.execute_command("CLUSTER", "INFO")
            return bytes(said).decode()

    def id_of(self, server: Server) -> str:
        return str(self.say(server, "CLUSTER", "MYID"))

    def owner(self, slot: int) -> Server:
        """The living master of a slot."""
        alive = next(server for server in self.servers if server.process is not None)
        with redis.Redis(port=alive.port, decode_responses=True, socket_timeout=5) as client:
            client.response_callbacks.clear()
            for first, last, master, *_ in client.execute_command("CLUSTER", "SLOTS"):
                if first <= slot <= last:
                    return next(server for server in self.servers if server.port == master[1])
        raise LookupError(slot)

    def move(self, slot: int, to: Server, pause: Callable[[], None] = lambda: None) -> None:
        """Move a slot with its keys, as redis-cli --cluster reshard does; `pause` runs in the middle."""
        source = self.owner(slot)
        self.say(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        self.say(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(to))
        pause()
        while keys := self.say(source, "CLUSTER", "GETKEYSINSLOT", slot, 1):
            assert isinstance(keys, list)
            self.say(source, "MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
            pause()
        for server in (to, source):
            self.say(server, "CLUSTER", "SETSLOT", slot, "NODE", self.id_of(to))

    def move_away(self, slot: int, pause: Callable[[], None] = lambda: None) -> None:
        """To another master than the one that has it."""
        source = self.owner(slot)
        self.move(slot, next(server for server in self.servers[:3] if server is not source), pause)

    def _known(self, server: Server) -> int:
        return int(self.info(server).partition("cluster_known_nodes:")[2].split()[0])

    def _replicates(self, server: Server, master: str) -> bool:
        try:
            self.say(server, "CLUSTER", "REPLICATE", master)
        except redis.ResponseError:
            return False
        return True

    def _linked(self, server: Server) -> bool:
        with server.client() as client:
            found = client.info("replication")
            assert isinstance(found, dict)
            return found.get("master_link_status") == "up"

    def stop(self) -> None:
        for server in self.servers:
            server.kill()


def until(true: Callable[[], bool], timeout_s: float) -> None:
    """Wait for it."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.05)
