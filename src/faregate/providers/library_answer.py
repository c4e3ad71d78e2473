"""What LiteLLM's library returns, as a provider's answer: OpenAI-shaped bytes, its errors in our words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, Final

import orjson

from faregate.errors import UpstreamError, UpstreamTimeout
from faregate.ports import Timeouts

_TOTAL_S: Final = 3600.0
_MOST_MESSAGE: Final = 1000
_HEAD: Final = ("id", "object", "created", "model", "system_fingerprint", "service_tier")
_SAID: Final = (
    "role",
    "content",
    "refusal",
    "tool_calls",
    "function_call",
    "audio",
    "images",
    "annotations",
    "reasoning_content",
    "thinking_blocks",
)
_COUNTS: Final = ("prompt_tokens", "completion_tokens", "total_tokens")


class LibraryAnswer:
    """ports.Answer over bytes that come from a library: its own iterator, since a body is read once."""

    def __init__(self, status: int, content_type: str, pieces: AsyncIterator[bytes], retry_after: str = "") -> None:
        self.status = status
        self.headers: Mapping[str, str] = {
            "content-type": content_type,
            **({"retry-after": retry_after} if retry_after else {}),
        }
        self._pieces = pieces
        self._reading: asyncio.Future[bytes] | None = None
        self._given_up = False
        self._patience_s = self._idle_s = self._left_s = _TOTAL_S

    def watch(self, timeouts: Timeouts, spent_s: float) -> None:
        """Bound the silence before the first event and between two, and the whole."""
        self._patience_s = max(0.0, timeouts.first_byte_s - spent_s)
        self._idle_s = timeouts.idle_s
        self._left_s = _TOTAL_S - spent_s

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        return self

    def touch(self) -> None:
        """A real event has passed: from here on the idle time counts."""
        self._patience_s = self._idle_s

    def abort(self) -> None:
        """Stop now, from anywhere."""
        self._given_up = True
        if self._reading is not None:
            self._reading.cancel()

    async def close(self) -> None:
        """The library's own connection is given back, or cut."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
        close = getattr(self._pieces, "aclose", None)
        if close is not None:
            await close()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._given_up:
            raise UpstreamError("the call was given up")
        loop = asyncio.get_running_loop()
        begun = loop.time()
        reading = self._reading = asyncio.ensure_future(anext(self._pieces, b""))
        done, _ = await asyncio.wait({reading}, timeout=min(self._patience_s, self._left_s))
        self._left_s -= loop.time() - begun
        if not done:
            raise UpstreamTimeout("the provider fell silent in the middle of its answer")
        self._reading = None
        if reading.cancelled():
            raise UpstreamError("the call was given up")
        if piece := reading.result():
            return piece
        raise StopAsyncIteration


def plain(answer: Any) -> LibraryAnswer:
    """A whole answer."""
    found = answer.model_dump(exclude_none=True)
    body = {name: found[name] for name in _HEAD if name in found}
    if "choices" in found:
        body["choices"] = [_choice(choice, "message") for choice in found["choices"]]
    else:
        body["data"] = found.get("data", [])
    return LibraryAnswer(200, "application/json", _once(orjson.dumps(body | _usage(found.get("usage")))))


def streamed(wrapper: Any, timeouts: Timeouts, begun: float) -> LibraryAnswer:
    """A stream; `begun` is when it was asked for, on the loop's clock."""
    answer = LibraryAnswer(200, "text/event-stream", _events(wrapper))
    answer.watch(timeouts, asyncio.get_running_loop().time() - begun)
    return answer


def refusal(litellm: Any, error: Exception) -> LibraryAnswer | UpstreamError:
    """What the library raised: a provider's refusal is an answer, whatever else a failure that is tried again."""
    if isinstance(error, litellm.Timeout):
        return UpstreamTimeout("the provider did not answer in time")
    status = getattr(error, "status_code", None)
    if isinstance(error, litellm.APIConnectionError) or not isinstance(status, int) or not 400 <= status <= 599:
        return UpstreamError(f"the call to the provider failed ({type(error).__name__})")
    said = str(getattr(error, "message", "") or error).removeprefix(f"litellm.{type(error).__name__}: ")
    said = said.partition(" To drop")[0]  # advice for those who call the library themselves
    inner = {"message": said[:_MOST_MESSAGE], "type": _type_of(status), "param": None, "code": None}
    body = orjson.dumps({"error": inner}, default=str)
    return LibraryAnswer(status, "application/json", _once(body), _retry_after(error))


def _type_of(status: int) -> str:
    if status >= 500:
        return "server_error"
    return "rate_limit_error" if status == 429 else "invalid_request_error"


def _retry_after(error: Exception) -> str:
    headers = getattr(getattr(error, "response", None), "headers", None)
    value = headers.get("retry-after", "") if headers is not None else ""
    return value if isinstance(value, str) and value.isdecimal() and len(value) < 6 else ""


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _events(wrapper: Any) -> AsyncIterator[bytes]:
    """The library's chunks as events. At their end it would begin to count and to log: it is not let."""
    last: dict[str, Any] = {}
    wrapper._finalize_completed_stream = _without_counting(wrapper, wrapper._finalize_completed_stream)
    try:
        while (chunk := await _next(wrapper)) is not None:
            found = chunk.model_dump(exclude_none=True)
            last = {name: found[name] for name in _HEAD if name in found}
            if choices := [_choice(choice, "delta") for choice in found.get("choices", ())]:
                yield _sse({**last, "choices": choices})
        if wrapper.received_finish_reason is None and wrapper.intermittent_finish_reason is None:
            raise UpstreamError("the provider's stream ended before it was complete")
        yield b"".join(_ends(last, wrapper.chunks))
    finally:
        await wrapper.aclose()


def _without_counting(wrapper: Any, finalize: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The library's last step: the finish reason, if that was not said yet, and nothing more."""

    async def end(cache_hit: bool) -> Any:
        if wrapper.sent_last_chunk:
            raise StopAsyncIteration
        return await finalize(cache_hit=cache_hit)

    return end


async def _next(wrapper: Any) -> Any:
    try:
        return await anext(wrapper, None)
    except Exception as error:  # noqa: BLE001  # a library's: it may raise anything
        failed = type(error).__name__
    raise UpstreamError(f"the provider's stream broke off ({failed})")


def _ends(head: Mapping[str, Any], chunks: list[Any]) -> Iterator[bytes]:
    """The usage, if the provider told any, and the end."""
    if any(getattr(chunk, "usage", None) is not None for chunk in chunks):
        total = import_module("litellm.litellm_core_utils.streaming_handler").calculate_total_usage(chunks=chunks)
        usage = _usage(total.model_dump(exclude_none=True))
        if usage:
            yield _sse({**head, "choices": [], **usage})
    yield b"data: [DONE]\n\n"


def _choice(choice: Mapping[str, Any], part: str) -> dict[str, Any]:
    said = choice.get(part) or {}
    kept = {name: said[name] for name in _SAID if name in said}
    if part == "message":
        kept = {"role": "assistant", "content": None, **kept}
    found = {"index": choice.get("index", 0), part: kept, "finish_reason": choice.get("finish_reason") or None}
    return found | ({"logprobs": choice["logprobs"]} if "logprobs" in choice else {})


def _usage(usage: Any) -> dict[str, Any]:
    """As the provider told it: all zeros are the library's own, for nothing told."""
    if not isinstance(usage, dict) or not any(usage.get(name) for name in _COUNTS):
        return {}
    return {"usage": usage}


def _sse(value: object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
