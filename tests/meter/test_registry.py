"""Kinds and endpoints to readers; meters keep the port's promise."""

from __future__ import annotations

import pytest

from faregate.meter import meter_for
from faregate.meter.registry import kind_of, normal_endpoint
from faregate.ports import Meter


@pytest.mark.parametrize("stream", [False, True])
def test_every_meter_is_the_ports_meter(stream: bool) -> None:
    meter: Meter = meter_for("openai", "chat.completions", stream=stream)
    assert meter.events == 0
    assert meter.reading(200, {}).usage is None
    assert meter.finish(None, 0) == b""


@pytest.mark.parametrize(
    ("endpoint", "expect"),
    [
        ("chat.completions", "chat.completions"),
        ("/v1/chat/completions", "chat.completions"),
        ("openai-compat/chat.completions", "chat.completions"),
        ("openai/v1/responses", "responses"),
        ("anthropic/v1/messages", "messages"),
        ("streamGenerateContent", "streamgeneratecontent"),
        ("api/chat", "api/chat"),
        ("v2/chat", "v2/chat"),
    ],
)
def test_endpoints(endpoint: str, expect: str) -> None:
    assert normal_endpoint(endpoint) == expect


def test_a_numbered_provider_is_its_kind() -> None:
    assert (kind_of("azure-2"), kind_of("openai")) == ("azure", "openai")


@pytest.mark.parametrize(
    "kind", ["openai", "azure", "gemini", "deepseek", "xai", "anthropic", "litellm", "sandbox", "my-llm"]
)
@pytest.mark.parametrize("endpoint", ["chat.completions", "completions", "embeddings", "unknown/endpoint"])
def test_any_kind_has_a_meter(kind: str, endpoint: str) -> None:
    meter = meter_for(kind, endpoint, stream=False)
    meter.feed(b'{"usage":{"prompt_tokens":3,"completion_tokens":0,"total_tokens":3}}')
    usage = meter.reading(200, {}).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (3, 0)
