"""What a realtime session has said and heard so far, as far as it bounds the next response. Pure.

The provider counts a response when it is done; what came since is counted here, by its size. Sound is billed by its
length: a token is 100 ms of input, 50 ms of output (platform.openai.com/docs/guides/realtime-costs).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from faregate.core.asks import pictures

_BYTES_PER_S = {"pcm": 48_000, "g711": 8_000}
_INPUT_PER_S, _OUTPUT_PER_S = 10, 20
_TEXT_BYTES_PER_TOKEN = 2
_UNKNOWN_PICTURE = 16_384

Event = Mapping[str, Any]


def read_event(text: str) -> Event | None:
    """A frame as an event; None when it is none."""
    try:
        event = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("type"), str) else None


def inner(event: Event, *names: str) -> Event:
    """A nested object; empty when there is none."""
    for name in names:
        found = event.get(name)
        event = found if isinstance(found, dict) else {}
    return event


@dataclass(slots=True)
class Conversation:
    """One session's."""

    model: str
    counted: int = 0
    """Tokens, as the provider last counted them."""
    fresh: int = 0
    """Tokens since then, at most."""
    most_output: int | None = None
    """The session's bound; None: the model's own maximum."""
    bound_name: str = "max_output_tokens"
    """The field of the output bound: the beta's has another name."""
    hears: str | None = None
    """The model that transcribes."""
    _input_bytes_per_s: int = _BYTES_PER_S["pcm"]
    _output_bytes_per_s: int = _BYTES_PER_S["pcm"]

    @property
    def tokens(self) -> int:
        """The next response's input, at most."""
        return self.counted + self.fresh

    def said(self, event: Event, size: int) -> None:
        """The client sends an event of so many bytes."""
        kind = event["type"]
        if kind == "input_audio_buffer.append":
            self.fresh += self._sound(event.get("audio"))
        elif kind == "conversation.item.create":
            self.fresh += self._item(inner(event, "item"), size)
        elif kind != "response.cancel":
            self.fresh += -(-size // _TEXT_BYTES_PER_TOKEN)

    def done(self, usage: Event, fresh_before: int) -> None:
        """A response is done: what it was given and what it said is counted. `fresh_before`: `fresh` as it began."""
        given, made = usage.get("input_tokens"), usage.get("output_tokens")
        if isinstance(given, int) and isinstance(made, int):
            self.counted = max(0, given) + max(0, made)
            self.fresh = max(0, self.fresh - fresh_before)

    def wanted(self, session: Event) -> None:
        """The client asks for another configuration: until it is confirmed the looser bound counts."""
        if "max_output_tokens" in session or "max_response_output_tokens" in session:
            bound = bound_of(session)
            if bound is None or (self.most_output is not None and bound > self.most_output):
                self.most_output = bound

    def configured(self, session: Event) -> None:
        """The server says how the session is."""
        self.most_output = bound_of(session)
        if "max_response_output_tokens" in session:
            self.bound_name = "max_response_output_tokens"
        self.hears = hearing_of(session) or self.hears
        self._input_bytes_per_s = _rate(session, "input")
        self._output_bytes_per_s = _rate(session, "output")

    def spoken(self, audio: object) -> int:
        """Tokens of so much output sound in base64."""
        size = len(audio) * 3 // 4 if isinstance(audio, str) else 0
        return -(-size * _OUTPUT_PER_S // self._output_bytes_per_s)

    def _sound(self, audio: object) -> int:
        size = len(audio) * 3 // 4 if isinstance(audio, str) else 0
        return -(-size * _INPUT_PER_S // self._input_bytes_per_s)

    def _item(self, item: Event, size: int) -> int:
        tokens = 0
        for part in _parts(item):
            audio, url = part.get("audio"), part.get("image_url")
            if isinstance(audio, str):
                tokens, size = tokens + self._sound(audio), size - len(audio)
            if isinstance(url, str):
                tokens, size = tokens + pictures.tokens(self.model, None, _UNKNOWN_PICTURE), size - len(url)
        return tokens + -(-max(0, size) // _TEXT_BYTES_PER_TOKEN)


def bound_of(holder: Event) -> int | None:
    """The output bound that a session or a response names; None for "inf", or when there is none."""
    for name in ("max_output_tokens", "max_response_output_tokens"):
        value = holder.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def hearing_of(session: Event) -> str | None:
    """The transcription model that a session names, in its newer place or its older one."""
    for place in (inner(session, "audio", "input", "transcription"), inner(session, "input_audio_transcription")):
        if isinstance(name := place.get("model"), str):
            return name
    return None


def _rate(session: Event, side: str) -> int:
    format_ = inner(session, "audio", side).get("format", session.get(f"{side}_audio_format"))
    name = str(format_.get("type") if isinstance(format_, dict) else format_)
    return _BYTES_PER_S["g711" if any(law in name for law in ("g711", "pcmu", "pcma")) else "pcm"]


def _parts(item: Event) -> Iterator[Event]:
    content = item.get("content")
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict):
            yield part
