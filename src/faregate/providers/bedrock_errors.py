"""AWS's errors in other words: the class decides, since its HTTP status does not say whose fault it is.

Classes and statuses: docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html (Errors) and
CommonErrors.html. In streams they come as exception frames, their names beginning in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

_KINDS: Mapping[str, tuple[int, str]] = {
    "validationexception": (400, "invalid_request_error"),
    "accessdeniedexception": (403, "permission_error"),
    "resourcenotfoundexception": (404, "not_found_error"),
    "throttlingexception": (429, "rate_limit_error"),
    "servicequotaexceededexception": (429, "rate_limit_error"),
    "internalserverexception": (500, "api_error"),
    "modelerrorexception": (502, "api_error"),
    "modelstreamerrorexception": (502, "api_error"),
    "modelnotreadyexception": (503, "overloaded_error"),
    "serviceunavailableexception": (503, "overloaded_error"),
    "modeltimeoutexception": (504, "timeout_error"),
}
"""Status and Anthropic's type, by class."""
_BY_STATUS: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
_OPENAI_TYPES: Mapping[str, str] = {"rate_limit_error": "rate_limit_error", "permission_error": "permission_error"}
_MOST = 2_000
_ACCOUNT = re.compile(rb"(arn:aws[a-z-]*:[a-z0-9-]*:[a-z0-9-]*:)\d{12}\b")
_ACCESS_KEY = re.compile(rb"\b(?:AKIA|ASIA|ABSK|bedrock-api-key-)[A-Za-z0-9+/=_-]{12,}")


@dataclass(frozen=True, slots=True)
class AwsError:
    """An error of AWS's: its class (may be empty), the status it amounts to, Anthropic's type for it, its words."""

    name: str
    status: int
    kind: str
    message: str

    def openai(self) -> dict[str, object]:
        """In OpenAI's shape."""
        kind = _OPENAI_TYPES.get(self.kind, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.name or None}}

    def anthropic(self, request_id: str | None = None) -> dict[str, object]:
        """In Anthropic's shape."""
        error = {"type": self.kind, "message": self.message}
        return {"type": "error", "error": error, **({"request_id": request_id} if request_id else {})}


def status_of(status: int, headers: Mapping[str, str]) -> int:
    """What an answer's status amounts to."""
    return status if status < 400 else _KINDS.get(_class(headers).lower(), (status, ""))[0]


def of_answer(status: int, headers: Mapping[str, str], body: bytes) -> AwsError:
    """The error of a plain answer."""
    name = _class(headers)
    known = _KINDS.get(name.lower())
    kind = known[1] if known else _BY_STATUS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return AwsError(name, known[0] if known else status, kind, _message(body) or f"Bedrock answered {status}")


def of_frame(name: str, payload: bytes) -> AwsError:
    """The error of an exception frame."""
    status, kind = _KINDS.get(name.lower(), (500, "api_error"))
    return AwsError(name[:1].upper() + name[1:], status, kind, _message(payload) or "Bedrock broke the stream off")


def redact(body: bytes) -> bytes:
    """Without account numbers and keys: AWS quotes the ARN that was asked for and who asked."""
    return _ACCESS_KEY.sub(b"[redacted]", _ACCOUNT.sub(rb"\1[redacted]", body))


def _class(headers: Mapping[str, str]) -> str:
    """`ValidationException:http://internal.amazon.com/…` is a ValidationException."""
    name = headers.get("x-amzn-errortype", "").partition(":")[0].rpartition("#")[2]
    return name if name.isalnum() and len(name) <= 64 else ""


def _message(body: bytes) -> str:
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = None
    text = (said.get("message") or said.get("Message")) if isinstance(said, dict) else None
    found = text if isinstance(text, str) else body.decode("utf-8", "replace") if said is None else ""
    return redact(found[:_MOST].strip().encode("utf-8", "replace")).decode("utf-8", "replace")
