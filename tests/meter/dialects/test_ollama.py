"""Ollama lines."""

from __future__ import annotations

from tests.meter.support import check, metered


def test_the_done_line_has_the_counts() -> None:
    events = ['{"message":{"content":"a"},"done":false}', '{"done":true,"eval_count":9}']
    got = metered("ollama", "api/chat", events, stream=True)
    check(got, input_tokens=None, output_tokens=9, complete=True)


def test_an_error_line_is_an_error() -> None:
    got = metered("ollama", "api/generate", ['{"error":"model not found"}'], stream=True)
    check(got["error"], message="model not found")
    check(got, usage_present=False, complete=False)
