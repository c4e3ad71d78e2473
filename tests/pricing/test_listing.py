from __future__ import annotations

from faregate.pricing.catalog import LayeredCatalog
from faregate.pricing.file import parse
from faregate.pricing.listing import listing

NOW_US = 1_795_000_000_000_000
CATALOG = LayeredCatalog(
    parse("- provider: my-llm\n  model: My-Model\n  per_million: {input: 1, output: 2}\n"), kinds={"my-llm": "openai"}
)


def test_one_model_of_one_provider() -> None:
    (found,) = listing(CATALOG, provider="azure-2", model_id="gpt-5-mini", now_us=NOW_US)
    assert (found.provider, found.model_id, found.model_type, found.tier) == (
        "azure-2",
        "gpt-5-mini",
        "text",
        "default",
    )


def test_a_model_of_every_provider() -> None:
    found = listing(CATALOG, model_id="gpt-5", now_us=NOW_US)
    assert {"azure", "openai"} <= {model.provider for model in found}


def test_a_provider_s_models_with_a_tier() -> None:
    found = listing(CATALOG, provider="openai", tier="priority", now_us=NOW_US)
    assert found
    assert all("priority" in model.card.tiers and model.tier == "priority" for model in found)


def test_the_whole_catalogue_has_own_cards_and_each_model_once() -> None:
    found = listing(CATALOG, now_us=NOW_US)
    keys = [(model.provider, model.model_id) for model in found]
    assert len(keys) == len(set(keys)) > 4000
    assert ("my-llm", "my-model") in keys


def test_types_follow_what_is_charged() -> None:
    types = {
        model: listing(CATALOG, provider="openai", model_id=model, now_us=NOW_US)[0].model_type
        for model in ("gpt-4.1", "whisper-1", "tts-1", "text-embedding-3-small", "gpt-image-1")
    }
    assert list(types.values()) == ["text", "audio_stt", "audio_tts", "embedding", "image"]
