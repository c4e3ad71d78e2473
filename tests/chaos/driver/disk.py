"""A small disk of one's own under a folder: it can be full, and it can stand still."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_STEPS = (1 << 24, 1 << 20, 1 << 16, 4096)
_BALLAST = "ballast"


class SmallDisk:
    """An ext4 file system in a file, mounted on `folder`. Needs root and a loop device."""

    def __init__(self, folder: Path, image: Path, *, megabytes: int) -> None:
        self.folder = folder
        self._image = image
        self._megabytes = megabytes

    def mount(self) -> str:
        """Why it cannot be; empty when it is mounted."""
        if os.getuid() != 0:
            return "needs root to mount a small disk"
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._image.open("wb") as file:
            file.truncate(self._megabytes << 20)
        for command in (
            ("mkfs.ext4", "-q", "-m", "0", str(self._image)),
            ("mount", "-o", "loop,noatime", str(self._image), str(self.folder)),
        ):
            try:
                done = subprocess.run(command, capture_output=True, text=True)
            except OSError as error:
                return f"{command[0]}: {error.strerror}"
            if done.returncode:
                return f"{command[0]}: {done.stderr.strip()}"
        with suppress(OSError):
            (self.folder / "lost+found").rmdir()
        return ""

    def unmount(self) -> None:
        """Whoever still uses it."""
        subprocess.run(("umount", "-l", str(self.folder)), capture_output=True)
        self._image.unlink(missing_ok=True)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a block is left."""
        ballast = self.folder / _BALLAST
        try:
            with ballast.open("wb") as file:
                size = 0
                for step in _STEPS:
                    with suppress(OSError):
                        while True:
                            os.posix_fallocate(file.fileno(), size, step)
                            size += step
            yield
        finally:
            ballast.unlink(missing_ok=True)

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Every write and every fsync waits."""
        subprocess.run(("fsfreeze", "-f", str(self.folder)), check=True)
        try:
            yield
        finally:
            subprocess.run(("fsfreeze", "-u", str(self.folder)), check=True)
