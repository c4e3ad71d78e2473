"""Gemini's dialect at the front door: generateContent and its kin, as Google's own SDK sends them.

The model stands in the path; field names come in camelCase or, as in all of Google's JSON, in snake_case. A stream is
one JSON array, or server-sent events with `?alt=sse`: the only difference between the two dialects here. Errors are
google.rpc.Status.
"""

from __future__ import annotations

from typing import Any

import orjson

from faregate.core.call import Call, Principal
from faregate.core.money import credits
from faregate.errors import FaregateError, InsufficientCredits, LimitExceeded
from faregate.gateway.asgi import parameters
from faregate.gateway.common import (
    MOST_VALUE,
    attribution_of,
    error_headers,
    model_of,
    multiplier_of,
    parse_object,
    refuse_encoding,
    wants_cost,
)
from faregate.meter.problems import read_error
from faregate.ports import Inbound

PREFIXES = ("/v1beta/models/", "/v1/models/")
"""Both go to the provider's v1beta, which has all of v1; Google's SDK asks for v1 since its release 3."""
PLAIN = ":generateContent"
STREAM = ":streamGenerateContent"
OTHERS = {
    ":countTokens": "counttokens",
    ":embedContent": "embedcontent",
    ":batchEmbedContents": "batchembedcontents",
}
"""Methods without a stream, and their endpoints."""

_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TYPE = "type.googleapis.com/google.rpc."


def asks_for_events(query: bytes) -> bool:
    """Whether a stream is wanted as server-sent events: `alt=sse`."""
    return b"sse" in query and {"alt": "sse"}.items() <= parameters(query).items()


class GeminiDialect:
    """`ports.Dialect` for generateContent, in one of the forms its stream can have."""

    def __init__(self, *, stream: bool, events: bool = False) -> None:
        """`events`: a stream comes as server-sent events, not as one JSON array."""
        self._stream = stream
        self._events = events

    def read(self, inbound: Inbound, principal: Principal, account_id: str, call_id: str) -> Call:
        headers = inbound.headers
        refuse_encoding(headers)
        body = parse_object(inbound.body)
        return Call(
            id=call_id,
            request_id=inbound.request_id,
            endpoint=inbound.endpoint,
            model=_model(inbound.path),
            body=body,
            raw_body=inbound.body,
            stream=self._stream,
            wants_usage=True,
            wants_cost=wants_cost(headers),
            account_id=account_id,
            multiplier=multiplier_of(headers, principal),
            idempotency_key=headers.get("idempotency-key"),
            attribution=attribution_of(headers, {}),
            query={"alt": "sse"} if self._events else {},
        )

    def error(self, error: FaregateError) -> tuple[dict[str, str], bytes]:
        return error_headers(error), error_body(error)

    def refusal(self, status: int, body: bytes) -> bytes:
        try:
            said: object = orjson.loads(body)
        except orjson.JSONDecodeError:
            said = None
        if _is_googles(said):
            return body
        known = read_error(said, status)
        text = body[:MOST_VALUE].decode("utf-8", "replace").strip() or f"the provider answered {status}"
        return _rpc_status(status, (known.message if known else None) or text, [])

    def error_event(self, error: Exception) -> bytes:
        known = error if isinstance(error, FaregateError) else FaregateError("the gateway failed")
        said = error_body(known)
        return b"data: " + said + b"\n\n" if self._events else b",\n" + said + b"]"


def error_body(error: FaregateError) -> bytes:
    """google.rpc.Status, with ErrorInfo (our code), and what the error knows beside it."""
    info: dict[str, str] = {}
    if isinstance(error, InsufficientCredits):
        info["needed_credits"] = f"{credits(error.needed_microcredits):f}"
        info["available_credits"] = f"{credits(error.available_microcredits):f}"
    elif isinstance(error, LimitExceeded):
        info["limit"] = error.limit
    details: list[dict[str, Any]] = [
        {"@type": _TYPE + "ErrorInfo", "reason": error.code.upper(), "domain": "faregate", "metadata": info}
    ]
    if error.param is not None:
        violation = {"field": error.param, "description": error.message}
        details.append({"@type": _TYPE + "BadRequest", "fieldViolations": [violation]})
    if error.retry_after_s is not None:
        details.append({"@type": _TYPE + "RetryInfo", "retryDelay": f"{error.retry_after_s}s"})
    return _rpc_status(error.status, error.message, details)


def _rpc_status(status: int, message: str, details: list[dict[str, Any]]) -> bytes:
    word = _STATUS.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")
    error: dict[str, Any] = {"code": status, "message": message, "status": word}
    return orjson.dumps({"error": {**error, "details": details} if details else error})


def _is_googles(said: object) -> bool:
    """A Status, or the array of one that a stream's error comes in."""
    first = said[0] if isinstance(said, list) and said else said
    error = first.get("error") if isinstance(first, dict) else None
    return isinstance(error, dict) and "status" in error


def _model(path: str) -> str:
    """The model that the path names; it may hold slashes. Raises InvalidRequest."""
    name = path.partition("/models/")[2].rpartition(":")[0]
    return model_of({"model": name})
