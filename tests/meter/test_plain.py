"""Plain bodies: whole, byte-exact, and nothing before the charge."""

from __future__ import annotations

from faregate.meter import meter_for
from tests.meter.support import run, single_bytes

USAGE = b'"usage":{"prompt_tokens":3,"completion_tokens":2}'
BODY = b'\n\n {"model":"m","choices":[{"message":{"content":"hello there"}}],' + USAGE + b"}\n"


def test_the_body_comes_at_the_end() -> None:
    passed, last, reading = run(meter_for("deepseek", "chat.completions", stream=False), single_bytes(BODY))
    assert (passed, last) == (b"", BODY)
    assert reading.complete
    assert reading.usage is not None
    assert reading.usage.input_tokens == 3


def test_blank_lines_are_no_event() -> None:
    meter = meter_for("deepseek", "chat.completions", stream=False)
    meter.feed(b"\n\n")
    assert meter.events == 0
    meter.feed(b"{")
    assert meter.events == 1


def test_a_body_without_usage_still_tells_what_was_delivered() -> None:
    body = BODY.replace(b'"usage"', b'"usage_"')
    _, _, reading = run(meter_for("openai", "chat.completions", stream=False), [body])
    assert reading.usage is None
    assert reading.delivered_tokens == 3


def test_html_is_passed_and_incomplete() -> None:
    meter = meter_for("openai", "chat.completions", stream=False)
    meter.feed(b"<html>bad gateway</html>")
    reading = meter.reading(502, {})
    assert not reading.complete
    assert not reading.billable
    assert reading.error is not None
    assert reading.error.status == 502
    assert meter.finish(None, 0) == b"<html>bad gateway</html>"
