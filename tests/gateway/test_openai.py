from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest

from faregate import errors
from faregate.core.call import Call, Principal
from faregate.errors import FaregateError, InsufficientCredits, InvalidRequest, LimitExceeded, PermissionDenied
from faregate.gateway.common import error_headers
from faregate.gateway.openai import OpenAIDialect, error_body
from faregate.ports import Inbound

WHO = Principal(
    key_id="k",
    rev=1,
    organization_id="o",
    account_id=None,
    default_account_id="a",
    scopes=frozenset(),
    max_multiplier=Decimal(2),
)


def read(body: Any = None, endpoint: str = "chat.completions", **headers: str) -> Call:
    """`headers` with _ for -."""
    raw = body if isinstance(body, bytes) else orjson.dumps({"model": "m", **(body or {})})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    inbound = Inbound(endpoint=endpoint, secret="s", headers=named, body=raw, request_id="req_1")
    return OpenAIDialect().read(inbound, WHO, "acc", "call_1")


# Reading ------------------------------------------------------------------------------------------------


def test_a_request_becomes_a_call_byte_for_byte() -> None:
    raw = b'{ "model":"m",  "messages":[] }'
    call = read(raw)
    assert (call.raw_body, call.body) == (raw, {"model": "m", "messages": []})
    assert (call.id, call.request_id, call.account_id, call.model) == ("call_1", "req_1", "acc", "m")
    assert (call.stream, call.wants_usage, call.wants_cost) == (False, False, False)
    assert call.multiplier == 1
    assert (call.idempotency_key, dict(call.attribution), dict(call.forward_headers)) == (None, {}, {})


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'"x"', b"1", b"\xff{}", b'{"model":NaN}', b"{} {}"])
def test_a_body_that_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest, match="JSON"):
        read(raw)


@pytest.mark.parametrize("model", [None, 1, "", [], "m" * 257, "a\nb", "a\r\nset-cookie: x", "\x00"])
def test_a_model_that_is_no_name_is_refused(model: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read({"model": model})
    assert caught.value.param == "model"


@pytest.mark.parametrize("model", ["m" * 256, "qwen/通义", "a b"])
def test_other_names_are_the_routers_to_judge(model: str) -> None:
    assert read({"model": model}).model == model


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"stream": "true"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": "x"}, "stream_options"),
        ({"stream_options": {"include_usage": "yes"}}, "include_usage"),
    ],
)
def test_a_field_that_cannot_be_meant_is_named(body: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(body)
    assert caught.value.param == param


def test_a_stream_and_its_usage_are_asked_for_as_openai_says() -> None:
    call = read({"stream": True, "stream_options": {"include_usage": True}})
    assert (call.stream, call.wants_usage) == (True, True)
    call = read({"stream": None, "stream_options": None})
    assert (call.stream, call.wants_usage) == (False, False)


def test_embeddings_are_never_a_stream() -> None:
    assert read({"stream": True}, endpoint="embeddings").stream is False


@pytest.mark.parametrize(("said", "wanted"), [("true", True), ("TRUE", True), ("1", False), ("false", False)])
def test_the_cost_comes_only_when_it_is_asked_for(said: str, wanted: bool) -> None:
    assert read(x_faregate_include_cost=said).wants_cost is wanted


def test_only_listed_headers_go_upstream() -> None:
    call = read(
        openai_beta="b",
        idempotency_key="i",
        x_client_request_id="c",
        authorization="Bearer fg_live_secret",
        x_api_key="fg_live_secret",
        cookie="c=1",
        openai_organization="org-x",
        x_faregate_agent="a",
    )
    assert call.forward_headers == {"openai-beta": "b", "idempotency-key": "i", "x-client-request-id": "c"}
    assert call.idempotency_key == "i"


@pytest.mark.parametrize(("said", "multiplier"), [("1", "1"), ("1.25", "1.25"), ("2", "2"), ("2.0", "2")])
def test_a_multiplier_up_to_the_keys_own_is_taken(said: str, multiplier: str) -> None:
    assert read(x_faregate_multiplier=said).multiplier == Decimal(multiplier)


@pytest.mark.parametrize("said", ["", "0", "0.99", "-2", "10.1", "NaN", "Infinity", "1e9", "two", "1_0", "1" * 65])
def test_a_multiplier_that_cannot_be_meant_is_refused(said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(x_faregate_multiplier=said)
    assert caught.value.param == "x-faregate-multiplier"


def test_a_multiplier_over_the_keys_own_is_forbidden() -> None:
    with pytest.raises(PermissionDenied, match="over this key's 2"):
        read(x_faregate_multiplier="2.000001")


# Attribution --------------------------------------------------------------------------------------------


def test_attribution_is_gathered_from_headers_and_body() -> None:
    call = read(
        {"user": "u", "metadata": {"trace": "t"}},
        x_faregate_agent="planner",
        x_faregate_feature="search",
        x_faregate_tags="env=prod, team = core",
    )
    assert call.attribution == {
        "agent": "planner",
        "feature": "search",
        "tag.env": "prod",
        "tag.team": "core",
        "user": "u",
        "metadata.trace": "t",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-faregate-agent", "a" * 513),
        ("x-faregate-feature", "a" * 513),
        ("x-faregate-tags", "k=" + "v" * 513),
        ("x-faregate-tags", "k" * 65 + "=v"),
        ("x-faregate-tags", "novalue"),
        ("x-faregate-tags", "=v"),
        ("x-faregate-tags", " =v"),
        ("x-faregate-tags", "a=1,"),
        ("x-faregate-tags", ",".join(f"k{number}=v" for number in range(17))),
    ],
)
def test_a_label_out_of_bounds_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(None, "chat.completions", **{name.replace("-", "_"): value})
    assert caught.value.param == name


def test_labels_at_their_bounds_are_taken() -> None:
    tags = ",".join(f"{number:02}{'k' * 62}={'v' * 512}" for number in range(16))
    call = read(x_faregate_agent="a" * 512, x_faregate_tags=tags)
    assert len(call.attribution) == 17


def test_openais_own_fields_are_recorded_as_far_as_they_fit_and_never_refused() -> None:
    """They are the provider's to judge: a call must not fail for how it is booked."""
    metadata: dict[str, object] = {f"m{number:02}": "v" * 600 for number in range(20)}
    metadata |= {"m00": 7, "m01": None}
    call = read({"user": "u" * 600, "metadata": metadata})
    assert len(call.attribution["user"]) == 512
    assert {len(value) for value in call.attribution.values()} == {512}
    assert [name for name in call.attribution if name.startswith("metadata.")] == [
        f"metadata.m{number:02}" for number in range(2, 16)
    ]
    assert read({"user": 7, "metadata": "x"}).attribution == {}
    assert read({"metadata": {"k" * 65: "v"}}).attribution == {}


# Errors -------------------------------------------------------------------------------------------------


def body_of(error: FaregateError) -> dict[str, Any]:
    inner: dict[str, Any] = orjson.loads(error_body(error))["error"]
    return inner


def test_an_error_has_the_four_fields_openais_clients_read() -> None:
    assert body_of(InvalidRequest("no", param="model")) == {
        "message": "no",
        "type": "invalid_request_error",
        "param": "model",
        "code": "invalid_request",
    }


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.InvalidApiKey("x"), "authentication_error"),
        (errors.PermissionDenied("x"), "permission_error"),
        (errors.ModelNotFound("x"), "invalid_request_error"),
        (errors.RequestTooLarge("x"), "invalid_request_error"),
        (errors.Conflict("x"), "conflict_error"),
        (errors.UpstreamTimeout("x"), "server_error"),
        (errors.StoreUnavailable("x"), "server_error"),
        (LimitExceeded("x", 1), "rate_limit_error"),
        (InsufficientCredits(1, 0), "insufficient_credits"),
    ],
)
def test_the_type_follows_the_status(error: FaregateError, kind: str) -> None:
    assert body_of(error)["type"] == kind


def test_a_402_says_what_was_needed_and_what_there_is_exactly() -> None:
    raw = error_body(InsufficientCredits(1_500_000, -1))
    assert b'"needed_credits":1.5,"available_credits":-0.000001' in raw
    assert b'"needed_credits":9007199254.740993,' in error_body(InsufficientCredits(9007199254740993, 0))


def test_a_429_says_which_limit_and_when_to_come_back() -> None:
    error = LimitExceeded("tokens per day", 61)
    assert body_of(error)["limit"] == "tokens per day"
    assert error_headers(error) == {"content-type": "application/json", "retry-after": "61"}


def test_clients_are_told_not_to_repeat_a_402() -> None:
    assert error_headers(InsufficientCredits(1, 0))["x-should-retry"] == "false"
    assert error_headers(errors.StoreUnavailable("x")) == {"content-type": "application/json"}


def test_a_stream_that_fails_ends_with_an_event() -> None:
    event = OpenAIDialect().error_event(errors.UpstreamError("the provider stopped"))
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert orjson.loads(event[6:])["error"]["code"] == "upstream_error"


def test_a_defect_tells_a_stream_nothing_of_itself() -> None:
    event = OpenAIDialect().error_event(RuntimeError("sk-secret"))
    assert b"sk-secret" not in event
    assert orjson.loads(event[6:])["error"]["code"] == "internal_error"


# A provider's refusal -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "message", "code"),
    [
        ({"code": "Invalid argument", "error": "no such field"}, "no such field", "Invalid argument"),
        ([{"error": {"code": 404, "message": "no", "status": "NOT_FOUND"}}], "no", "NOT_FOUND"),
        ({"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED"}}, "slow", "RESOURCE_EXHAUSTED"),
        ({"type": "error", "error": {"type": "not_found_error", "message": "no"}}, "no", "not_found_error"),
        ({"message": "denied"}, "denied", None),
    ],
)
def test_refusals_of_other_wires_come_in_openais_shape(said: object, message: str, code: str | None) -> None:
    inner = orjson.loads(OpenAIDialect().refusal(404, orjson.dumps(said)))["error"]
    assert inner == {"message": message, "type": "invalid_request_error", "param": None, "code": code}


@pytest.mark.parametrize("error", [{"message": "m"}, {"message": "m", "type": "t", "param": None, "code": 400}])
def test_openais_own_refusals_pass_as_they_came(error: object) -> None:
    body = orjson.dumps({"error": error}, option=orjson.OPT_INDENT_2)
    assert OpenAIDialect().refusal(400, body) == body


@pytest.mark.parametrize(("body", "said"), [(b"", "the provider answered 418"), (b"<p>no</p>", "<p>no</p>")])
def test_a_refusal_that_is_no_json_is_quoted(body: bytes, said: str) -> None:
    assert orjson.loads(OpenAIDialect().refusal(418, body))["error"]["message"] == said
