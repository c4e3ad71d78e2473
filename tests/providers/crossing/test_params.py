from __future__ import annotations

from typing import Any

import pytest

from faregate.errors import InvalidRequest
from faregate.providers.crossing.params import check_fields, chosen, field_in, messages_of


def test_what_the_provider_has_words_for_goes_along() -> None:
    body = {"model": "m", "messages": [], "temperature": 0.5, "top_k": 3, "user": "u", "seed": 7, "stop": None}
    assert chosen(body, frozenset({"temperature"}), frozenset({"top_k"})) == {"temperature": 0.5, "top_k": 3}


@pytest.mark.parametrize(
    ("name", "value"), [("n", 1), ("logprobs", False), ("presence_penalty", 0), ("modalities", ["text"])]
)
def test_what_asks_for_nothing_is_left_out(name: str, value: object) -> None:
    assert chosen({name: value}, frozenset(), frozenset()) == {}


@pytest.mark.parametrize(("name", "value"), [("n", 2), ("logprobs", True), ("functions", [{}]), ("whatever", 1)])
def test_what_would_change_the_answer_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chosen({name: value}, frozenset(), frozenset())
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ([], "messages"),
        (["hi"], "messages[0]"),
        ([{"role": "boss", "content": "hi"}], "messages[0]"),
        ([{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "file", "file": {"file_id": "http://x"}}]}], "messages[0].content"),
        ([{"content": "hi"}], "messages[0]"),
        ([{"role": "user", "content": "hi"}, {"role": "user", "content": 3}], "messages[1].content"),
        ([{"role": "user", "content": ["hi"]}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content"),
    ],
)
def test_messages_that_cannot_be_meant_are_named(messages: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        messages_of({"messages": messages})
    assert caught.value.param == param


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest", "file:///etc/passwd", "ftp://x/y", 7])
def test_nothing_is_fetched_for_a_client(url: object) -> None:
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    with pytest.raises(InvalidRequest, match="data: or https:"):
        messages_of({"messages": [message]})


def test_parts_there_are_no_words_for_are_refused() -> None:
    heard = {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]}
    assert messages_of({"messages": [heard]}) == [heard]
    with pytest.raises(InvalidRequest, match="input_audio"):
        messages_of({"messages": [heard]}, frozenset({"text"}))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"stop": 5}, "stop"),
        ({"stop": ["x", None]}, "stop"),
        ({"tools": {"a": 1}}, "tools"),
        ({"tools": ["x"]}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
    ],
)
def test_fields_that_would_be_lost_are_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_fields(body)
    assert caught.value.param == param


def test_arguments_of_the_librarys_own_are_not_the_clients() -> None:
    with pytest.raises(InvalidRequest) as caught:
        chosen({"extra_headers": {"x": "y"}}, frozenset({"extra_headers"}), frozenset())
    assert caught.value.param == "extra_headers"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("Unmapped reasoning effort: 'wild'", "reasoning_effort"),
        ("m does not support temperature=0.3", "temperature"),
        ("at least one non-system message", "messages"),
        ("something else", None),
    ],
)
def test_the_field_an_error_speaks_of(text: str, field: str | None) -> None:
    assert field_in(text, ["model", "temperature", "reasoning_effort"]) == field
