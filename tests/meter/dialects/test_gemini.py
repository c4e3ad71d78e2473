"""Gemini native: tools, thoughts, searches, cuts."""

from __future__ import annotations

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
