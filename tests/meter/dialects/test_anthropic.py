"""Anthropic: iterations, refusals, growing input."""

from __future__ import annotations

from tests.meter.support import check, metered

_ANT = {"input_tokens": 10, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 4}


def test_anthropic_bills_each_attempt_at_its_model() -> None:
    iterations = [
        {"type": "message", "model": "claude-opus-5", **_ANT, "output_tokens": 0},
        {"type": "message", "model": "claude-opus-5", **_ANT, "output_tokens": 9},
        {"type": "fallback_message", "model": "claude-sonnet-5", **_ANT},
    ]
    body = {"model": "claude-sonnet-5", "content": [{}], "usage": {**_ANT, "iterations": iterations}}
    got = metered("anthropic", "messages", body)
    check(got, input_tokens=20, output_tokens=13)
    check(got["per_model"]["claude-opus-5"], input_tokens=10, output_tokens=9)
    check(got["per_model"]["claude-sonnet-5"], input_tokens=10, output_tokens=4)


def test_anthropic_advisor_is_on_top() -> None:
    advisor = {"type": "advisor_message", "model": "claude-opus-5", **_ANT, "output_tokens": 100}
    body = {
        "model": "claude-haiku-5",
        "content": [{}],
        "usage": {**_ANT, "iterations": [{"type": "message", **_ANT}, advisor]},
    }
    per_model = metered("anthropic", "messages", body)["per_model"]
    check(per_model["claude-haiku-5"], output_tokens=4)
    check(per_model["claude-opus-5"], output_tokens=100)


def test_anthropic_refusal_after_output_is_billed() -> None:
    body = {"stop_reason": "refusal", "content": [{"type": "text", "text": "I"}], "usage": _ANT}
    check(metered("anthropic", "messages", body), billable=True)


def test_anthropic_start_zeros_are_replaced() -> None:
    start = {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 0, "output_tokens": 0}}}
    events = [
        {"event": "message_start", "data": start},
        {
            "event": "message_delta",
            "data": {"type": "message_delta", "usage": {"input_tokens": 25, "output_tokens": 15}},
        },
        {
            "event": "message_delta",
            "data": {"type": "message_delta", "usage": {"input_tokens": 0, "output_tokens": 16}},
        },
        {"event": "message_stop", "data": {"type": "message_stop"}},
    ]
    check(metered("anthropic", "messages", events, stream=True), input_tokens=25, output_tokens=16)
