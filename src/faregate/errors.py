"""Every error a caller or an operator can meet, on one page: status, code, whose fault, worth a retry.

A FaregateError is *raised* anywhere and *rendered* in one place per dialect (gateway/errors.py, api/errors.py).
Messages are safe to show: no key, header or provider URL is ever put into one.
"""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar


class FaregateError(Exception):
    """Base of all of them. `message` is for people, `code` for programs, `param` names the field at fault."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.request_id: str | None = None
        """Whose request it ended: known where it is reported."""


class ConfigError(FaregateError):
    """The operator's configuration is wrong; the message names file, line and what is allowed."""

    code = "config_error"


# The caller's fault -------------------------------------------------------------------------------------


class InvalidRequest(FaregateError):
    """A body, field or header that cannot be meant."""

    status = 400
    code = "invalid_request"


class ModelNotPriced(InvalidRequest):
    """No price card covers the model, and the operator has not said it is free."""

    code = "model_not_priced"


class InvalidApiKey(FaregateError):
    """Missing, unknown, revoked or expired: which of them is not told."""

    status = 401
    code = "invalid_api_key"


class InsufficientCredits(FaregateError):
    """The smallest useful hold does not fit into what the account has left."""

    status = 402
    code = "insufficient_credits"

    def __init__(self, needed_microcredits: int, available_microcredits: int) -> None:
        needed, available = Decimal(needed_microcredits) / 1_000_000, Decimal(available_microcredits) / 1_000_000
        super().__init__(f"insufficient credits: {needed.normalize():f} needed, {available.normalize():f} available")
        self.needed_microcredits = needed_microcredits
        self.available_microcredits = available_microcredits


class PermissionDenied(FaregateError):
    """The key is good, but not for this scope, model or account."""

    status = 403
    code = "permission_denied"


class NotFound(FaregateError):
    """No such thing, or not the caller's."""

    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    """No configured provider serves a model of this name."""

    code = "model_not_found"


class UnknownService(NotFound):
    """No service of this name tells of the organization's usage."""

    code = "unknown_service"


class UnknownModel(NotFound):
    """The model has no price."""

    code = "unknown_model"


class UnknownOrganization(NotFound):
    """No such organization, or not the caller's."""

    code = "unknown_organization"


class UnknownUser(NotFound):
    """No such user, or not the organization's."""

    code = "unknown_user"


class Conflict(FaregateError):
    """The state the request asks for contradicts the state there is."""

    status = 409
    code = "conflict"


class ReservationExpired(Conflict):
    """A reservation that was confirmed, cancelled or swept before cannot be confirmed now."""

    code = "reservation_expired"


class InProgress(Conflict):
    """An earlier request of the same key has not ended yet."""

    code = "in_progress"


class IdempotencyMismatch(Conflict):
    """The same idempotency key came with another body."""

    code = "idempotency_mismatch"


class MethodNotAllowed(FaregateError):
    """The path exists, for another method."""

    status = 405
    code = "method_not_allowed"


class RequestTooLarge(FaregateError):
    """The body is over `server.max_body_bytes`."""

    status = 413
    code = "request_too_large"


class LimitExceeded(FaregateError):
    """A limit of the key is used up; `retry_after_s` says when its window ends (None: never)."""

    status = 429
    code = "limit_exceeded"

    def __init__(self, limit: str, retry_after_s: int | None, *, hopeless: bool = False) -> None:
        super().__init__(f"limit exceeded: {limit}", retry_after_s=retry_after_s)
        self.limit = limit
        self.hopeless = hopeless
        """Waiting will not help: this call needs more than the limit allows at all."""


# The provider's fault -----------------------------------------------------------------------------------


class UpstreamError(FaregateError):
    """The provider failed, after retries and fallbacks."""

    status = 502
    code = "upstream_error"
    retryable = True


class UpstreamTimeout(UpstreamError):
    """The provider did not connect, answer or go on in time."""

    status = 504
    code = "upstream_timeout"


# Our own side -------------------------------------------------------------------------------------------


class StoreUnavailable(FaregateError):
    """Redis, or what else a hold needs, is out of reach: nothing was forwarded."""

    status = 503
    code = "store_unavailable"
    retryable = True


class StoreUnreached(StoreUnavailable):
    """The same, and the request never left: nothing can have been applied."""


class BookUnavailable(StoreUnavailable):
    """SQL is out of reach: what is journaled waits, what needs the book now is refused."""


class BookRefused(BookUnavailable):
    """The book will not take this one record, however often it is tried: it is parked, and blocks nobody."""

    code = "book_refused"
    retryable = False


class JournalUnavailable(StoreUnavailable):
    """The journal cannot be written (disk full, or over its bound)."""
