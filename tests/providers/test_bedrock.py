from __future__ import annotations

import pytest

from faregate.errors import ConfigError
from faregate.meter import meter_for
from faregate.providers.bedrock import BedrockProvider
from faregate.providers.openai import ProviderOptions
from faregate.providers.upstream import Upstream

CLAUDE = "us.anthropic.claude-sonnet-4-20250514-v1:0"
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc"


def provider(api_key: str | None = None, **own: object) -> BedrockProvider:
    options = ProviderOptions(name="aws", kind="bedrock", api_key=api_key, own=own)
    return BedrockProvider(options, Upstream(), meter_for)


@pytest.mark.parametrize(
    ("endpoint", "model", "way"),
    [
        ("chat.completions", CLAUDE, "converse"),
        ("chat.completions", "amazon.nova-pro-v1:0", "converse"),
        ("chat.completions", "openai.gpt-oss-120b-1:0", "openai"),
        ("chat.completions", "us.openai.gpt-5.6-v1:0", "openai"),
        ("chat.completions", "arn:aws:bedrock:us-east-1:1:inference-profile/us.openai.gpt-5.6-v1:0", "openai"),
        ("messages", CLAUDE, "invoke"),
        ("messages", PROFILE, "invoke"),
        ("messages", "amazon.nova-pro-v1:0", None),
        ("converse", "amazon.nova-pro-v1:0", "native"),
        ("invoke", CLAUDE, "native"),
        ("messages.count_tokens", CLAUDE, "count"),
        ("embeddings", "amazon.titan-embed-text-v2:0", None),
    ],
)
def test_which_way_a_model_is_called(endpoint: str, model: str, way: str | None) -> None:
    assert provider()._way(endpoint, model) == way
    assert provider().serves(endpoint, model) == (way is not None)


@pytest.mark.parametrize(("chat", "model"), [("converse", "openai.gpt-oss-120b-1:0"), ("openai", CLAUDE)])
def test_the_way_of_chat_completions_can_be_chosen(chat: str, model: str) -> None:
    assert provider(chat=chat)._way("chat.completions", model) == chat


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("eu-west-3", "https://bedrock-runtime.eu-west-3.amazonaws.com"),
        ("cn-north-1", "https://bedrock-runtime.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_the_regions_address(region: str, host: str) -> None:
    assert provider(region=region)._base_url == host


def test_a_key_with_a_line_break_is_told_at_the_start() -> None:
    with pytest.raises(ConfigError, match="line break"):
        provider(api_key="a\nb")


def test_an_error_shows_no_key() -> None:
    assert provider(api_key="bearer-of-ours").redact(b"you sent bearer-of-ours") == b"you sent [redacted]"
