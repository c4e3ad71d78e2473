"""Realtime sessions add up."""

from __future__ import annotations

from typing import Any

from tests.meter.support import check, metered


def test_realtime_responses_add_up() -> None:
    def done(key: str, status: str, tokens: int) -> dict[str, Any]:
        usage = {"input_tokens": tokens, "output_tokens": 1, "input_token_details": {"audio_tokens": tokens}}
        data = {"type": "response.done", "response": {"id": key, "status": status, "usage": usage}}
        return {"event": "response.done", "data": data}

    got = metered("openai", "realtime", [done("r1", "completed", 5), done("r2", "cancelled", 7)], stream=True)
    check(got, input_tokens=12, output_tokens=2, audio_input_tokens=12, complete=True)
