"""Errors in all their shapes."""

from __future__ import annotations

from typing import Any

import pytest

from faregate.core.usage import ProviderError
from faregate.meter.problems import event_error, is_retryable, read_error


@pytest.mark.parametrize(
    ("body", "status", "headers", "code"),
    [
        ({"error": {"message": "m", "type": "t", "code": "c"}}, 400, {}, "c"),
        ({"error": {"message": "m", "type": "t", "code": None}}, 400, {}, None),
        ({"error": {"code": "429", "message": "m"}}, 429, {}, "429"),
        ({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}, 429, {}, "RESOURCE_EXHAUSTED"),
        ([{"error": {"code": 400, "status": "INVALID_ARGUMENT"}}], 400, {}, "INVALID_ARGUMENT"),
        ({"type": "error", "error": {"type": "overloaded_error"}}, 529, {}, "overloaded_error"),
        ({"code": "A sentence", "error": "text"}, 400, {}, "A sentence"),
        ({"message": "m"}, 429, {"x-amzn-errortype": "ThrottlingException:http://x/"}, "ThrottlingException"),
        ({"__type": "com.amazon#ValidationException"}, 400, {}, "ValidationException"),
        ("<html>", 502, {}, None),
    ],
)
def test_codes(body: Any, status: int, headers: dict[str, str], code: object) -> None:
    error = read_error(body, status, headers)
    assert error is not None
    assert (error.status, error.code) == (status, code)


def test_no_error() -> None:
    assert read_error({"error": None, "message": "hello"}) is None


def test_bare_event() -> None:
    assert event_error({"type": "error", "code": "rate_limit_exceeded", "message": "x"}).code == "rate_limit_exceeded"


@pytest.mark.parametrize(
    ("error", "body", "expect"),
    [
        (ProviderError(status=529, code="overloaded_error"), {}, True),
        (ProviderError(status=429, code="insufficient_quota"), {}, False),
        (
            ProviderError(status=429, code="rate_limit_error"),
            {"error": {"details": {"error_code": "enforced_spend_limit_reached"}}},
            False,
        ),
        (ProviderError(status=402), {}, False),
        (ProviderError(code="throttlingException"), {}, True),
        (ProviderError(code="validationException"), {}, False),
        (ProviderError(code=502), {}, True),
        (ProviderError(type="overloaded_error"), {}, True),
    ],
)
def test_retryable(error: ProviderError, body: dict[str, Any], expect: bool) -> None:
    assert is_retryable(error, body) is expect
