"""Transcriptions and speech."""

from __future__ import annotations

from tests.meter.support import check, metered


def test_voxtral_seconds() -> None:
    usage = {"prompt_audio_seconds": 4, "prompt_tokens": 5, "completion_tokens": 24, "total_tokens": 404}
    check(
        metered("mistral", "audio.transcriptions", {"usage": usage}),
        input_tokens=5,
        output_tokens=24,
        audio_seconds="4",
    )


def test_subtitles_carry_nothing() -> None:
    got = metered("openai", "audio.transcriptions", "1\n00:00:00,000 --> 00:00:01,000\nhi\n")
    check(got, usage_present=False, input_tokens=None, audio_seconds=None)
