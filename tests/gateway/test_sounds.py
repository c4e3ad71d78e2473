from __future__ import annotations

import time

import pytest

from faregate.gateway.sounds import Length, length_of
from tests import recordings


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        (recordings.wav(3.2), 4),
        (recordings.wav(3.0), 3),
        (recordings.mp3(9.5), 10),
        (recordings.flac(7), 7),
        (recordings.ogg(5), 5),
        (recordings.m4a(61), 61),
        (recordings.webm(12.25), 13),
    ],
    ids=["wav", "wav-whole", "mp3", "flac", "ogg", "m4a", "webm"],
)
def test_the_file_says_how_long_it_lasts(data: bytes, seconds: int) -> None:
    assert length_of(data) == Length(seconds, seconds, guessed=False)


@pytest.mark.parametrize("data", [b"x" * 8_000, recordings.webm(None)[:8_000], b"RIFF" + bytes(7_996)])
def test_what_does_not_say_is_guessed_by_its_size(data: bytes) -> None:
    assert length_of(data) == Length(2, 8, guessed=True)


def pages(count: int) -> bytes:
    return recordings.ogg(1)[:200] + b"".join(recordings.page(0, i * 960, i, bytes(250)) for i in range(count))


def test_a_long_ogg_is_not_walked_through() -> None:
    long = pages(40_000) + recordings.page(4, 800 * 48_000, 9, b"x")
    assert length_of(long) == Length(800, 800, guessed=False)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfb" * (4 << 20),
        b"ID3\x03\0\0\0\0\0\0" + b"\xff" * (8 << 20),
        b"\0\0\0\x10ftypM4A \0\0\0\0" + b"\0\0\0\x08moov" * (1 << 20),
        b"fLaC" + b"\x01\0\0\0" * (2 << 20),
        b"RIFF\0\0\0\0WAVE" + b"LIST\0\0\0\0" * (1 << 20),
        b"FORM\0\0\0\0AIFF" + b"COMT\0\0\0\0" * (1 << 20),
        b"OggS" * (2 << 20),
        b"OggS" + bytes(20) + b"OpusHead",
    ],
    ids=["mp3", "id3", "mp4", "flac", "wav", "aiff", "ogg", "ogg-short"],
)
def test_a_hostile_file_costs_no_time(data: bytes) -> None:
    begun = time.process_time()
    assert length_of(data).guessed
    assert time.process_time() - begun < 0.5  # Seconds, without a bound on steps.


def test_a_file_that_claims_to_be_shorter_than_it_can_be_is_not_believed() -> None:
    data = recordings.webm(0.001) + bytes(4_000_000)
    assert length_of(data).guessed


def test_a_file_that_claims_months_is_not_believed() -> None:
    assert length_of(recordings.webm(1e12)).guessed
