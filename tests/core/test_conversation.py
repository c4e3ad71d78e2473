"""What a session has said and heard, as a bound of the next response's input."""

from __future__ import annotations

import pytest

from faregate.core.conversation import Conversation, bound_of, hearing_of, read_event


@pytest.mark.parametrize("text", ["", "no", "[]", "7", "{}", '{"type": 1}', '{"type": "x"', "\ud800"])
def test_what_is_no_event(text: str) -> None:
    assert read_event(text) is None


def test_sound_counts_by_its_length() -> None:
    talk = Conversation("m")
    talk.said({"type": "input_audio_buffer.append", "audio": "A" * 64_000}, 64_050)
    assert talk.tokens == 10  # 48,000 bytes of pcm16 are a second
    talk.configured({"audio": {"input": {"format": {"type": "audio/pcmu"}}}})
    talk.said({"type": "input_audio_buffer.append", "audio": "A" * 64_000}, 64_050)
    assert talk.tokens == 10 + 60


def test_items_count_by_their_text() -> None:
    talk = Conversation("m")
    part = {"type": "input_audio", "audio": "A" * 64_000}
    talk.said({"type": "conversation.item.create", "item": {"content": [part]}}, 64_100)
    assert talk.tokens == 10 + 50


def test_a_response_that_is_done_replaces_the_guess() -> None:
    talk = Conversation("m")
    talk.said({"type": "session.update"}, 200)
    before = talk.fresh
    talk.said({"type": "input_audio_buffer.append", "audio": "A" * 64_000}, 64_050)
    talk.done({"input_tokens": 40, "output_tokens": 7}, before)
    assert (talk.counted, talk.fresh) == (47, 10)
    talk.done({"input_tokens": None}, 0)
    assert talk.counted == 47


def test_the_looser_bound_counts_until_the_server_confirms() -> None:
    talk = Conversation("m")
    talk.configured({"max_output_tokens": 100})
    talk.wanted({"max_output_tokens": 50})
    assert talk.most_output == 100
    talk.wanted({"max_output_tokens": 500})
    assert talk.most_output == 500
    talk.configured({"max_output_tokens": 500})
    talk.wanted({"max_output_tokens": "inf"})
    assert talk.most_output is None


def test_the_beta_has_other_names() -> None:
    talk = Conversation("m")
    talk.configured({"max_response_output_tokens": 9, "input_audio_transcription": {"model": "whisper-1"}})
    assert (talk.most_output, talk.bound_name, talk.hears) == (9, "max_response_output_tokens", "whisper-1")


@pytest.mark.parametrize("bound", ["inf", None, True, -1, 0, 1.5])
def test_bounds_that_are_none(bound: object) -> None:
    assert bound_of({"max_output_tokens": bound}) is None
    assert hearing_of({"audio": {"input": {"transcription": None}}}) is None
