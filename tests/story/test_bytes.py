"""G8: a client receives what the provider sent, byte for byte, but for the usage chunk it did not ask for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.story.conftest import Open
from tests.story.house import INPUT, OUTPUT, House
from tests.story.raw import RawUpstream

USAGE = b'{"id":"c","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5}}'
TEXT = '{"id":"c","choices":[{"index":0,"delta":{"content":"a\u2028b\u2029é \\u2028 😀 data: [DONE]"}}]}'.encode()
FINISH = b'{"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}'

Cut = Callable[[bytes], list[bytes]]
CUTS: dict[str, Cut] = {
    "whole": lambda body: [body],
    "bytes": lambda body: [body[at : at + 1] for at in range(len(body))],
    "sevens": lambda body: [body[at : at + 7] for at in range(0, len(body), 7)],
    "lines": lambda body: body.splitlines(keepends=True),
}


def stream(end: bytes, lead: bytes, *, usage: bytes = USAGE) -> tuple[bytes, bytes]:
    """A stream and its usage event, with one kind of line end and one way to begin a data line."""
    before = b"".join(
        [
            b": OPENROUTER PROCESSING" + end + end,
            lead + TEXT + end + end,
            b"event: message" + end + b"id: 7" + end + lead + TEXT + end + end,
            b"retry: 10" + end + end,
            lead + FINISH + end + end,
        ]
    )
    return before, lead + usage + end + end


FORMS = {
    "usual": (b"\n", b"data: "),
    "no space": (b"\n", b"data:"),
    "crlf": (b"\r\n", b"data: "),
    "cr": (b"\r", b"data: "),
}


async def ask(open_house: Open, pieces: list[bytes], **options: object) -> tuple[House, bytes]:
    async with RawUpstream(pieces) as raw:
        house = await open_house(providers__up={"base_url": raw.url})
        body = await house.stream(**options)
        record = await house.record()
    assert (record.charge_microcredits, record.estimated) == (10 * INPUT + 5 * OUTPUT, False)
    return house, body


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_all_but_the_usage_chunk_is_identical(open_house: Open, form: tuple[bytes, bytes], cut: Cut) -> None:
    before, usage = stream(*form)
    done = form[1] + b"[DONE]" + form[0] * 2
    _, body = await ask(open_house, cut(before + usage + done))
    assert body == before + done


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
async def test_a_client_that_asks_gets_the_usage_chunk_as_it_came(open_house: Open, cut: Cut) -> None:
    before, usage = stream(b"\n", b"data: ")
    whole = before + usage + b"data: [DONE]\n\n"
    _, body = await ask(open_house, cut(whole), stream_options={"include_usage": True})
    assert body == whole


async def test_usage_beside_a_choice_stays(open_house: Open) -> None:
    last = FINISH.replace(b"null}", b'{"prompt_tokens":10,"completion_tokens":5}}')
    whole = b"data: " + TEXT + b"\n\ndata: " + last + b"\n\ndata: [DONE]\n\n"
    assert (await ask(open_house, [whole]))[1] == whole


async def test_what_follows_done_is_kept(open_house: Open) -> None:
    before, usage = stream(b"\n", b"data: ")
    _, body = await ask(open_house, [before, usage, b"data: [DONE]\n\n: bye\n\n"])
    assert body == before + b"data: [DONE]\n\n: bye\n\n"


async def test_a_done_without_its_blank_line_ends_the_stream(open_house: Open) -> None:
    before, usage = stream(b"\n", b"data: ")
    _, body = await ask(open_house, [before, usage, b"data: [DONE]"])
    assert body == before + b"data: [DONE]"


async def test_with_cost_only_the_usage_object_grows(open_house: Open) -> None:
    before, usage = stream(b"\r\n", b"data:")
    done = b"data:[DONE]\r\n\r\n"
    _, body = await ask(open_house, [before, usage, done], headers={"x-faregate-include-cost": "true"})
    assert body == before + usage.replace(b":5}}", b':5,"cost_usd":0.00002,"credits":0.02}}') + done


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
async def test_a_plain_body_is_identical(open_house: Open, cut: Cut) -> None:
    answer = (
        b' {\r\n "choices" : [{"message":{"content":"a\\u2028\xe2\x80\xa8\xf0\x9f\x98\x80","n":1.10}}],'
        b'"usage":{"prompt_tokens":10, "completion_tokens":5} }\n'
    )
    async with RawUpstream(cut(answer), content_type="application/json") as raw:
        house = await open_house(providers__up={"base_url": raw.url})
        got = await house.call()
    assert got.content == answer
    assert got.headers["content-length"] == str(len(answer))
    assert (await house.record()).charge_microcredits == 10 * INPUT + 5 * OUTPUT


async def test_bytes_that_are_no_utf8_pass(open_house: Open) -> None:
    before, usage = stream(b"\n", b"data: ")
    odd = b'data: {"choices":[{"index":0,"delta":{"content":"\xff\xfe"}}]}\n\n'
    _, body = await ask(open_house, [odd, before, usage, b"data: [DONE]\n\n"])
    assert body == odd + before + b"data: [DONE]\n\n"


async def test_an_error_body_in_a_streams_place_is_identical(open_house: Open) -> None:
    error = b'{ "error": {"message": "no\xe2\x80\xa8pe", "code": null} }\n'
    async with RawUpstream([error], status="422 Unprocessable Entity", content_type="application/json") as raw:
        house = await open_house(providers__up={"base_url": raw.url})
        got = await house.call(stream=True)
    assert (got.status_code, got.content) == (422, error)
