"""Cohere bills units."""

from __future__ import annotations

from tests.meter.support import check, metered


def test_cohere_bills_units_not_tokens() -> None:
    usage = {
        "billed_units": {"input_tokens": 5, "output_tokens": 7},
        "tokens": {"input_tokens": 71, "output_tokens": 7},
    }
    check(metered("cohere", "chat", {"usage": usage}), input_tokens=5, output_tokens=7)
    end = {"event": "message-end", "data": {"type": "message-end", "delta": {"usage": usage}}}
    check(metered("cohere", "v2/chat", [end], stream=True), input_tokens=5, output_tokens=7, complete=True)
