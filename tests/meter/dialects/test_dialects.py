"""Rules of wire.md that the shared vectors do not show, by dialect."""

from __future__ import annotations

from typing import Any

import pytest

from faregate.meter import meter_line

_OAI = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
_ANT = {"input_tokens": 10, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 4}


def metered(provider: str, endpoint: str, answer: Any, **more: Any) -> dict[str, Any]:
    form = "events" if more.get("stream") else "body"
    return meter_line({"id": 1, "provider": provider, "endpoint": endpoint, form: answer, **more})


def check(got: dict[str, Any], **expect: Any) -> None:
    assert {key: got.get(key) for key in expect} == expect


def test_negative_counts_are_unknown_and_told() -> None:
    got = metered("openai", "chat.completions", {"usage": {**_OAI, "prompt_tokens": -10}})
    check(got, input_tokens=None, output_tokens=4, anomaly="negative_tokens", usage_present=True)


def test_more_cached_than_input_is_told_and_kept() -> None:
    got = metered("openai", "chat.completions", {"usage": {**_OAI, "prompt_tokens_details": {"cached_tokens": 64}}})
    check(got, input_tokens=10, cached_input_tokens=64, anomaly="cached_gt_input")


def test_moonshot_puts_usage_into_the_choice() -> None:
    event = '{"choices":[{"finish_reason":"stop","usage":{"prompt_tokens":9,"completion_tokens":3,"cached_tokens":4}}]}'
    got = metered("moonshot", "chat.completions", [event, "[DONE]"], stream=True)
    check(got, input_tokens=9, output_tokens=3, cached_input_tokens=4, complete=True)


def test_groq_usage_without_include_usage() -> None:
    event = '{"choices":[{"finish_reason":"stop"}],"x_groq":{"usage":{"prompt_tokens":20,"completion_tokens":10}}}'
    check(metered("groq", "chat.completions", [event, "[DONE]"], stream=True), input_tokens=20, output_tokens=10)


def test_zeros_after_the_real_usage_do_not_erase_it() -> None:
    events = [
        '{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":6}}',
        '{"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0}}',
    ]
    check(metered("compat", "chat.completions", events, stream=True), input_tokens=5, output_tokens=6)


def test_xai_total_can_say_that_reasoning_is_inside() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 50,
        "total_tokens": 60,
        "completion_tokens_details": {"reasoning_tokens": 40},
    }
    check(metered("xai", "chat.completions", {"usage": usage}), output_tokens=50, reasoning_tokens=40)


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


def test_gemini_compat_streams_hide_thoughts_in_the_total() -> None:
    events = [
        '{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":18,"total_tokens":18}}',
        '{"choices":[{"delta":{"content":"b"},"finish_reason":"stop"}],"usage":{"prompt_tokens":18,"completion_tokens":3,"total_tokens":671}}',
        "[DONE]",
    ]
    got = metered("gemini", "openai-compat/chat.completions", events, stream=True)
    check(got, input_tokens=18, output_tokens=653, reasoning_tokens=650, complete=True)


def test_openrouter_byok_has_two_costs() -> None:
    usage = {**_OAI, "cost": 0.001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.02}}
    got = metered("openrouter", "chat.completions", {"usage": usage})
    check(got, provider_cost_usd="0.001", upstream_cost_usd="0.02")


def test_perplexity_cost_is_an_object() -> None:
    usage = {**_OAI, "cost": {"input_tokens_cost": 0.1, "total_cost": 0.123}}
    check(metered("perplexity", "chat.completions", {"usage": usage}), provider_cost_usd="0.123")


def test_voxtral_seconds() -> None:
    usage = {"prompt_audio_seconds": 4, "prompt_tokens": 5, "completion_tokens": 24, "total_tokens": 404}
    check(
        metered("mistral", "audio.transcriptions", {"usage": usage}),
        input_tokens=5,
        output_tokens=24,
        audio_seconds="4",
    )


def test_subtitles_carry_nothing() -> None:
    got = metered("openai", "audio.transcriptions", "1\n00:00:00,000 --> 00:00:01,000\nhi\n")
    check(got, usage_present=False, input_tokens=None, audio_seconds=None)


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_background_responses_are_pending(status: str) -> None:
    check(metered("openai", "responses", {"status": status, "usage": None}), usage_present=False, pending=True)


def test_searches_count_and_page_visits_do_not() -> None:
    output = [
        {"type": "web_search_call", "id": str(n), "action": {"type": t}} for n, t in enumerate(("search", "open_page"))
    ]
    got = metered("openai", "responses", {"output": output, "usage": {"input_tokens": 1, "output_tokens": 1}})
    check(got, web_search_requests=1)


def test_realtime_responses_add_up() -> None:
    def done(key: str, status: str, tokens: int) -> dict[str, Any]:
        usage = {"input_tokens": tokens, "output_tokens": 1, "input_token_details": {"audio_tokens": tokens}}
        data = {"type": "response.done", "response": {"id": key, "status": status, "usage": usage}}
        return {"event": "response.done", "data": data}

    got = metered("openai", "realtime", [done("r1", "completed", 5), done("r2", "cancelled", 7)], stream=True)
    check(got, input_tokens=12, output_tokens=2, audio_input_tokens=12, complete=True)


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


def test_bedrock_cache_details_split_writes() -> None:
    usage = {
        "inputTokens": 5,
        "outputTokens": 2,
        "cacheWriteInputTokens": 30,
        "cacheDetails": [{"ttl": "5m", "inputTokens": 10}, {"ttl": "1h", "inputTokens": 20}],
    }
    got = metered("bedrock", "converse", {"usage": usage, "serviceTier": {"type": "flex"}}, model="anthropic.claude")
    check(got, input_tokens=35, cache_write_5m_tokens=10, cache_write_1h_tokens=20, service_tier="flex")


@pytest.mark.parametrize(
    ("model", "body"),
    [
        ("amazon.titan-text", {"inputTextTokenCount": 7, "results": [{"tokenCount": 3, "outputText": "x"}]}),
        ("amazon.nova-lite", {"usage": {"inputTokens": 7, "outputTokens": 3}}),
        ("openai.gpt-oss-20b", {"usage": {"prompt_tokens": 7, "completion_tokens": 3}}),
        ("anthropic.claude-x", {"content": [{}], "usage": {"input_tokens": 7, "output_tokens": 3}}),
        ("meta.llama", {"prompt_token_count": 7, "generation_token_count": 3}),
    ],
)
def test_bedrock_invoke_speaks_each_vendor(model: str, body: dict[str, Any]) -> None:
    check(metered("bedrock", "invoke", body, model=model), input_tokens=7, output_tokens=3)


def test_bedrock_metrics_serve_vendors_without_usage() -> None:
    metrics = {"inputTokenCount": 7, "outputTokenCount": 3}
    last = {"outputs": [{"text": "x"}], "amazon-bedrock-invocationMetrics": metrics}
    events = [
        {":event-type": "chunk", "payload": {"outputs": [{"text": "a"}]}},
        {":event-type": "chunk", "payload": last},
    ]
    got = metered("bedrock", "invoke-with-response-stream", events, stream=True, model="mistral.x")
    check(got, input_tokens=7, output_tokens=3, complete=True)


def test_cohere_bills_units_not_tokens() -> None:
    usage = {
        "billed_units": {"input_tokens": 5, "output_tokens": 7},
        "tokens": {"input_tokens": 71, "output_tokens": 7},
    }
    check(metered("cohere", "chat", {"usage": usage}), input_tokens=5, output_tokens=7)
    end = {"event": "message-end", "data": {"type": "message-end", "delta": {"usage": usage}}}
    check(metered("cohere", "v2/chat", [end], stream=True), input_tokens=5, output_tokens=7, complete=True)


def test_cut_image_and_speech_streams_are_incomplete() -> None:
    partial = {"event": "x", "data": {"type": "image_generation.partial_image", "b64_json": "AAAA"}}
    check(metered("openai", "images.generations", [partial], stream=True), complete=False, usage_present=False)
