"""Anthropic's dialect at the front door: messages as its own SDK sends them, errors as it reads them."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import orjson

from faregate.core.call import Call, Principal
from faregate.core.money import credits
from faregate.errors import FaregateError, InsufficientCredits, InvalidRequest, LimitExceeded
from faregate.gateway.common import (
    MOST_VALUE,
    attribution_of,
    error_headers,
    flag,
    model_of,
    multiplier_of,
    parse_object,
    refuse_encoding,
    wants_cost,
)
from faregate.meter.problems import read_error
from faregate.ports import Inbound

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Everything else is an `api_error`."""
_PASSED_ON = ("anthropic-version", "anthropic-beta")
_MOST_HEADER = 2048


class AnthropicDialect:
    """`ports.Dialect` for /v1/messages and /v1/messages/count_tokens."""

    def read(self, inbound: Inbound, principal: Principal, account_id: str, call_id: str) -> Call:
        headers = inbound.headers
        refuse_encoding(headers)
        body = parse_object(inbound.body)
        return Call(
            id=call_id,
            request_id=inbound.request_id,
            endpoint=inbound.endpoint,
            model=model_of(body),
            body=body,
            raw_body=inbound.body,
            stream=flag(body, "stream") and inbound.endpoint == "messages",
            wants_usage=True,
            wants_cost=wants_cost(headers),
            account_id=account_id,
            multiplier=multiplier_of(headers, principal),
            idempotency_key=headers.get("idempotency-key"),
            attribution=attribution_of(headers, {"user": _user(body)}),
            forward_headers={name: _bounded(name, headers[name]) for name in _PASSED_ON if name in headers},
            query={"beta": "true"} if b"beta=true" in inbound.query.split(b"&") else {},
        )

    def error(self, error: FaregateError) -> tuple[dict[str, str], bytes]:
        headers = error_headers(error)
        if error.request_id:
            headers["request-id"] = error.request_id
        return headers, error_body(error)

    def refusal(self, status: int, body: bytes) -> bytes:
        try:
            said = orjson.loads(body)
        except orjson.JSONDecodeError:
            said = None
        if isinstance(said, dict) and said.get("type") == "error" and isinstance(said.get("error"), dict):
            return body
        known = read_error(said, status)
        text = body[:MOST_VALUE].decode("utf-8", "replace").strip() or f"the provider answered {status}"
        message = (known.message if known else None) or text
        return orjson.dumps({"type": "error", "error": {"type": _TYPES.get(status, "api_error"), "message": message}})

    def error_event(self, error: Exception) -> bytes:
        known = error if isinstance(error, FaregateError) else FaregateError("the gateway failed")
        return b"event: error\ndata: " + error_body(known) + b"\n\n"


def error_body(error: FaregateError) -> bytes:
    """`{"type": "error", "error": {type, message, code}, "request_id"}`; 402 adds what was needed and what there is."""
    inner: dict[str, object] = {
        "type": _TYPES.get(error.status, "api_error"),
        "message": error.message,
        "code": error.code,
    }
    if error.param is not None:
        inner["param"] = error.param
    if isinstance(error, InsufficientCredits):
        inner["needed_credits"] = _number(credits(error.needed_microcredits))
        inner["available_credits"] = _number(credits(error.available_microcredits))
    elif isinstance(error, LimitExceeded):
        inner["limit"] = error.limit
    return orjson.dumps({"type": "error", "error": inner, "request_id": error.request_id})


def _user(body: Mapping[str, object]) -> object:
    """`metadata.user_id`."""
    metadata = body.get("metadata")
    return metadata.get("user_id") if isinstance(metadata, dict) else None


def _bounded(name: str, value: str) -> str:
    if len(value) > _MOST_HEADER or not (value.isascii() and value.isprintable()):
        raise InvalidRequest(f"{name} must be at most {_MOST_HEADER} printable ASCII characters", param=name)
    return value


def _number(value: Decimal) -> orjson.Fragment:
    return orjson.Fragment(f"{value:f}")
