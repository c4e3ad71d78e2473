"""Gemini native: tools, thoughts, searches, cuts."""

from __future__ import annotations

import orjson
import pytest

from faregate.meter import meter_for
from tests.meter.support import check, metered


def test_gemini_tool_prompts_of_fetched_pages_are_input() -> None:
    usage = {
        "promptTokenCount": 30,
        "candidatesTokenCount": 40,
        "toolUsePromptTokenCount": 5000,
        "totalTokenCount": 5070,
    }
    body = {
        "candidates": [{"urlContextMetadata": {"urlMetadata": [{}]}, "finishReason": "STOP"}],
        "usageMetadata": usage,
    }
    got = metered("gemini", "generateContent", body, model="gemini-2.5-flash")
    check(got, input_tokens=5030, tool_use_input_tokens=5000, tool_use_billable=True)


def test_gemini_candidates_can_hold_the_thoughts() -> None:
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 50, "thoughtsTokenCount": 30, "totalTokenCount": 60}
    check(metered("gemini", "generateContent", {"usageMetadata": usage}), output_tokens=50, reasoning_tokens=30)


def test_gemini_2_pays_one_search_per_prompt() -> None:
    candidate = {"groundingMetadata": {"webSearchQueries": ["a", "b"]}}
    body = {"candidates": [candidate], "usageMetadata": {"promptTokenCount": 1, "totalTokenCount": 1}}
    check(metered("gemini", "generateContent", body, model="gemini-2.5-flash"), web_search_requests=1)


def test_gemini_cut_before_any_count_is_unknown() -> None:
    usage = '"usageMetadata":{"promptTokenCount":11,"totalTokenCount":11}'
    event = '{"candidates":[{"content":{"parts":[{"text":"1"}]}}],' + usage + "}"
    check(metered("gemini", "streamGenerateContent", [event], stream=True), input_tokens=11, output_tokens=None)


@pytest.mark.parametrize(
    "config", [{"generationConfig": {"candidateCount": 2}}, {"generation_config": {"candidate_count": 2}}]
)
def test_of_several_candidates_the_last_to_end_is_the_end(config: dict[str, object]) -> None:
    events = [_event(0, "a"), _event(0, "b", "STOP"), _event(1, "c"), _event(1, "d", "MAX_TOKENS")]
    meter = meter_for("gemini", "generatecontent", stream=True, request=config)
    passed = [meter.feed(event) for event in events]
    assert passed == [*events[:3], b""]
    assert meter.reading(200, {}).complete
    assert meter.finish(None, 0) == events[3]


def _event(index: int, text: str, finish: str | None = None) -> bytes:
    candidate = {"index": index, "content": {"parts": [{"text": text}]}, **({"finishReason": finish} if finish else {})}
    return b"data: " + orjson.dumps({"candidates": [candidate]}) + b"\r\n\r\n"


@pytest.mark.parametrize(("body", "header"), [("PRIORITY", ""), (None, "priority"), ("priority", "standard")])
def test_the_tier_that_served_is_in_the_body_or_in_a_header(body: str | None, header: str) -> None:
    meter = meter_for("gemini", "generatecontent", stream=False)
    used = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2, "serviceTier": body}
    meter.feed(orjson.dumps({"usageMetadata": used}))
    assert meter.reading(200, {"x-gemini-service-tier": header}).service_tier == "priority"
