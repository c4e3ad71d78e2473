"""Processes that begin and rotate journals while siblings look for dead ones."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from faregate.journal import FileJournal, dead_journals

pytestmark = pytest.mark.xdist_group("chaos")


def test_a_sibling_never_takes_a_journal_that_is_being_made(tmp_path: Path) -> None:
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            for journal in dead_journals(tmp_path):
                journal.finish()

    sibling = threading.Thread(target=look)
    sibling.start()
    try:
        for n in range(1000):
            journal = FileJournal(tmp_path, f"boot{n:04d}")
            assert list(tmp_path.glob("*.journal"))
            journal.close()
    finally:
        stop.set()
        sibling.join()
