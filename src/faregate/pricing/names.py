"""Who sells a model: configured provider names, kinds, vendors, and what the price sources call them."""

from __future__ import annotations

import re
from collections.abc import Mapping

_KIND_ALIASES: Mapping[str, str] = {
    "azure-openai": "azure",
    "azure_openai": "azure",
    "google": "gemini",
    "googleai": "gemini",
    "google-vertex": "vertex_ai",
    "vertex": "vertex_ai",
    "vertexai": "vertex_ai",
    "aws": "bedrock",
    "amazon": "bedrock",
    "aws-bedrock": "bedrock",
    "x-ai": "xai",
    "together_ai": "together",
    "fireworks_ai": "fireworks",
    "moonshotai": "moonshot",
    "mistralai": "mistral",
}

GENAI_IDS: Mapping[str, str] = {
    "gemini": "google",
    "vertex_ai": "google",
    "bedrock": "aws",
    "xai": "x-ai",
    "moonshot": "moonshotai",
}
"""Kinds whose genai-prices id differs from their own name."""

LITELLM_PREFIXES: Mapping[str, str] = {"together": "together_ai", "fireworks": "fireworks_ai"}
"""Kinds whose prefix in LiteLLM's map differs from their own name."""

GENERIC_KINDS = frozenset({"", "openai", "litellm"})
"""Kinds that speak for many sellers: there the configured name may say more than the kind."""

_VENDORS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"sandbox\b"), "sandbox"),
    (
        re.compile(r"([a-z-]+\.)?(anthropic|amazon|meta|mistral|cohere|ai21|deepseek|openai|qwen)\.[a-z]"),
        "bedrock",
    ),
    (re.compile(r"claude"), "anthropic"),
    (
        re.compile(r"(gpt-(?!oss)|o[1-9](\b|-)|chatgpt|whisper-1|tts-1|dall-e|text-embedding-(3|ada)|codex)"),
        "openai",
    ),
    (re.compile(r"(omni-moderation|text-moderation|computer-use|ft:gpt|davinci|babbage)"), "openai"),
    (re.compile(r"(gemini|gemma|imagen|veo|text-embedding-00|learnlm)"), "gemini"),
    (re.compile(r"deepseek"), "deepseek"),
    (re.compile(r"grok"), "xai"),
    (re.compile(r"(command|rerank|embed)-"), "cohere"),
    (re.compile(r"(mistral|magistral|ministral|codestral|devstral|pixtral|voxtral|open-mi)"), "mistral"),
    (re.compile(r"sonar"), "perplexity"),
    (re.compile(r"(kimi|moonshot)"), "moonshot"),
)


def kind_of(provider: str) -> str:
    """The kind a provider's name stands for without a configuration: `azure-2` is azure, `google` is gemini."""
    name = provider.strip().lower()
    name = _KIND_ALIASES.get(name, name)
    bare = re.sub(r"-\d{1,3}$", "", name)
    return _KIND_ALIASES.get(bare, bare)


def vendor_of(model: str) -> str | None:
    """The kind that sells a model under this bare name first hand, or None when the name does not tell."""
    name = model.lower()
    return next((kind for pattern, kind in _VENDORS if pattern.match(name)), None)


def sellers(provider: str, kind: str, model: str) -> tuple[tuple[str, str], ...]:
    """The (kind, model) pairs under which the built-in layers may know a provider's model, best first."""
    model = model.lower()
    if not provider and not kind:
        return _without_provider(model)
    pairs = []
    if kind == "litellm" and "/" in model:
        head, _, rest = model.partition("/")
        pairs.append((kind_of(head), rest))
    if kind in GENERIC_KINDS and provider:
        pairs.append((kind_of(provider), model))
    if kind:
        pairs.append((kind.lower(), model))
        if model.startswith("arn:"):  # of Bedrock: …:foundation-model/<id>, …:inference-profile/<id>
            pairs.append((kind.lower(), model.rpartition("/")[2]))
    return tuple(dict.fromkeys(pairs))


def _without_provider(model: str) -> tuple[tuple[str, str], ...]:
    vendor = vendor_of(model)
    if vendor is not None:
        return ((vendor, model),)
    head, slash, rest = model.partition("/")
    return ((kind_of(head), rest),) if slash else ()
