from __future__ import annotations

import pytest

from faregate.providers.bedrock_errors import of_answer, of_frame, redact, status_of


@pytest.mark.parametrize(
    ("status", "kind", "amounts_to"),
    [
        (200, "", 200),
        (400, "ValidationException:http://x", 400),
        (400, "com.amazon#ServiceQuotaExceededException", 429),
        (400, "ThrottlingException", 429),
        (424, "ModelErrorException", 502),
        (418, "TeapotException", 418),
        (500, "", 500),
    ],
)
def test_the_class_decides_the_status(status: int, kind: str, amounts_to: int) -> None:
    assert status_of(status, {"x-amzn-errortype": kind}) == amounts_to


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"message": "a"}', "a"),
        (b'{"Message": "b"}', "b"),
        (b"<html>", "<html>"),
        (b"", "Bedrock answered 400"),
        (b"[1]", "Bedrock answered 400"),
        (b'{"message": 1}', "Bedrock answered 400"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"x" * 9_000, "x" * 2_000),
    ],
)
def test_the_message(body: bytes, said: str) -> None:
    assert of_answer(400, {}, body).message == said


def test_in_openais_and_in_anthropics_shape() -> None:
    error = of_frame("throttlingException", b'{"message": "slow"}')
    assert error.openai() == {
        "error": {"message": "slow", "type": "rate_limit_error", "param": None, "code": "ThrottlingException"}
    }
    assert error.anthropic() == {"type": "error", "error": {"type": "rate_limit_error", "message": "slow"}}


def test_account_numbers_and_keys_are_not_shown() -> None:
    text = b"arn:aws:iam::123456789012:user/x used AKIAIOSFODNN7EXAMPLE and ABSKQmVkcm9ja0FQSUtleS0xMjM="
    assert redact(text) == b"arn:aws:iam::[redacted]:user/x used [redacted] and [redacted]"
