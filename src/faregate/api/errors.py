"""How the control plane says an error: `{"success": false, "error": {"code", "message", "param"?}}`."""

from __future__ import annotations

from typing import ClassVar

from faregate.api.http import Reply
from faregate.errors import FaregateError, InsufficientCredits, InvalidApiKey, RequestTooLarge


class MethodNotAllowed(FaregateError):
    """The path exists, but not for this method."""

    status: ClassVar[int] = 405
    code: ClassVar[str] = "method_not_allowed"


def error_reply(error: FaregateError) -> Reply:
    """The error as a reply, with the headers that belong to it."""
    inner: dict[str, object] = {"code": error.code, "message": error.message}
    if error.param is not None:
        inner["param"] = error.param
    return Reply(body={"success": False, "error": inner}, status=error.status, headers=_headers(error))


def _headers(error: FaregateError) -> dict[str, str]:
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if isinstance(error, InvalidApiKey):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, InsufficientCredits):
        headers["x-should-retry"] = "false"
    if isinstance(error, RequestTooLarge):
        headers["connection"] = "close"
    return headers
