"""Each process's memory: an append-only file of what it has forwarded and what it has learned, until SQL has it.

    open      before the reserve: who would be charged      learned   the truth, before the commit
    forward   after the hold's ok, before the first byte    closed    SQL and Redis both have it
    progress  with the heartbeat: delivered so far

An `open` without `forward` is a truth of zero. A file goes when all in it is closed.
"""

from __future__ import annotations

from faregate.journal.records import Unclosed
from faregate.journal.replay import DeadJournal, dead_journals
from faregate.journal.writer import FileJournal

__all__ = ["DeadJournal", "FileJournal", "Unclosed", "dead_journals"]
