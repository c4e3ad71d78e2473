from __future__ import annotations

import pytest

from faregate.core.price import Cost
from faregate.core.usage import Reading
from faregate.errors import UpstreamError
from faregate.meter.registry import meter_for
from faregate.ports import Meter

START = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":7}}}\n\n'
DELTA = b'event: message_delta\ndata: {"type":"message_delta","delta":{},"usage":{"output_tokens":3}}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


class Shout:
    """Says each event's name."""

    def event(self, name: str, data: bytes) -> bytes:
        return name.upper().encode() + b" "

    def end(self, reading: Reading, cost: Cost | None, charge_microcredits: int) -> bytes:
        assert reading.usage is not None
        return b"END %d" % charge_microcredits

    def body(self, data: bytes, reading: Reading) -> bytes:
        return data.upper()


def meter(*, stream: bool = True) -> Meter:
    return meter_for("anthropic", "messages", stream=stream, translator=Shout())


def test_events_are_said_again_and_the_end_waits() -> None:
    translated = meter()
    assert translated.feed(START + DELTA + STOP[:9]) == b"MESSAGE_START MESSAGE_DELTA "
    assert translated.feed(STOP[9:]) == b"MESSAGE_STOP "
    assert translated.finish(None, 5) == b"END 5"


def test_usage_is_read_from_the_providers_own_bytes() -> None:
    translated = meter()
    translated.feed(START + DELTA)
    usage = translated.reading(200, {}).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, translated.events) == (7, 3, 2)


def test_a_stream_that_was_cut_has_no_end() -> None:
    translated = meter()
    translated.feed(START + DELTA[:20])
    assert translated.finish(None, 5) == b""


def test_an_end_without_its_blank_line_is_an_end() -> None:
    translated = meter()
    translated.feed(START + DELTA + STOP.rstrip())
    assert translated.finish(None, 5) == b"MESSAGE_STOP END 5"


@pytest.mark.parametrize("stream", [True, False])
def test_json_is_a_body_whatever_was_asked_for(stream: bool) -> None:
    translated = meter(stream=stream)
    assert translated.feed(b'{"usage":{"input_tokens":1,') == b""
    assert translated.feed(b'"output_tokens":2}}') == b""
    assert translated.reading(200, {}).complete
    assert translated.finish(None, 5) == b'{"USAGE":{"INPUT_TOKENS":1,"OUTPUT_TOKENS":2}}'


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"content":[{"type":"text","text":"half of it'])
def test_what_is_no_json_was_never_an_answer(body: bytes) -> None:
    translated = meter(stream=False)
    translated.feed(body)
    known = translated.reading(200, {})
    assert known.error is not None
    assert known.delivered_tokens == 0


def test_an_event_over_the_bound_cannot_be_said() -> None:
    translated = meter()
    with pytest.raises(UpstreamError, match="too long"):
        translated.feed(b"data: " + b"x" * (17 << 20))
