"""One table of names, and the providers that differ."""

from __future__ import annotations

from tests.meter.support import check, metered

_OAI = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}


def test_negative_counts_are_unknown_and_told() -> None:
    got = metered("openai", "chat.completions", {"usage": {**_OAI, "prompt_tokens": -10}})
    check(got, input_tokens=None, output_tokens=4, anomaly="negative_tokens", usage_present=True)


def test_more_cached_than_input_is_told_and_kept() -> None:
    got = metered("openai", "chat.completions", {"usage": {**_OAI, "prompt_tokens_details": {"cached_tokens": 64}}})
    check(got, input_tokens=10, cached_input_tokens=64, anomaly="cached_gt_input")


def test_xai_total_can_say_that_reasoning_is_inside() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 50,
        "total_tokens": 60,
        "completion_tokens_details": {"reasoning_tokens": 40},
    }
    check(metered("xai", "chat.completions", {"usage": usage}), output_tokens=50, reasoning_tokens=40)


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
