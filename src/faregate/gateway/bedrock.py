"""Bedrock's dialect at the front door: its runtime's operations, as boto3 sends them with a bearer key of ours.

The model stands in the path, percent-encoded. Errors are AWS's: the class in a header, a message in the body; inside
an event stream an exception frame.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from faregate.core.call import Call, Principal
from faregate.core.money import credits
from faregate.errors import FaregateError, InsufficientCredits, InvalidRequest, LimitExceeded
from faregate.gateway.common import (
    MOST_VALUE,
    attribution_of,
    error_headers,
    model_of,
    multiplier_of,
    parse_object,
    refuse_encoding,
)
from faregate.meter.aws import encode_frame
from faregate.ports import Inbound

PREFIX = "/model/"
OPERATIONS: Mapping[str, tuple[str, bool]] = {
    "converse": ("converse", False),
    "converse-stream": ("converse", True),
    "invoke": ("invoke", False),
    "invoke-with-response-stream": ("invoke", True),
}
"""Endpoint, and whether it streams, by the end of the path."""

_CLASSES: Mapping[int, str] = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    402: "ServiceQuotaExceededException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    405: "ValidationException",
    409: "ConflictException",
    413: "ValidationException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
    504: "ModelTimeoutException",
}
"""Everything else is an InternalServerException."""
_PASSED_ON = (
    "accept",
    "x-amzn-bedrock-accept",
    "x-amzn-bedrock-guardrailidentifier",
    "x-amzn-bedrock-guardrailversion",
    "x-amzn-bedrock-performanceconfig-latency",
    "x-amzn-bedrock-service-tier",
    "x-amzn-bedrock-trace",
)
_MOST_HEADER = 2048


class BedrockDialect:
    """`ports.Dialect` for one operation."""

    def __init__(self, operation: str, *, stream: bool) -> None:
        self._suffix = f"/{operation}"
        self._stream = stream

    def read(self, inbound: Inbound, principal: Principal, account_id: str, call_id: str) -> Call:
        headers = inbound.headers
        refuse_encoding(headers)
        body = parse_object(inbound.body)
        model = inbound.path.removeprefix(PREFIX).removesuffix(self._suffix)
        return Call(
            id=call_id,
            request_id=inbound.request_id,
            endpoint=inbound.endpoint,
            model=model_of({"model": model}),
            body=body,
            raw_body=inbound.body,
            stream=self._stream,
            wants_usage=True,
            account_id=account_id,
            multiplier=multiplier_of(headers, principal),
            attribution=attribution_of(headers, {"metadata": body.get("requestMetadata")}),
            forward_headers={name: _bounded(name, headers[name]) for name in _PASSED_ON if name in headers},
        )

    def error(self, error: FaregateError) -> tuple[dict[str, str], bytes]:
        headers = error_headers(error)
        headers["x-amzn-errortype"] = _class_of(error)
        if error.request_id:
            headers["x-amzn-requestid"] = error.request_id
        return headers, error_body(error)

    def refusal(self, status: int, body: bytes) -> bytes:
        try:
            said = orjson.loads(body)
        except orjson.JSONDecodeError:
            said = None
        if isinstance(said, dict) and ("message" in said or "Message" in said):
            return body
        text = body[:MOST_VALUE].decode("utf-8", "replace").strip() or f"the provider answered {status}"
        return orjson.dumps({"message": text})

    def error_event(self, error: Exception) -> bytes:
        known = error if isinstance(error, FaregateError) else FaregateError("the gateway failed")
        name = "modelStreamErrorException" if known.status == 502 else _class_of(known)
        headers = {
            ":exception-type": name[:1].lower() + name[1:],
            ":content-type": "application/json",
            ":message-type": "exception",
        }
        return encode_frame(headers, error_body(known))


def error_body(error: FaregateError) -> bytes:
    """`{"message", "code", "param"?}`; 402 adds what was needed and what there is."""
    said: dict[str, object] = {"message": error.message, "code": error.code}
    if error.param is not None:
        said["param"] = error.param
    if isinstance(error, InsufficientCredits):
        said["needed_credits"] = orjson.Fragment(f"{credits(error.needed_microcredits):f}")
        said["available_credits"] = orjson.Fragment(f"{credits(error.available_microcredits):f}")
    elif isinstance(error, LimitExceeded):
        said["limit"] = error.limit
    return orjson.dumps(said)


def _class_of(error: FaregateError) -> str:
    """SDKs try a throttled call again by themselves, so a hopeless one is not called so."""
    if isinstance(error, LimitExceeded) and error.hopeless:
        return "ServiceQuotaExceededException"
    return _CLASSES.get(error.status, "InternalServerException")


def _bounded(name: str, value: str) -> str:
    if len(value) > _MOST_HEADER or not (value.isascii() and value.isprintable()):
        raise InvalidRequest(f"{name} must be at most {_MOST_HEADER} printable ASCII characters", param=name)
    return value
