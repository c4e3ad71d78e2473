"""Anthropic's dialect: what is read of a request, and how errors are said."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest

from faregate import errors
from faregate.core.call import Call, Principal
from faregate.gateway.anthropic import AnthropicDialect
from faregate.ports import Inbound

PRINCIPAL = Principal(
    key_id="k",
    rev=1,
    organization_id="org_1",
    account_id=None,
    default_account_id="acc_1",
    scopes=frozenset({"proxy"}),
    max_multiplier=Decimal(10),
)
BODY = {"model": "m", "max_tokens": 5, "messages": []}


def read(
    body: object = None, *, endpoint: str = "messages", query: bytes = b"", headers: dict[str, str] | None = None
) -> Call:
    inbound = Inbound(
        endpoint=endpoint,
        secret="s",
        headers=headers or {},
        body=body if isinstance(body, bytes) else orjson.dumps({**BODY, **(body if isinstance(body, dict) else {})}),
        request_id="req_1",
        query=query,
    )
    return AnthropicDialect().read(inbound, PRINCIPAL, "acc_1", "call_1")


def refused(**options: Any) -> errors.InvalidRequest:
    with pytest.raises(errors.InvalidRequest) as caught:
        read(**options)
    return caught.value


def test_a_request_is_read() -> None:
    call = read({"stream": True}, headers={"x-faregate-multiplier": "2", "idempotency-key": "i"})
    assert (call.model, call.stream, call.multiplier, call.idempotency_key) == ("m", True, Decimal(2), "i")
    assert (call.account_id, call.endpoint, call.request_id) == ("acc_1", "messages", "req_1")


def test_counting_is_never_a_stream() -> None:
    assert read({"stream": True}, endpoint="messages.count_tokens").stream is False


@pytest.mark.parametrize(
    ("metadata", "user"),
    [({"user_id": "u\x00" + "x" * 600}, "u" + "x" * 510), ({"user_id": 7}, None), ("u", None), (None, None)],
)
def test_the_users_id_is_recorded(metadata: object, user: str | None) -> None:
    assert read({"metadata": metadata}).attribution.get("user") == user


def test_only_its_own_headers_go_on() -> None:
    sent = {
        "anthropic-beta": "a,b",
        "anthropic-version": "2023-06-01",
        "cookie": "c",
        "x-api-key": "k",
        "openai-beta": "o",
    }
    assert read(headers=sent).forward_headers == {"anthropic-beta": "a,b", "anthropic-version": "2023-06-01"}


@pytest.mark.parametrize("value", ["x" * 2049, "ä", "a\x07"])
def test_headers_that_cannot_be_meant_are_named(value: str) -> None:
    assert refused(headers={"anthropic-beta": value}).param == "anthropic-beta"


@pytest.mark.parametrize(
    ("query", "found"), [(b"beta=true", {"beta": "true"}), (b"a=1&beta=true", {"beta": "true"}), (b"beta=x", {})]
)
def test_of_the_query_only_the_beta_flag_goes_on(query: bytes, found: dict[str, str]) -> None:
    assert read(query=query).query == found


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b'{"model": NaN}', b'{"model": 3}', b'{"model":"m","stream":"yes"}']
)
def test_bodies_that_cannot_be_meant_are_refused(body: bytes) -> None:
    assert refused(body=body).status == 400


def test_compressed_bodies_are_refused() -> None:
    assert "content-encoding" in refused(headers={"content-encoding": "gzip"}).message


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.InvalidRequest("x"), "invalid_request_error"),
        (errors.InvalidApiKey("x"), "authentication_error"),
        (errors.InsufficientCredits(2, 1), "billing_error"),
        (errors.PermissionDenied("x"), "permission_error"),
        (errors.ModelNotFound("x"), "not_found_error"),
        (errors.RequestTooLarge("x"), "request_too_large"),
        (errors.LimitExceeded("requests per minute", 7), "rate_limit_error"),
        (errors.StoreUnavailable("x"), "overloaded_error"),
        (errors.UpstreamError("x"), "api_error"),
        (errors.UpstreamTimeout("x"), "timeout_error"),
        (errors.FaregateError("x"), "api_error"),
    ],
)
def test_each_error_has_its_type(error: errors.FaregateError, kind: str) -> None:
    error.request_id = "req_9"
    headers, body = AnthropicDialect().error(error)
    said = orjson.loads(body)
    assert (said["type"], said["error"]["type"], said["request_id"]) == ("error", kind, "req_9")
    assert (said["error"]["code"], headers["request-id"]) == (error.code, "req_9")


def test_no_credit_says_how_much_is_missing() -> None:
    headers, body = AnthropicDialect().error(errors.InsufficientCredits(2_500_000, 1_000_001))
    assert headers["x-should-retry"] == "false"
    assert b'"needed_credits":2.5,"available_credits":1.000001' in body


def test_a_limit_is_named_and_has_its_wait() -> None:
    headers, body = AnthropicDialect().error(errors.LimitExceeded("requests per minute", 7))
    assert (headers["retry-after"], orjson.loads(body)["error"]["limit"]) == ("7", "requests per minute")


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"error","error":{"type":"overloaded_error","message":"m"}}',
        b' { "type": "error", "error" : {"message":"\xe2\x80\xa8"} }\n',
    ],
)
def test_a_refusal_in_its_own_words_passes(body: bytes) -> None:
    assert AnthropicDialect().refusal(400, body) == body


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"busy","code":"x"}}', "busy"),
        (b"<html>no", "<html>no"),
        (b"", "the provider answered 404"),
        (b"[1]", "[1]"),
    ],
)
def test_other_refusals_get_its_shape(body: bytes, message: str) -> None:
    said = orjson.loads(AnthropicDialect().refusal(404, body))
    assert said == {"type": "error", "error": {"type": "not_found_error", "message": message}}


def test_a_stream_ends_with_an_event_and_no_secrets() -> None:
    event = AnthropicDialect().error_event(RuntimeError("sk-secret"))
    assert event.startswith(b'event: error\ndata: {"type":"error","error":{"type":"api_error"')
    assert event.endswith(b"\n\n")
    assert b"sk-secret" not in event
