from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from faregate.errors import UpstreamError, UpstreamTimeout
from faregate.ports import Timeouts
from faregate.providers.library_answer import LibraryAnswer, plain, refusal


class Library:
    """The two classes that are told apart."""

    class Timeout(Exception): ...

    class APIConnectionError(Exception):
        status_code = 500


class Refused(Exception):
    def __init__(self, status: object, message: str) -> None:
        super().__init__(message)
        self.status_code = status
        self.message = message


class Said:
    """What a library's answer is to us."""

    def __init__(self, **found: object) -> None:
        self.found = found

    def model_dump(self, *, exclude_none: bool) -> dict[str, object]:
        return self.found


async def body(answer: LibraryAnswer) -> Any:
    return json.loads(b"".join([piece async for piece in answer.chunks()]))


async def silent() -> AsyncIterator[bytes]:
    yield b"a"
    await asyncio.Event().wait()


async def test_a_refusal_is_an_answer_with_its_status() -> None:
    answer = refusal(Library, Refused(429, "litellm.Refused: slow down"))
    assert isinstance(answer, LibraryAnswer)
    assert answer.status == 429
    assert (await body(answer))["error"] == {
        "message": "slow down",
        "type": "rate_limit_error",
        "param": None,
        "code": None,
    }


@pytest.mark.parametrize("error", [Library.APIConnectionError("x"), KeyError("secret"), Refused("400", "x")])
def test_other_failures_are_the_providers_and_say_nothing(error: Exception) -> None:
    failed = refusal(Library, error)
    assert isinstance(failed, UpstreamError)
    assert failed.message == f"the call to the provider failed ({type(error).__name__})"


def test_a_time_out() -> None:
    assert isinstance(refusal(Library, Library.Timeout("x")), UpstreamTimeout)


async def test_zeros_are_no_usage() -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    choices = [{"index": 0, "message": {"content": "hi", "provider_specific_fields": {}}, "finish_reason": "stop"}]
    assert await body(plain(Said(id="1", choices=choices, usage=usage, secret="x"))) == {
        "id": "1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    }


async def test_giving_up_wakes_whoever_reads() -> None:
    answer = LibraryAnswer(200, "text/event-stream", silent())
    assert await anext(answer.chunks()) == b"a"
    reading = asyncio.ensure_future(anext(answer.chunks()))
    await asyncio.sleep(0)
    answer.abort()
    with pytest.raises(UpstreamError, match="given up"):
        await reading
    with pytest.raises(UpstreamError, match="given up"):
        await anext(answer.chunks())
    await answer.close()


async def test_silence_before_the_first_event_and_between_two() -> None:
    answer = LibraryAnswer(200, "text/event-stream", silent())
    answer.watch(Timeouts(first_byte_s=60, idle_s=0.05), 0.0)
    await anext(answer.chunks())
    answer.touch()
    with pytest.raises(UpstreamTimeout, match="silent"):
        await anext(answer.chunks())
    await answer.close()
