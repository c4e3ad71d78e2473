"""What a request for a response asks for."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from faregate.core.asks.responses import responses_input, responses_output
from faregate.core.asks.shape import Allowances
from faregate.core.call import Call
from faregate.errors import InvalidRequest

ALLOW = Allowances(bytes_per_token=Decimal(1), tokens_per_audio_second=10, models=("gpt-4o",), tokens_per_image=999)


def call(**body: object) -> Call:
    return Call(
        id="call_1",
        request_id="req_1",
        endpoint="responses",
        model="m",
        body=body,
        raw_body=b"x" * 1000,
        stream=False,
        wants_usage=True,
        account_id="acc_1",
    )


def test_the_bound_is_max_output_tokens() -> None:
    asked = responses_output(call(max_output_tokens=7))
    assert (asked.per_choice, asked.choices, asked.cappable) == (7, 1, True)
    assert responses_output(call()).per_choice is None


def test_what_comes_before_is_input_again() -> None:
    assert responses_input(call(input="x"), ALLOW).tokens == 1000
    assert responses_input(replace(call(input="x"), prior_tokens=50), ALLOW).tokens == 1050


def test_base64_is_an_allowance() -> None:
    url = "data:image/png;base64," + "A" * 478
    picture = {"type": "input_image", "image_url": url, "detail": "high"}
    sound = {"type": "input_audio", "input_audio": {"data": "A" * 100, "format": "wav"}}
    found = responses_input(call(input=[{"role": "user", "content": [picture, sound]}]), ALLOW)
    assert found.tokens == 1000 - 500 - 100 + ALLOW.image("high") + 10
    assert found.modalities == {"cache_write", "image", "audio"}


def test_a_screenshot_that_a_tool_hands_back_is_a_picture() -> None:
    shot = {"type": "computer_screenshot", "image_url": "https://x"}
    item = {"type": "computer_call_output", "output": shot}
    assert responses_input(call(input=[item]), ALLOW).tokens == 1000 + ALLOW.image()


def test_tools_that_cost_are_units() -> None:
    tools = [{"type": "web_search_preview_2025_03_11"}, {"type": "file_search"}, {"type": "function"}]
    units = responses_input(call(tools=tools, max_tool_calls=3), ALLOW).units
    assert units == {"request": 1, "search": 3, "file_search": 3}


@pytest.mark.parametrize("wrong", [-1, 1e9, True, "7", float("nan")])
def test_numbers_that_cannot_be_meant(wrong: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        responses_output(call(max_output_tokens=wrong))
    assert caught.value.param == "max_output_tokens"
