from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.core.codec import encode_hold, encode_record
from faregate.journal.records import CLOSED, FORWARD, LEARNED, OPEN, PROGRESS, Unclosed, frame, frames, unclosed
from tests.journal.parts import hold, intent


def opened(hold_id: str = "h", charge: int = 5) -> bytes:
    return frame(OPEN, encode_record(intent(hold_id, charge)))


def forwarded(hold_id: str = "h") -> bytes:
    return frame(FORWARD, encode_hold(hold(hold_id)))


def learned(hold_id: str = "h", charge: int = 70) -> bytes:
    return frame(LEARNED, encode_record(intent(hold_id, charge)))


def test_what_is_framed_comes_back() -> None:
    assert list(frames(frame(b"o", b"") + frame(b"c", b"\x00\xff"))) == [(b"o", b""), (b"c", b"\x00\xff")]


def test_the_bytes_on_disk_do_not_change_between_releases() -> None:
    assert frame(b"c", b"h1") == struct.pack("<BcII", 1, b"c", 2, crc32(b"ch1")) + b"h1"


def test_a_torn_tail_is_cut_off_at_every_byte() -> None:
    whole = opened() + forwarded()
    data = whole + learned()
    for size in range(len(whole), len(data)):
        assert list(frames(data[:size])) == list(frames(whole))
        assert unclosed(data[:size])["h"].learned is None
    assert unclosed(data)["h"].learned == intent("h", 70)


def test_a_record_is_never_read_with_any_byte_changed() -> None:
    first, second = frame(CLOSED, b"a"), frame(CLOSED, b"bcd")
    for at in range(len(second)):
        broken = bytearray(second)
        broken[at] ^= 0x20
        assert list(frames(first + bytes(broken) + first)) == [(CLOSED, b"a")]


def test_a_tail_of_zeros_is_no_record() -> None:
    assert len(list(frames(opened() + bytes(4096)))) == 1


def test_another_version_is_left_alone() -> None:
    later = struct.pack("<BcII", 2, b"c", 1, crc32(b"ch")) + b"h"
    assert list(frames(frame(CLOSED, b"a") + later)) == [(CLOSED, b"a")]


def test_an_open_alone_was_never_forwarded_and_is_worth_its_input() -> None:
    assert unclosed(opened(charge=9)) == {"h": Unclosed(intent("h", 9), None, 9, None)}


def test_each_word_says_more_and_the_last_progress_counts() -> None:
    data = opened() + forwarded() + frame(PROGRESS, b"h 11") + frame(PROGRESS, b"h 12") + learned()
    assert unclosed(data) == {"h": Unclosed(intent(), hold(), 12, intent("h", 70))}


def test_a_closed_hold_is_gone_and_others_are_not() -> None:
    data = opened("a") + opened("b") + forwarded("a") + frame(CLOSED, b"a")
    assert list(unclosed(data)) == ["b"]


@pytest.mark.parametrize("word", [forwarded(), learned(), frame(PROGRESS, b"h 3"), frame(CLOSED, b"h")])
def test_words_about_a_hold_that_was_closed_say_nothing(word: bytes) -> None:
    assert unclosed(opened() + frame(CLOSED, b"h") + word) == {}


def test_an_unknown_kind_is_skipped() -> None:
    assert list(unclosed(opened("a") + frame(b"?", b"later") + opened("b"))) == ["a", "b"]


@dataclass
class Story:
    """One hold's words, as far as its process came, and what is left of it."""

    words: list[bytes]
    left: Unclosed | None


@st.composite
def stories(draw: Any, hold_id: str) -> Story:
    amounts = draw(st.lists(st.integers(0, 2**53), max_size=2))
    words = [opened(hold_id), forwarded(hold_id)]
    words += [frame(PROGRESS, f"{hold_id} {amount}".encode()) for amount in amounts]
    words += [learned(hold_id), frame(CLOSED, hold_id.encode())]
    reached = draw(st.integers(0, len(words)))
    left = Unclosed(intent(hold_id), progress_microcredits=5)
    if reached >= 2:
        left.hold = hold(hold_id)
    for amount in amounts[: max(reached - 2, 0)]:
        left.progress_microcredits = amount
    if reached > 2 + len(amounts):
        left.learned = intent(hold_id, 70)
    return Story(words[:reached], left if 0 < reached < len(words) else None)


@given(st.data())
def test_any_interleaving_replays_to_what_was_left_open(data: st.DataObject) -> None:
    told = {hold_id: data.draw(stories(hold_id)) for hold_id in ("a", "b", "c", "d")}
    turns = data.draw(st.permutations([hold_id for hold_id, story in told.items() for _ in story.words]))
    words = {hold_id: iter(story.words) for hold_id, story in told.items()}
    written = b"".join(next(words[hold_id]) for hold_id in turns)
    assert unclosed(written) == {hold_id: story.left for hold_id, story in told.items() if story.left}
