"""Errors as providers tell them: seven shapes, one ProviderError."""

from __future__ import annotations

from collections.abc import Mapping

from faregate.core.usage import ProviderError
from faregate.meter.values import child, first_object, text

_TRANSIENT_STATUS = {408, 409, 424, 425, 429, 500, 502, 503, 504, 529}
_PERMANENT_CODES = {"insufficient_quota", "enforced_spend_limit_reached", "billing_hard_limit_reached"}
_TRANSIENT_WORDS = (
    "overloaded",
    "throttl",
    "rate_limit",
    "unavailable",
    "server_error",
    "api_error",
    "internal",
    "timeout",
)
_TRANSIENT_CODES = {"resource_exhausted", "modelstreamerrorexception", "modelnotreadyexception", "aborted"}


def read_error(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> ProviderError | None:
    """The error in a body or a stream event, None if there is none.

    `code` is error.code, else Google's status name, Anthropic's type, AWS's class.
    """
    body = first_object(value) or {}
    error = body.get("error")
    failed = status >= 400
    if isinstance(error, dict) and error:
        return _from_object(body, error, status if failed else None)
    if isinstance(error, str) and error:  # xAI: {"code": "<sentence>", "error": "<string>"}; Ollama: {"error": ...}
        return ProviderError(status=status if failed else None, code=_code(body.get("code")), message=error)
    return _from_status(body, status, headers or {}) if failed else None


def _from_object(body: Mapping[str, object], error: Mapping[str, object], status: int | None) -> ProviderError:
    kind = text(error.get("type"))
    code = text(error.get("status")) or _code(error.get("code"))
    if code is None and body.get("type") == "error":
        code = kind
    return ProviderError(status=status, type=kind, code=code, message=text(error.get("message")))


def _from_status(body: Mapping[str, object], status: int, headers: Mapping[str, str]) -> ProviderError:
    aws = headers.get("x-amzn-errortype") or text(body.get("__type")) or ""
    code = aws.partition(":")[0].rpartition("#")[2] or _code(body.get("code"))
    message = text(body.get("message")) or text(body.get("Message")) or text(body.get("detail"))
    return ProviderError(status=status, type=text(body.get("type")), code=code, message=message)


def event_error(body: Mapping[str, object]) -> ProviderError:
    """A bare error event whose fields stand at the top level (OpenAI responses: code, message, param)."""
    nested = read_error(body)
    if nested is not None:
        return nested
    kind = text(body.get("type"))
    return ProviderError(
        type=None if kind == "error" else kind, code=_code(body.get("code")), message=text(body.get("message"))
    )


def _code(value: object) -> str | int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return text(value)


def is_retryable(error: ProviderError, body: Mapping[str, object]) -> bool:
    """Whether the same call may succeed soon: not after a spend limit, an empty wallet or a bad request."""
    detail = text(child(body, "error", "details").get("error_code"))
    words = {str(word).lower() for word in (error.code, error.type, detail) if word is not None}
    if words & _PERMANENT_CODES:
        return False
    if error.status is not None:
        return error.status in _TRANSIENT_STATUS
    if isinstance(error.code, int):
        return error.code in _TRANSIENT_STATUS
    return bool(words & _TRANSIENT_CODES) or any(mark in word for word in words for mark in _TRANSIENT_WORDS)
