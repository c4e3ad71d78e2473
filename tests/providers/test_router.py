from __future__ import annotations

from dataclasses import replace

import pytest

from faregate.core.call import Principal
from faregate.core.price import PriceCard
from faregate.errors import ConfigError, InvalidRequest, ModelNotFound, ModelNotPriced, PermissionDenied
from faregate.providers.router import ModelRouter, may_call

PRINCIPAL = Principal(
    key_id="k", rev=1, organization_id="org_1", account_id=None, default_account_id="a", scopes=frozenset()
)
UNPRICED = {"gpt-new"}


def card(*, provider: str, kind: str, model: str, organization_id: str | None, now_us: int) -> PriceCard | None:
    if model in UNPRICED or kind == "sandbox":
        return None
    return PriceCard(id=f"{provider}:{model}", provider=provider, model=model, rates={}, source="test")


ROUTER = ModelRouter(
    providers={"openai": "openai", "my-llm": "openai"},
    models={
        "fast": ["openai/gpt-4.1-mini", "my-llm/org/model:0"],
        "mixed": ["openai/gpt-new", "my-llm/m"],
        "new": ["openai/gpt-new"],
    },
    card=card,
)


def places(model: str, principal: Principal = PRINCIPAL) -> list[tuple[str, str]]:
    found = ROUTER.candidates(model, endpoint="chat.completions", principal=principal, now_us=0)
    return [(one.provider, one.model) for one in found]


def test_a_public_name_has_its_candidates_in_order() -> None:
    assert places("fast") == [("openai", "gpt-4.1-mini"), ("my-llm", "org/model:0")]


def test_provider_and_model_can_be_named() -> None:
    assert places("my-llm/a/b:c") == [("my-llm", "a/b:c")]


@pytest.mark.parametrize("model", ["gpt-4.1", "nobody/gpt", "openai/", "/x", "", "sandbox/x"])
def test_any_other_name_is_not_found(model: str) -> None:
    with pytest.raises(ModelNotFound):
        places(model)


def test_a_candidate_without_a_price_is_skipped() -> None:
    assert places("mixed") == [("my-llm", "m")]


@pytest.mark.parametrize("model", ["new", "openai/gpt-new"])
def test_a_model_without_any_price_is_refused(model: str) -> None:
    with pytest.raises(ModelNotPriced):
        places(model)


def test_candidates_carry_their_card() -> None:
    found = ROUTER.candidates("fast", endpoint="chat.completions", principal=PRINCIPAL, now_us=0)
    assert [one.card.id for one in found] == ["openai:gpt-4.1-mini", "my-llm:org/model:0"]


@pytest.mark.parametrize(
    ("allowed", "model", "may"),
    [
        (None, "x", True),
        ((), "x", False),
        (("x",), "x", True),
        (("x",), "xy", False),
        (("openai/*",), "openai/gpt", True),
        (("openai/*",), "azure/gpt", False),
        (("*",), "x", True),
    ],
)
def test_allow_lists_are_exact_or_end_in_a_star(allowed: tuple[str, ...] | None, model: str, may: bool) -> None:
    assert may_call(allowed, model) is may


def test_a_name_that_is_not_allowed_is_denied_even_if_unknown() -> None:
    with pytest.raises(PermissionDenied):
        places("nobody/gpt", replace(PRINCIPAL, models=("fast",)))


@pytest.mark.parametrize(
    ("model", "upstream"),
    [
        ("fast", "gpt-4.1-mini"),
        ("openai/gpt-4.1", "gpt-4.1"),
        ("sandbox-cut", "sandbox-cut"),
        ("whatever", "whatever"),
    ],
)
def test_a_test_keys_call_never_leaves_the_sandbox(model: str, upstream: str) -> None:
    assert places(model, replace(PRINCIPAL, test=True)) == [("sandbox", upstream)]


def test_the_listing_has_what_the_key_may_call_and_pay() -> None:
    rows = ROUTER.listing(replace(PRINCIPAL, models=("fast", "new", "other")), 0)
    assert [(row.id, row.owned_by) for row in rows] == [("fast", "openai")]


def test_a_target_without_its_provider_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="nobody/x"):
        ModelRouter(providers={"openai": "openai"}, models={"m": ["nobody/x"]}, card=card)


def test_a_place_that_does_not_serve_the_endpoint_is_skipped_and_none_left_is_said() -> None:
    able = ModelRouter(
        providers={"openai": "openai", "my-llm": "openai"},
        models={"fast": ["openai/gpt-4.1-mini", "my-llm/small"]},
        card=card,
        serves=lambda provider, endpoint, _model: endpoint == "embeddings" or provider == "my-llm",
    )
    found = able.candidates("fast", endpoint="chat.completions", principal=PRINCIPAL, now_us=0)
    assert [one.provider for one in found] == ["my-llm"]
    with pytest.raises(InvalidRequest, match=r"cannot be called at chat\.completions"):
        able.candidates("openai/gpt-4.1-mini", endpoint="chat.completions", principal=PRINCIPAL, now_us=0)


def test_other_models_that_were_used_have_their_own_cards_and_dated_names_do_not() -> None:
    (asked,) = ROUTER.candidates("my-llm/opus-4", endpoint="messages", principal=PRINCIPAL, now_us=0)
    used = ["opus-4", "opus-4-20260101", "opus-4-5", "haiku", "gpt-new"]
    found = ROUTER.with_models(asked, used, PRINCIPAL, 0)
    assert {name: card.id for name, card in found.also.items()} == {
        "opus-4-5": "my-llm:opus-4-5",
        "haiku": "my-llm:haiku",
    }
