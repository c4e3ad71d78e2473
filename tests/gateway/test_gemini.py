from __future__ import annotations

from typing import Any

import orjson
import pytest

from faregate import errors
from faregate.core.call import Call
from faregate.errors import FaregateError, InsufficientCredits, InvalidRequest, LimitExceeded
from faregate.gateway.asgi import refuse_key_in_url
from faregate.gateway.doors import PATTERNS
from faregate.gateway.gemini import GeminiDialect, asks_for_events, error_body
from faregate.ports import Inbound
from tests.gateway.test_openai import WHO

HERE = "/v1beta/models/"


def read(path: str, events: bool = False, **headers: str) -> Call:
    inbound = Inbound(
        endpoint="generatecontent", secret="s", headers=headers, body=b'{ "contents": [] }', request_id="r", path=path
    )
    return GeminiDialect(stream=events, events=events).read(inbound, WHO, "acc", "call_1")


def body_of(error: FaregateError) -> dict[str, Any]:
    inner: dict[str, Any] = orjson.loads(error_body(error))["error"]
    return inner


@pytest.mark.parametrize("name", ["gemini-2.5-flash", "g/gemini", "bedrock/a:b:0", "a b", "通义"])
def test_the_model_is_what_the_path_names(name: str) -> None:
    assert read(f"{HERE}{name}:generateContent").model == name


@pytest.mark.parametrize("name", ["m" * 257, "a\nb", "\x00"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(f"{HERE}{name}:generateContent")
    assert caught.value.param == "model"


def test_a_call_is_its_bytes_and_its_frame() -> None:
    call = read(f"{HERE}m:streamGenerateContent", events=True, **{"x-faregate-agent": "a"})
    assert (call.raw_body, call.stream, call.query) == (b'{ "contents": [] }', True, {"alt": "sse"})
    assert call.attribution == {"agent": "a"}
    assert read(f"{HERE}m:generateContent").query == {}


@pytest.mark.parametrize(
    ("query", "wanted"),
    [(b"alt=sse", True), (b"a=b&alt=sse", True), (b"alt=json", False), (b"", False), (b"x=sse", False)],
)
def test_events_are_asked_for_by_alt(query: bytes, wanted: bool) -> None:
    assert asks_for_events(query) is wanted
    found = [p for p in PATTERNS if p.matches(f"{HERE}m:streamGenerateContent", query)]
    assert found[0].events is wanted


@pytest.mark.parametrize("path", [":generateContent", "m:generate", "", "m"])
def test_other_paths_are_no_doors(path: str) -> None:
    assert not any(pattern.matches(HERE + path, b"") for pattern in PATTERNS)


@pytest.mark.parametrize("query", [b"key=x", b"alt=sse&key=", b"%6bey=x&key=y"])
def test_a_key_in_the_url_is_refused(query: bytes) -> None:
    with pytest.raises(InvalidRequest, match="x-goog-api-key"):
        refuse_key_in_url(query)


@pytest.mark.parametrize("query", [b"", b"alt=sse", b"monkey=1", b"a=key"])
def test_other_parameters_are_not(query: bytes) -> None:
    refuse_key_in_url(query)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (errors.InvalidRequest("x"), "INVALID_ARGUMENT"),
        (errors.InvalidApiKey("x"), "UNAUTHENTICATED"),
        (InsufficientCredits(2, 1), "FAILED_PRECONDITION"),
        (errors.PermissionDenied("x"), "PERMISSION_DENIED"),
        (errors.ModelNotFound("x"), "NOT_FOUND"),
        (errors.RequestTooLarge("x"), "INVALID_ARGUMENT"),
        (LimitExceeded("x", 1), "RESOURCE_EXHAUSTED"),
        (errors.UpstreamError("x"), "UNAVAILABLE"),
        (errors.UpstreamTimeout("x"), "DEADLINE_EXCEEDED"),
        (errors.StoreUnavailable("x"), "UNAVAILABLE"),
        (FaregateError("x"), "INTERNAL"),
    ],
)
def test_the_status_word_follows_the_status(error: FaregateError, word: str) -> None:
    said = body_of(error)
    assert (said["code"], said["status"]) == (error.status, word)
    assert said["details"][0]["reason"] == error.code.upper()


def test_details_say_what_the_error_knows() -> None:
    info, field = body_of(InvalidRequest("no", param="contents"))["details"]
    assert (info["metadata"], field["fieldViolations"]) == ({}, [{"field": "contents", "description": "no"}])
    info, retry = body_of(LimitExceeded("tokens per day", 61))["details"]
    assert (info["metadata"], retry["retryDelay"]) == ({"limit": "tokens per day"}, "61s")
    (info,) = body_of(InsufficientCredits(1_500_000, -1))["details"]
    assert info["metadata"] == {"needed_credits": "1.5", "available_credits": "-0.000001"}


@pytest.mark.parametrize("wrap", [lambda said: said, lambda said: [said]])
def test_googles_own_refusals_pass_as_they_came(wrap: Any) -> None:
    said = orjson.dumps(
        wrap({"error": {"code": 404, "message": "no", "status": "NOT_FOUND"}}), option=orjson.OPT_INDENT_2
    )
    assert GeminiDialect(stream=False).refusal(404, said) == said


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b'{"error":{"message":"no","type":"t","code":null}}', "no"),
        (b"<p>no</p>", "<p>no</p>"),
        (b"", "the provider answered 404"),
    ],
)
def test_other_refusals_come_in_googles_shape(said: bytes, message: str) -> None:
    got = orjson.loads(GeminiDialect(stream=False).refusal(404, said))["error"]
    assert got == {"code": 404, "message": message, "status": "NOT_FOUND"}


def test_a_defect_tells_a_stream_nothing_of_itself() -> None:
    event = GeminiDialect(stream=True, events=True).error_event(RuntimeError("sk-secret"))
    assert orjson.loads(event.removeprefix(b"data: "))["error"]["status"] == "INTERNAL"
    assert b"sk-secret" not in event
