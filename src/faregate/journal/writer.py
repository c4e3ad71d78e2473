"""Appending: one write(2) a record, so that what was appended outlives the process; fsync only when asked.

A journal is a row of segments, each locked for life. A hold's records all go to the segment that has its `open`,
so every segment can be replayed and deleted by itself.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

from faregate.core.call import Hold, Record
from faregate.core.codec import encode_hold, encode_record
from faregate.errors import JournalUnavailable
from faregate.journal.records import CLOSED, FORWARD, LEARNED, OPEN, PROGRESS, frame

SUFFIX = ".journal"


class _Segment:
    """One file. A failed append leaves it as it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # It gets its name when it is locked: a sibling that looks for dead journals would take it and delete it.
        draft = path.with_suffix(".draft")
        self.fd = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.link(draft, path)  # Unlike a rename, it never replaces another boot's.
        except OSError:
            os.close(self.fd)
            raise
        finally:
            draft.unlink()
        self.size = 0
        self.open_holds: set[str] = set()
        self.dirty = False
        self.lost = False
        """A sync of it failed: the kernel calls what was lost clean then, so no later sync can be believed."""
        self._later = b""

    def later(self, data: bytes) -> None:
        """Written with the next append: for what a replay can do without."""
        self._later += data

    def append(self, data: bytes) -> None:
        data = self._later + data
        try:
            written = os.write(self.fd, data)
        except OSError as error:
            raise JournalUnavailable(f"the journal cannot be written: {error.strerror}") from error
        if written != len(data):
            os.ftruncate(self.fd, self.size)
            raise JournalUnavailable("the journal cannot be written: the disk is full")
        self._later = b""  # Not before: what waited when the disk was full goes with the first append that succeeds.
        self.size += written
        self.dirty = True

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        fd, self.fd = self.fd, -1  # Its number may be another file's soon, and an end may still go on.
        os.close(fd)


class FileJournal:
    """`ports.Journal` on files of `directory`, named after this boot.

    `max_bytes` bounds all segments together: at the bound no new hold is opened (JournalUnavailable), while what was
    forwarded before can still be learned and closed.
    """

    def __init__(
        self, directory: Path, boot_id: str, *, max_bytes: int = 1 << 30, segment_bytes: int = 64 << 20
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self._boot_id = boot_id
        self._max_bytes = max_bytes
        self._segment_bytes = min(segment_bytes, max(1, max_bytes // 4))
        self._count = 0
        self._segments: list[_Segment] = []
        self._of_hold: dict[str, _Segment] = {}
        self._syncing: asyncio.Task[None] | None = None
        self._active = self._new_segment()

    @property
    def bytes(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self._segments)

    @property
    def full(self) -> bool:
        """No new hold is let in."""
        return self.bytes >= self._max_bytes

    @property
    def open_holds(self) -> int:
        """Holds that are open in it."""
        return len(self._of_hold)

    def open(self, hold_id: str, intent: Record) -> None:
        if self._active.size >= self._segment_bytes or self._active.lost:
            if self.full:
                raise JournalUnavailable("the journal is full: the book has been out of reach for too long")
            self._active = self._new_segment()
        segment = self._active
        segment.append(frame(OPEN, encode_record(intent)))
        segment.open_holds.add(hold_id)
        self._of_hold[hold_id] = segment

    def forward(self, hold_id: str, hold: Hold) -> None:
        self._of_hold[hold_id].append(frame(FORWARD, encode_hold(hold)))

    def progress(self, hold_id: str, microcredits: int) -> None:
        segment = self._of_hold.get(hold_id)
        if segment is not None:
            segment.append(frame(PROGRESS, f"{hold_id} {microcredits}".encode()))

    def learned(self, record: Record) -> None:
        self._of_hold[record.hold_id].append(frame(LEARNED, encode_record(record)))

    def carry(self, hold_id: str, intent: Record, hold: Hold | None, progress_microcredits: int) -> None:
        old = self._of_hold.get(hold_id)
        if old is None or old is self._active or old.fd < 0:
            return
        records = frame(OPEN, encode_record(intent))
        if hold is not None:
            records += frame(FORWARD, encode_hold(hold))
            records += frame(PROGRESS, f"{hold_id} {progress_microcredits}".encode())
        self._active.append(records)
        self._close_in(old, hold_id)
        self._active.open_holds.add(hold_id)
        self._of_hold[hold_id] = self._active

    def closed(self, hold_id: str) -> None:
        segment = self._of_hold.pop(hold_id, None)
        if segment is not None and segment.fd >= 0:
            self._close_in(segment, hold_id)

    def _close_in(self, segment: _Segment, hold_id: str) -> None:
        segment.open_holds.discard(hold_id)
        closed = frame(CLOSED, hold_id.encode())
        if segment.open_holds and segment is self._active:
            segment.later(closed)  # Lost with the process, it is only committed again, which changes nothing.
        elif segment.open_holds or segment is self._active:
            try:
                segment.append(closed)
            except JournalUnavailable:
                segment.later(closed)
        if not segment.open_holds and segment is not self._active:
            self._segments.remove(segment)
            segment.delete()

    async def sync(self) -> None:
        running = self._syncing
        if running is not None and not running.done():
            await asyncio.shield(running)  # It may have begun before our append: one more is needed.
            running = self._syncing
        if running is None or running.done():
            self._syncing = running = asyncio.create_task(self._sync())
        await asyncio.shield(running)

    async def _sync(self) -> None:
        if any(segment.lost for segment in self._segments):
            raise JournalUnavailable("the journal could not be synced before")
        dirty = [segment for segment in self._segments if segment.dirty]
        for segment in dirty:
            segment.dirty = False
        try:
            await asyncio.to_thread(_fsync_all, [os.dup(segment.fd) for segment in dirty])
        except OSError as error:
            for segment in dirty:
                segment.lost = True
            raise JournalUnavailable(f"the journal cannot be synced: {error.strerror}") from error

    def close(self) -> None:
        """At a clean end: files in which all is closed go; others stay for the next start."""
        for segment in self._segments:
            if segment.open_holds:
                segment.close()
            else:
                segment.delete()
        self._segments.clear()

    def _new_segment(self) -> _Segment:
        """Raises JournalUnavailable when it cannot be made; nothing has changed then."""
        self._count += 1
        try:
            segment = _Segment(self._directory / f"{self._boot_id}-{self._count:06d}{SUFFIX}")
            try:
                _fsync_directory(self._directory)
            except OSError:
                segment.delete()
                raise
        except FileExistsError:
            raise  # Two boots of one name: a defect, and no trouble of the disk.
        except OSError as error:
            raise JournalUnavailable(f"the journal cannot be written: {error.strerror}") from error
        finished = [s for s in self._segments if not s.open_holds]
        self._segments = [s for s in self._segments if s.open_holds] + [segment]
        for done in finished:
            done.delete()
        return segment


def _fsync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _fsync_all(fds: list[int]) -> None:
    try:
        for fd in fds:
            os.fdatasync(fd)
    finally:
        for fd in fds:
            os.close(fd)
