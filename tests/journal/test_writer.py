from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faregate.core.codec import encode_record
from faregate.errors import JournalUnavailable
from faregate.journal.records import OPEN, frame, unclosed
from faregate.journal.replay import dead_journals
from faregate.journal.writer import FileJournal
from tests.journal.parts import hold, intent

WORD = len(frame(OPEN, encode_record(intent("h0"))))
"""Bytes of an `open`."""


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[FileJournal]:
    """Segments of two opens, ten opens in all."""
    journal = FileJournal(tmp_path / "j", "boot", max_bytes=10 * WORD, segment_bytes=2 * WORD)
    yield journal
    journal.close()


def files(folder: Path) -> list[Path]:
    return sorted((folder / "j").iterdir())


def open_holds(*paths: Path) -> list[str]:
    return [hold_id for path in paths for hold_id in unclosed(path.read_bytes())]


@contextmanager
def disk_full_after(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes: a write there is cut short, the next one refused."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


def test_only_its_owner_may_read_it(journal: FileJournal, tmp_path: Path) -> None:
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "j", *files(tmp_path))] == [0o700, 0o600]


def test_what_was_appended_is_in_the_file_at_once(journal: FileJournal, tmp_path: Path) -> None:
    journal.open("h", intent())
    journal.forward("h", hold())
    journal.progress("h", 42)
    journal.learned(intent("h", 70))
    (left,) = unclosed(files(tmp_path)[0].read_bytes()).values()
    assert (left.hold, left.progress_microcredits, left.learned) == (hold(), 42, intent("h", 70))
    journal.closed("h")
    assert open_holds(*files(tmp_path)) == []


@pytest.mark.parametrize("missing", range(1, WORD, 7))
def test_an_append_the_disk_cuts_short_leaves_the_file_as_it_was(
    journal: FileJournal, tmp_path: Path, missing: int
) -> None:
    journal.open("h0", intent("h0"))
    before = files(tmp_path)[0].read_bytes()
    with disk_full_after(2 * WORD - missing), pytest.raises(JournalUnavailable, match="disk is full"):
        journal.open("h1", intent("h1"))
    assert (files(tmp_path)[0].read_bytes(), journal.open_holds) == (before, 1)
    journal.open("h1", intent("h1"))
    assert open_holds(*files(tmp_path)) == ["h0", "h1"]


def test_an_append_the_disk_refuses_is_said_and_forgotten(journal: FileJournal, tmp_path: Path) -> None:
    journal.open("h0", intent("h0"))
    with disk_full_after(WORD):
        with pytest.raises(JournalUnavailable, match="cannot be written"):
            journal.forward("h0", hold("h0"))
        with pytest.raises(JournalUnavailable, match="cannot be written"):
            journal.learned(intent("h0", 70))
        journal.closed("h0")
    assert open_holds(*files(tmp_path)) == ["h0"], "a close that could not be written is repeated by the replay"
    assert journal.open_holds == 0


def test_closes_that_a_full_disk_refused_are_written_when_there_is_room_again(
    journal: FileJournal, tmp_path: Path
) -> None:
    journal.open("h0", intent("h0"))
    journal.open("h1", intent("h1"))
    with disk_full_after(2 * WORD):
        journal.closed("h0")
        with pytest.raises(JournalUnavailable):
            journal.forward("h1", hold("h1"))
        journal.closed("h1")
    assert open_holds(*files(tmp_path)) == ["h0", "h1"]
    journal._active.append(frame(OPEN, encode_record(intent("h2"))))
    assert open_holds(*files(tmp_path)) == ["h2"]


def test_a_full_device_is_told_as_that(journal: FileJournal) -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), journal._active.fd)
    with pytest.raises(JournalUnavailable, match="No space left"):
        journal.open("h", intent())


def test_segments_roll_and_a_holds_words_stay_where_it_was_opened(journal: FileJournal, tmp_path: Path) -> None:
    for number in range(5):
        journal.open(f"h{number}", intent(f"h{number}"))
    journal.forward("h0", hold("h0"))
    journal.learned(intent("h4"))
    first, second, third = files(tmp_path)
    assert [open_holds(path) for path in (first, second, third)] == [["h0", "h1"], ["h2", "h3"], ["h4"]]
    assert unclosed(first.read_bytes())["h0"].hold is not None
    assert unclosed(third.read_bytes())["h4"].learned is not None


def test_a_segment_goes_when_all_in_it_is_closed_and_not_before(journal: FileJournal, tmp_path: Path) -> None:
    for number in range(3):
        journal.open(f"h{number}", intent(f"h{number}"))
    first, second = files(tmp_path)
    journal.closed("h0")
    assert (files(tmp_path), open_holds(first)) == ([first, second], ["h1"])
    journal.closed("h1")
    assert files(tmp_path) == [second]
    assert journal.bytes == second.stat().st_size


def test_a_segment_that_was_closed_while_it_was_written_goes_when_the_next_begins(
    journal: FileJournal, tmp_path: Path
) -> None:
    for number in range(2):
        journal.open(f"h{number}", intent(f"h{number}"))
        journal.closed(f"h{number}")
    (first,) = files(tmp_path)
    journal.open("h2", intent("h2"))
    assert (first.exists(), len(files(tmp_path))) == (False, 1)


def test_at_its_bound_no_hold_is_opened_but_open_ones_end(journal: FileJournal, tmp_path: Path) -> None:
    opened = [f"h{number}" for number in range(10)]
    for hold_id in opened:
        journal.open(hold_id, intent(hold_id))
    with pytest.raises(JournalUnavailable, match="full"):
        journal.open("hx", intent("hx"))
    for hold_id in opened:
        journal.forward(hold_id, hold(hold_id))
        journal.learned(intent(hold_id, 70))
    assert all(left.learned for path in files(tmp_path) for left in unclosed(path.read_bytes()).values())
    for hold_id in opened:
        journal.closed(hold_id)
    journal.open("again", intent("again"))
    assert open_holds(*files(tmp_path)) == ["again"]


def test_words_about_a_hold_it_does_not_know_are_not_written(journal: FileJournal, tmp_path: Path) -> None:
    journal.progress("?", 1)
    journal.closed("?")
    assert files(tmp_path)[0].stat().st_size == 0


# Syncing ------------------------------------------------------------------------------------------------


class Disk:
    """fdatasync, counted, held up and failing as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.fails = False
        self.busy, self.goes_on = threading.Event(), threading.Event()
        self.goes_on.set()
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def _sync(self, fd: int) -> None:
        self.sizes.append(os.fstat(fd).st_size)
        self.busy.set()
        assert self.goes_on.wait(5)
        if self.fails:
            raise OSError(5, "Input/output error")

    async def begun(self) -> None:
        assert await asyncio.to_thread(self.busy.wait, 5)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def test_calls_share_one_sync_that_begins_after_their_appends(journal: FileJournal, disk: Disk) -> None:
    journal.open("h0", intent("h0"))
    disk.goes_on.clear()
    first = asyncio.create_task(journal.sync())
    await disk.begun()
    journal.learned(intent("h0"))
    later = [asyncio.create_task(journal.sync()) for _ in range(10)]
    await asyncio.sleep(0)
    disk.goes_on.set()
    await asyncio.gather(first, *later)
    assert disk.sizes == [WORD, 2 * WORD]


async def test_a_sync_covers_every_segment_that_was_written_to(journal: FileJournal, disk: Disk) -> None:
    for number in range(3):
        journal.open(f"h{number}", intent(f"h{number}"))
    await journal.sync()
    journal.forward("h0", hold("h0"))
    await journal.sync()
    assert len(disk.sizes) == 3
    assert disk.sizes[2] > 2 * WORD


async def test_what_is_on_the_platter_is_not_synced_again(journal: FileJournal, disk: Disk) -> None:
    journal.open("h0", intent("h0"))
    await journal.sync()
    await journal.sync()
    assert len(disk.sizes) == 1


async def test_a_failed_sync_is_never_taken_for_one_that_came_later(journal: FileJournal, disk: Disk) -> None:
    """After a failed fsync the kernel calls the lost pages clean: the next one would say that all is well."""
    journal.open("h0", intent("h0"))
    disk.fails = True
    with pytest.raises(JournalUnavailable, match="cannot be synced"):
        await journal.sync()
    disk.fails = False
    with pytest.raises(JournalUnavailable):
        await journal.sync()
    journal.open("h1", intent("h1"))
    journal.closed("h0")
    await journal.sync()


async def test_a_sync_whose_caller_left_goes_on_for_the_others(journal: FileJournal, disk: Disk) -> None:
    journal.open("h0", intent("h0"))
    disk.goes_on.clear()
    impatient, patient = asyncio.create_task(journal.sync()), asyncio.create_task(journal.sync())
    await disk.begun()
    impatient.cancel()
    disk.goes_on.set()
    await patient
    with pytest.raises(asyncio.CancelledError):
        await impatient


# Ending -------------------------------------------------------------------------------------------------


def test_a_clean_end_leaves_only_what_is_open(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "j", "boot", segment_bytes=2 * WORD)
    for number in range(3):
        journal.open(f"h{number}", intent(f"h{number}"))
    journal.closed("h2")
    journal.close()
    assert open_holds(*files(tmp_path)) == ["h0", "h1"]


def test_after_the_end_nothing_is_written_to_whatever_has_its_descriptor_now(tmp_path: Path) -> None:
    """An end that goes on in the background may still close its hold while the process goes down."""
    journal = FileJournal(tmp_path / "j", "boot")
    journal.open("h0", intent("h0"))
    journal.close()
    with (tmp_path / "other").open("wb"):
        with pytest.raises(JournalUnavailable):
            journal.learned(intent("h0"))
        journal.closed("h0")
    assert (tmp_path / "other").read_bytes() == b""
    assert open_holds(*files(tmp_path)) == ["h0"]


def test_two_boots_never_share_a_file(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "j", "boot")
    with pytest.raises(FileExistsError):
        FileJournal(tmp_path / "j", "boot")
    journal.close()


LIVE = """
import sys, pathlib
from faregate.journal.writer import FileJournal
from tests.journal.parts import hold, intent
journal = FileJournal(pathlib.Path(sys.argv[1]), "other")
journal.open("h0", intent("h0"))
journal.forward("h0", hold("h0"))
print("ready", flush=True)
sys.stdin.read()
"""


def test_what_was_appended_outlives_a_killed_process_and_not_before(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIVE, str(tmp_path / "j")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert list(dead_journals(tmp_path / "j")) == [], "its owner lives"
        process.kill()
    (dead,) = dead_journals(tmp_path / "j")
    assert dead.left["h0"].hold == hold("h0")
    dead.left.clear()
    dead.finish()


def test_a_segment_that_cannot_be_made_is_said_and_the_old_one_stays(
    journal: FileJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.open("h1", intent("h1"))
    journal.open("h2", intent("h2"))
    before = files(tmp_path)
    for failing in ("link", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, failing, _no_space)
            with pytest.raises(JournalUnavailable, match="No space left"):
                journal.open("h3", intent("h3"))
        assert files(tmp_path) == before
    journal.open("h3", intent("h3"))
    assert open_holds(*files(tmp_path)) == ["h1", "h2", "h3"]


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_hold_that_is_open_for_long_moves_on_and_its_file_goes(journal: FileJournal, tmp_path: Path) -> None:
    journal.open("long", intent("long"))
    journal.forward("long", hold("long"))
    for name in ("a", "b", "c"):
        journal.open(name, intent(name))
        journal.closed(name)
    old = files(tmp_path)[0]
    journal.carry("long", intent("long"), hold("long"), 42)
    assert not old.exists()
    (left,) = unclosed(files(tmp_path)[-1].read_bytes()).values()
    assert (left.hold, left.progress_microcredits) == (hold("long"), 42)
    journal.closed("long")
    assert journal.open_holds == 0


def test_a_hold_in_the_newest_file_stays_there(journal: FileJournal, tmp_path: Path) -> None:
    journal.open("h", intent())
    size = journal.bytes
    journal.carry("h", intent(), None, 0)
    journal.carry("never", intent(), None, 0)
    assert journal.bytes == size
    assert open_holds(*files(tmp_path)) == ["h"]


def test_a_move_leaves_what_others_have_open(journal: FileJournal, tmp_path: Path) -> None:
    for name in ("long", "other", "third"):
        journal.open(name, intent(name))
    journal.carry("long", intent("long"), None, 0)
    assert open_holds(files(tmp_path)[0]) == ["other"]
    assert open_holds(files(tmp_path)[1]) == ["third", "long"]
