from __future__ import annotations

import pytest

from faregate.pricing.names import kind_of, sellers, vendor_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("azure-2", "azure"),
        ("azure", "azure"),
        ("Google", "gemini"),
        ("x-ai", "xai"),
        ("aws-3", "bedrock"),
        ("foo", "foo"),
    ],
)
def test_names_stand_for_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("gpt-4.1", "openai"),
        ("whisper-1", "openai"),
        ("o4-mini", "openai"),
        ("claude-3-opus", "anthropic"),
        ("gemini-pro", "gemini"),
        ("DeepSeek-V3.2", "deepseek"),
        ("grok-4.5", "xai"),
        ("global.anthropic.claude-sonnet-4-20250514-v1:0", "bedrock"),
        ("amazon.nova-pro-v1:0", "bedrock"),
        ("sandbox-large", "sandbox"),
        ("gpt-oss-120b", None),
        ("llama-3", None),
    ],
)
def test_a_bare_name_tells_its_vendor(model: str, kind: str | None) -> None:
    assert vendor_of(model) == kind


def test_a_compatible_server_s_name_says_more_than_its_kind() -> None:
    assert sellers("groq", "openai", "gpt-oss-120b") == (("groq", "gpt-oss-120b"), ("openai", "gpt-oss-120b"))
    assert sellers("openai", "sandbox", "gpt-5") == (("sandbox", "gpt-5"),)


def test_litellm_models_carry_their_provider() -> None:
    assert sellers("any", "litellm", "groq/Llama-3")[0] == ("groq", "llama-3")
    assert sellers("", "", "azure/gpt-5-mini") == (("azure", "gpt-5-mini"),)


def test_an_arn_is_known_by_the_id_at_its_end() -> None:
    arn = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.amazon.nova-pro-v1:0"
    assert sellers("aws", "bedrock", arn) == (("bedrock", arn), ("bedrock", "us.amazon.nova-pro-v1:0"))
