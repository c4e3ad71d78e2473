from __future__ import annotations

from typing import Any

import orjson
import pytest

from faregate.core.call import Call
from faregate.errors import FaregateError, InsufficientCredits, InvalidRequest, LimitExceeded, UpstreamError
from faregate.gateway.bedrock import BedrockDialect
from faregate.gateway.doors import PATTERNS
from faregate.meter.aws import decode_frame
from faregate.ports import Inbound
from tests.gateway.test_openai import WHO

DIALECT = BedrockDialect("converse", stream=False)


def read(path: str = "/model/m/converse", body: bytes = b"{}", **headers: str) -> Call:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    inbound = Inbound(endpoint="converse", secret="s", headers=named, body=body, request_id="r", path=path)
    return DIALECT.read(inbound, WHO, "acc", "call_1")


@pytest.mark.parametrize("name", ["fast", "aws/us.amazon.nova-pro-v1:0", "aws/arn:aws:bedrock:x:1:inference-profile/a"])
def test_the_model_is_what_the_path_names(name: str) -> None:
    assert read(f"/model/{name}/converse").model == name


@pytest.mark.parametrize("name", ["m" * 257, "a\nb"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(f"/model/{name}/converse")
    assert caught.value.param == "model"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff"])
def test_a_body_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read(body=body)


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/model/a/b/converse", "converse"),
        ("/model/m/converse-stream", "converse"),
        ("/model/m/invoke", "invoke"),
        ("/model/m/invoke-with-response-stream", "invoke"),
        ("/model//converse", None),
        ("/model/m/count-tokens", None),
    ],
)
def test_the_doors(path: str, endpoint: str | None) -> None:
    found = [pattern.door.endpoint for pattern in PATTERNS if pattern.matches(path, b"")]
    assert found == ([] if endpoint is None else [endpoint])


def test_only_bedrocks_own_headers_go_along() -> None:
    call = read(x_amzn_bedrock_trace="ENABLED", x_amz_security_token="t", authorization="x", cookie="c")
    assert call.forward_headers == {"x-amzn-bedrock-trace": "ENABLED"}


@pytest.mark.parametrize("value", ["x" * 3000, "a\x00b", "é"])
def test_a_header_that_cannot_be_sent_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(x_amzn_bedrock_trace=value)
    assert caught.value.param == "x-amzn-bedrock-trace"


def test_metadata_is_recorded() -> None:
    assert read(body=b'{"requestMetadata": {"team": "a"}}').attribution == {"metadata.team": "a"}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("x", param="p"), "ValidationException"),
        (InsufficientCredits(2, 1), "ServiceQuotaExceededException"),
        (LimitExceeded("l", 3), "ThrottlingException"),
        (LimitExceeded("l", 3, hopeless=True), "ServiceQuotaExceededException"),
        (UpstreamError("x"), "InternalServerException"),
        (FaregateError("x"), "InternalServerException"),
    ],
)
def test_errors_have_awss_classes(error: FaregateError, kind: str) -> None:
    headers, body = DIALECT.error(error)
    said: dict[str, Any] = orjson.loads(body)
    assert headers["x-amzn-errortype"] == kind
    assert (said["message"], said["code"]) == (error.message, error.code)


def test_an_error_in_a_stream_is_an_exception_frame() -> None:
    found = decode_frame(DIALECT.error_event(UpstreamError("broke")))
    assert found is not None
    headers, payload = found
    assert (headers[":message-type"], headers[":exception-type"]) == ("exception", "modelStreamErrorException")
    assert orjson.loads(payload)["message"] == "broke"


@pytest.mark.parametrize(
    ("body", "passed"),
    [
        (b'{"Message": "no"}', b'{"Message": "no"}'),
        (b"<html>", b'{"message":"<html>"}'),
        (b"", b'{"message":"the provider answered 400"}'),
    ],
)
def test_a_refusal_of_awss_passes(body: bytes, passed: bytes) -> None:
    assert DIALECT.refusal(400, body) == passed
