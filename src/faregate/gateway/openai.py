"""OpenAI's dialect at the front door: how its requests are read and how errors are said in it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import orjson

from faregate.core.call import Call, Form, Principal
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
    402: "insufficient_credits",
    403: "permission_error",
    404: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
_NEVER_STREAMS = frozenset({"embeddings", "moderations"})
_PASSED_ON = ("openai-beta", "idempotency-key", "x-client-request-id")


class OpenAIDialect:
    """`ports.Dialect` for OpenAI's JSON endpoints."""

    def read(self, inbound: Inbound, principal: Principal, account_id: str, call_id: str) -> Call:
        refuse_encoding(inbound.headers)
        return self.call(inbound, principal, account_id, call_id, parse_object(inbound.body))

    def call(
        self,
        inbound: Inbound,
        principal: Principal,
        account_id: str,
        call_id: str,
        body: Mapping[str, object],
        *,
        stream: bool | None = None,
        content_type: str = "application/json",
        form: Form | None = None,
    ) -> Call:
        """The call that a body asks for; `stream` None: as its own field says. Raises InvalidRequest."""
        headers = inbound.headers
        if stream is None:
            stream = flag(body, "stream") and inbound.endpoint not in _NEVER_STREAMS
        return Call(
            id=call_id,
            request_id=inbound.request_id,
            endpoint=inbound.endpoint,
            model=model_of(body),
            body=body,
            raw_body=inbound.body,
            stream=stream,
            wants_usage=_wants_usage(body),
            wants_cost=wants_cost(headers),
            account_id=account_id,
            multiplier=multiplier_of(headers, principal),
            idempotency_key=headers.get("idempotency-key"),
            attribution=attribution_of(headers, body),
            forward_headers={name: headers[name] for name in _PASSED_ON if name in headers},
            content_type=content_type,
            form=form,
        )

    def error(self, error: FaregateError) -> tuple[dict[str, str], bytes]:
        return error_headers(error), error_body(error)

    def refusal(self, status: int, body: bytes) -> bytes:
        try:
            said = orjson.loads(body)
        except orjson.JSONDecodeError:
            said = None
        if _is_openais(said):
            return body
        known = read_error(said, status)
        text = body[:MOST_VALUE].decode("utf-8", "replace").strip() or f"the provider answered {status}"
        message, code = (known.message, known.code) if known else (None, None)
        kind = _TYPES.get(status, "invalid_request_error")
        return orjson.dumps({"error": {"message": message or text, "type": kind, "param": None, "code": code}})

    def error_event(self, error: Exception) -> bytes:
        known = error if isinstance(error, FaregateError) else FaregateError("the gateway failed")
        return b"data: " + error_body(known) + b"\n\n"


def _is_openais(said: object) -> bool:
    """`error` is an object without what Google (a status word) and Anthropic (a type around it) put there."""
    error = said.get("error") if isinstance(said, dict) else None
    return (
        isinstance(said, dict)
        and isinstance(error, dict)
        and not isinstance(error.get("status"), str)
        and said.get("type") != "error"
    )


def _wants_usage(body: Mapping[str, object]) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise InvalidRequest("stream_options must be an object", param="stream_options")
    return flag(options, "include_usage")


def error_body(error: FaregateError) -> bytes:
    """`{"error": {message, type, param, code}}`; 402 adds what was needed and what there is."""
    inner: dict[str, object] = {
        "message": error.message,
        "type": _TYPES.get(error.status, "server_error"),
        "param": error.param,
        "code": error.code,
    }
    if isinstance(error, InsufficientCredits):
        inner["needed_credits"] = _number(credits(error.needed_microcredits))
        inner["available_credits"] = _number(credits(error.available_microcredits))
    elif isinstance(error, LimitExceeded):
        inner["limit"] = error.limit
    return orjson.dumps({"error": inner})


def _number(value: Decimal) -> orjson.Fragment:
    return orjson.Fragment(f"{value:f}")
