"""Finding the journals of processes that died. Whoever gets the lock of one replays it."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from faregate.journal.records import Unclosed, unclosed
from faregate.journal.writer import SUFFIX

log = logging.getLogger("faregate.journal")


class DeadJournal:
    """A dead process's segment, locked by us for as long as we replay it."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd
        self.left: dict[str, Unclosed] = unclosed(_read_all(fd))

    def closed(self, hold_id: str) -> None:
        """One of its holds is in the book and in Redis."""
        self.left.pop(hold_id, None)

    def finish(self) -> None:
        """Delete the file when nothing is left; else give the lock back for a later try. Once is enough."""
        fd, self._fd = self._fd, -1  # Its number may be another file's soon.
        if fd < 0:
            return
        if not self.left:
            self._path.unlink(missing_ok=True)
        os.close(fd)


def dead_journals(directory: Path) -> Iterator[DeadJournal]:
    """Every segment in `directory` whose owner is gone, oldest first. Live ones hold their locks and are skipped."""
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        if os.fstat(fd).st_nlink == 0:  # Its owner finished and deleted it meanwhile.
            os.close(fd)
            continue
        try:
            journal = DeadJournal(path, fd)
        except ValueError as error:
            # Whole, but not ours to read (another release's): it stays until somebody can.
            log.error("the journal %s cannot be read: %s", path.name, error)
            os.close(fd)
            continue
        yield journal


def _read_all(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0) if size else b""
