"""A host's only cable: a network namespace behind a veth pair, which can be pulled. Needs root."""

from __future__ import annotations

import os
import subprocess
from ipaddress import IPv4Address


class Link:
    """`inside` is the host's address, `outside` the rest of the world's."""

    def __init__(self, number: int) -> None:
        tag = f"{os.getpid() % 100_000}{number}"
        self._namespace = f"fgchaos{tag}"
        self._near, self._far = f"fgn{tag}", f"fgf{tag}"
        at = int(IPv4Address("198.18.0.0")) + (os.getpid() * 2 + number) % 32768 * 4  # A range for tests: RFC 2544.
        self.outside, self.inside = str(IPv4Address(at + 1)), str(IPv4Address(at + 2))

    @property
    def prefix(self) -> tuple[str, ...]:
        """Words that make a command run inside."""
        return ("nsenter", f"--net=/run/netns/{self._namespace}")

    def plug(self) -> str:
        """Why it cannot be; empty when it is up."""
        if os.getuid() != 0:
            return "needs root to make a network namespace"
        for command in (
            f"ip netns add {self._namespace}",
            f"ip link add {self._near} type veth peer name {self._far}",
            f"ip link set {self._far} netns {self._namespace}",
            f"ip addr add {self.outside}/30 dev {self._near}",
            f"ip link set {self._near} up",
            *(
                " ".join((*self.prefix, rest))
                for rest in (
                    f"ip addr add {self.inside}/30 dev {self._far}",
                    f"ip link set {self._far} up",
                    "ip link set lo up",
                )
            ),
        ):
            if trouble := _run(command):
                self.unplug()
                return trouble
        return ""

    def unplug(self) -> None:
        """Take all of it away."""
        _run(f"ip link del {self._near}")
        _run(f"ip netns del {self._namespace}")

    def down(self) -> None:
        _run(f"ip link set {self._near} down")

    def up(self) -> None:
        _run(f"ip link set {self._near} up")


def _run(command: str) -> str:
    try:
        done = subprocess.run(command.split(), capture_output=True, text=True)
    except OSError as error:
        return f"{command.split()[0]}: {error.strerror}"
    return f"{command}: {done.stderr.strip()}" if done.returncode else ""
