"""OpenAI's dialect at the front door: how its requests are read and how errors are said in it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson

from faregate.core.call import Call, Principal
from faregate.core.money import credits, parse_decimal
from faregate.errors import FaregateError, InsufficientCredits, InvalidRequest, LimitExceeded, PermissionDenied
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
_PASSED_ON = ("openai-beta", "idempotency-key", "x-client-request-id")
_MOST_TAGS = 16
_MOST_NAME = 64
_MOST_VALUE = 512


class OpenAIDialect:
    """`ports.Dialect` for OpenAI's JSON endpoints."""

    def read(self, inbound: Inbound, principal: Principal, account_id: str, call_id: str) -> Call:
        headers = inbound.headers
        if (encoding := headers.get("content-encoding", "identity")) != "identity":
            raise InvalidRequest(f"content-encoding {encoding[:32]} is not supported: send the body as it is")
        body = parse_object(inbound.body)
        stream = _flag(body, "stream")
        return Call(
            id=call_id,
            request_id=inbound.request_id,
            endpoint=inbound.endpoint,
            model=_model(body),
            body=body,
            raw_body=inbound.body,
            stream=stream and inbound.endpoint != "embeddings",
            wants_usage=_wants_usage(body),
            wants_cost=headers.get("x-faregate-include-cost", "").lower() == "true",
            account_id=account_id,
            multiplier=_multiplier(headers, principal),
            idempotency_key=headers.get("idempotency-key"),
            attribution=_attribution(headers, body),
            forward_headers={name: headers[name] for name in _PASSED_ON if name in headers},
        )

    def refusal(self, status: int, body: bytes) -> bytes:
        try:
            said = orjson.loads(body)
        except orjson.JSONDecodeError:
            said = None
        if isinstance(said, dict) and "error" in said:
            return body
        text = body[:_MOST_VALUE].decode("utf-8", "replace").strip() or f"the provider answered {status}"
        kind = _TYPES.get(status, "invalid_request_error")
        return orjson.dumps({"error": {"message": text, "type": kind, "param": None, "code": None}})

    def error_event(self, error: Exception) -> bytes:
        known = error if isinstance(error, FaregateError) else FaregateError("the gateway failed")
        return b"data: " + error_body(known) + b"\n\n"


def parse_object(raw: bytes) -> dict[str, Any]:
    """The body as a JSON object. Raises InvalidRequest."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    return body


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


def error_headers(error: FaregateError) -> dict[str, str]:
    """What an error says beside its body: clients must not hammer a 402, and come back when told."""
    headers = {"content-type": "application/json"}
    hopeless = isinstance(error, LimitExceeded) and error.hopeless
    if isinstance(error, InsufficientCredits) or hopeless:
        headers["x-should-retry"] = "false"
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    return headers


def _number(value: Decimal) -> orjson.Fragment:
    return orjson.Fragment(f"{value:f}")


def _model(body: Mapping[str, object]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= 256 or not model.isprintable():
        raise InvalidRequest("model must be a string of 1 to 256 printable characters", param="model")
    return model


def _flag(body: Mapping[str, object], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false", param=name)
    return bool(value)


def _wants_usage(body: Mapping[str, object]) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise InvalidRequest("stream_options must be an object", param="stream_options")
    return _flag(options, "include_usage")


def _multiplier(headers: Mapping[str, str], principal: Principal) -> Decimal:
    text = headers.get("x-faregate-multiplier")
    if text is None:
        return Decimal(1)
    value = parse_decimal(text, "x-faregate-multiplier")
    if not 1 <= value <= 10:
        raise InvalidRequest("x-faregate-multiplier must be from 1 to 10", param="x-faregate-multiplier")
    if value > principal.max_multiplier:
        raise PermissionDenied(
            f"x-faregate-multiplier is over this key's {principal.max_multiplier:f}", param="x-faregate-multiplier"
        )
    return value


def _attribution(headers: Mapping[str, str], body: Mapping[str, object]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("agent", "feature"):
        if value := headers.get(f"x-faregate-{name}"):
            found[name] = _bounded(value, f"x-faregate-{name}")
    for name, value in _tags(headers.get("x-faregate-tags", "")):
        found[f"tag.{name}"] = value
    user = body.get("user")
    if isinstance(user, str) and user:
        found["user"] = _clean(user)
    metadata = body.get("metadata")
    if isinstance(metadata, dict):
        for name, value in list(metadata.items())[:_MOST_TAGS]:
            if isinstance(value, str) and len(name) <= _MOST_NAME:
                found[f"metadata.{_clean(name)}"] = _clean(value)
    return found


def _clean(text: str) -> str:
    """What a client wrote for itself is kept, as far as a database can hold it."""
    return text[:_MOST_VALUE].replace("\x00", "")


def _tags(text: str) -> list[tuple[str, str]]:
    if not text:
        return []
    tags = []
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or not name.strip() or len(name) > _MOST_NAME:
            raise InvalidRequest("x-faregate-tags must read k=v,k=v", param="x-faregate-tags")
        tags.append((name.strip(), _bounded(value.strip(), "x-faregate-tags")))
    if len(tags) > _MOST_TAGS:
        raise InvalidRequest(f"x-faregate-tags takes at most {_MOST_TAGS} tags", param="x-faregate-tags")
    return tags


def _bounded(value: str, param: str) -> str:
    if len(value) > _MOST_VALUE:
        raise InvalidRequest(f"{param} is longer than {_MOST_VALUE} characters", param=param)
    return value
