"""Converse and InvokeModel."""

from __future__ import annotations

from typing import Any

import pytest

from tests.meter.support import check, metered


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
