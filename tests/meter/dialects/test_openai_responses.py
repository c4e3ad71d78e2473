"""Responses: pending, tools."""

from __future__ import annotations

import pytest

from tests.meter.support import check, metered


def test_xai_responses_hold_reasoning_inside_and_count_tools() -> None:
    usage = {
        "input_tokens": 36361,
        "output_tokens": 1252,
        "total_tokens": 37613,
        "output_tokens_details": {"reasoning_tokens": 763},
        "cost_in_usd_ticks": 12345,
        "server_side_tool_usage_details": {"web_search_calls": 2, "x_search_calls": 1},
    }
    got = metered("xai", "responses", {"status": "completed", "usage": usage})
    check(got, output_tokens=1252, web_search_requests=2, x_search_calls=1, provider_cost_usd="0.0000012345")


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_background_responses_are_pending(status: str) -> None:
    check(metered("openai", "responses", {"status": status, "usage": None}), usage_present=False, pending=True)


def test_searches_count_and_page_visits_do_not() -> None:
    output = [
        {"type": "web_search_call", "id": str(n), "action": {"type": t}} for n, t in enumerate(("search", "open_page"))
    ]
    got = metered("openai", "responses", {"output": output, "usage": {"input_tokens": 1, "output_tokens": 1}})
    check(got, web_search_requests=1)
