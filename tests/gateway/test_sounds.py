from __future__ import annotations

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


def test_a_file_that_claims_to_be_shorter_than_it_can_be_is_not_believed() -> None:
    data = recordings.webm(0.001) + bytes(4_000_000)
    assert length_of(data).guessed


def test_a_file_that_claims_months_is_not_believed() -> None:
    assert length_of(recordings.webm(1e12)).guessed
