from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from faregate.core.call import Candidate
from faregate.core.price import PriceCard
from faregate.errors import InvalidRequest
from faregate.providers.bedrock_native import body_of
from tests.core.asks.test_bedrock import call

CARD = PriceCard(id="c", provider="aws", model="m", rates={"input": Decimal(1)}, source="t", max_output_tokens=100)
WHERE = Candidate(provider="aws", kind="bedrock", model="m", card=CARD)


@pytest.mark.parametrize(
    ("endpoint", "body", "sent"),
    [
        ("converse", {}, {"inferenceConfig": {"maxTokens": 50}}),
        ("converse", {"inferenceConfig": None}, {"inferenceConfig": {"maxTokens": 50}}),
        (
            "converse",
            {"inferenceConfig": {"topP": 1, "maxTokens": 7}},
            {"inferenceConfig": {"topP": 1, "maxTokens": 7}},
        ),
        ("invoke", {"max_tokens": 99}, {"max_tokens": 50}),
        ("invoke", {"textGenerationConfig": {"maxTokenCount": 99}}, {"textGenerationConfig": {"maxTokenCount": 50}}),
        ("invoke", {"max_tokens": 99, "max_completion_tokens": 7}, {"max_tokens": 50, "max_completion_tokens": 7}),
    ],
)
def test_the_bound_is_lowered_where_it_stands(endpoint: str, body: dict[str, Any], sent: dict[str, Any]) -> None:
    made = json.loads(body_of(call(endpoint, **body), WHERE, 50))
    assert {name: value for name, value in made.items() if name in sent} == sent


def test_above_the_models_own_maximum_nothing_is_asked() -> None:
    made = json.loads(body_of(call("converse"), WHERE, 5000))
    assert made["inferenceConfig"]["maxTokens"] == 100


def test_what_must_not_change_goes_byte_for_byte() -> None:
    asked = call("converse", inferenceConfig={"maxTokens": 7})
    assert body_of(asked, WHERE, None) is asked.raw_body


def thinking(budget: int) -> dict[str, Any]:
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def test_thinking_is_kept_below_the_bound() -> None:
    made = json.loads(body_of(call("invoke", max_tokens=9000, **thinking(8000)), WHERE, 4000))
    assert (made["max_tokens"], made["thinking"]["budget_tokens"]) == (4000, 2000)
    asked = call("converse", inferenceConfig={"maxTokens": 9000}, additionalModelRequestFields=thinking(8000))
    made = json.loads(body_of(asked, WHERE, 4000))
    assert made["additionalModelRequestFields"]["thinking"]["budget_tokens"] == 2000


def test_no_room_for_thinking_is_told() -> None:
    with pytest.raises(InvalidRequest, match="no room for thinking"):
        body_of(call("invoke", max_tokens=9000, **thinking(8000)), WHERE, 100)
