from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from faregate.journal.replay import DeadJournal, dead_journals
from faregate.journal.writer import FileJournal
from tests.journal.parts import hold, intent


def died(folder: Path, boot: str, *hold_ids: str) -> None:
    """A process of that name opened these holds and ended without closing them."""
    journal = FileJournal(folder, boot)
    for hold_id in hold_ids:
        journal.open(hold_id, intent(hold_id))
        journal.forward(hold_id, hold(hold_id))
    os.close(journal._active.fd)


def found(folder: Path) -> list[DeadJournal]:
    return list(dead_journals(folder))


def give_back(*journals: DeadJournal) -> None:
    for journal in journals:
        journal.finish()


def test_the_dead_are_found_oldest_first_with_what_they_left(tmp_path: Path) -> None:
    died(tmp_path, "2", "c")
    died(tmp_path, "1", "a", "b")
    journals = found(tmp_path)
    assert [list(journal.left) for journal in journals] == [["a", "b"], ["c"]]
    assert journals[0].left["a"].hold == hold("a")
    give_back(*journals)


def test_a_live_one_is_left_alone(tmp_path: Path) -> None:
    living = FileJournal(tmp_path, "1")
    living.open("a", intent("a"))
    assert found(tmp_path) == []
    living.close()


def test_whoever_has_the_lock_is_the_only_one_to_replay(tmp_path: Path) -> None:
    died(tmp_path, "1", "a")
    (mine,) = found(tmp_path)
    assert found(tmp_path) == []
    give_back(mine)
    (theirs,) = found(tmp_path)
    assert list(theirs.left) == ["a"]
    give_back(theirs)


def test_a_journal_goes_when_nothing_in_it_is_left(tmp_path: Path) -> None:
    died(tmp_path, "1", "a", "b")
    (journal,) = found(tmp_path)
    journal.closed("a")
    journal.closed("b")
    journal.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_journal_given_back_early_starts_from_the_beginning_again(tmp_path: Path) -> None:
    """Ending a hold twice changes nothing: SQL knows the first, Redis drops what is there."""
    died(tmp_path, "1", "a", "b")
    (journal,) = found(tmp_path)
    journal.closed("a")
    journal.finish()
    (again,) = found(tmp_path)
    assert list(again.left) == ["a", "b"]
    give_back(again)


def test_an_empty_journal_has_nothing_to_say(tmp_path: Path) -> None:
    died(tmp_path, "1")
    (journal,) = found(tmp_path)
    assert journal.left == {}
    give_back(journal)
    assert list(tmp_path.iterdir()) == []


def test_a_torn_tail_does_not_hide_what_came_before(tmp_path: Path) -> None:
    died(tmp_path, "1", "a", "b")
    (path,) = tmp_path.iterdir()
    os.truncate(path, path.stat().st_size - 3)
    (journal,) = found(tmp_path)
    assert journal.left["a"].hold is not None
    assert journal.left["b"].hold is None
    give_back(journal)


def test_other_files_are_none_of_its_business(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert found(tmp_path) == []


def test_a_file_its_owner_deletes_meanwhile_is_not_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    died(tmp_path, "1", "a")
    died(tmp_path, "2", "b")
    first, second = sorted(tmp_path.iterdir())
    lock = fcntl.flock

    def late(fd: int, operation: int) -> None:
        """The owner of the first ends between our open and our lock; that of the second, before our open."""
        first.unlink(missing_ok=True)
        second.unlink(missing_ok=True)
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert found(tmp_path) == []


def test_finishing_twice_closes_nobody_elses_file(tmp_path: Path) -> None:
    died(tmp_path, "1", "a")
    (dead,) = found(tmp_path)
    dead.finish()
    with (tmp_path / "innocent").open("wb") as innocent:
        dead.finish()
        assert os.fstat(innocent.fileno())
