"""An answer crosses back: LiteLLM's reading of it as a chat completion's bytes, whole or chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from faregate.core.call import Call
from faregate.core.money import credits, plain
from faregate.core.price import Cost
from faregate.core.usage import Reading, Usage
from faregate.errors import UpstreamError

if TYPE_CHECKING:
    from faregate.providers.crossing.core import Crossed, Crossing

_LINE_ENDS = (("\u2028".encode(), rb"\u2028"), ("\u2029".encode(), rb"\u2029"), ("\x85".encode(), rb"\u0085"))
"""JSON may hold them raw, and some readers of streams cut lines at them."""
_MOST_MESSAGE = 1000


class ChatTranslator:
    """ports.Translator into OpenAI's chat completions."""

    def __init__(
        self, crossing: Crossing, call: Call, crossed: Crossed, status: int, redact: Callable[[bytes], bytes]
    ) -> None:
        self._crossing = crossing
        self._call = call
        self._crossed = crossed
        self._status = status
        self._redact = redact
        self._parse: Callable[[str, Any], Any] | None = None
        self._finish_reason = "stop"
        self._failed = False
        self._head: dict[str, object] = {
            "id": f"chatcmpl-{call.id.removeprefix('call_')}",
            "object": "chat.completion.chunk" if call.stream else "chat.completion",
            "created": _second_of(call.id),
            "model": crossed.model,
        }
        self._begun = False

    # Streams --------------------------------------------------------------------------------------------

    def event(self, name: str, data: bytes) -> bytes:
        """The chunks that one event comes to."""
        if self._failed:
            return b""
        value = parsed(data)
        error = self._crossing.error(value)
        if error is not None:
            self._failed = True
            return b"data: " + self._error(*error) + b"\n\n"
        return self._chunks(self._read(name, value))

    def end(self, reading: Reading, cost: Cost | None, charge_microcredits: int) -> bytes:
        """The chunk with the finish reason, the usage if it is wanted, and [DONE]."""
        if self._failed:
            return b""
        last = self._chunk({}, self._finish_reason)
        if self._call.wants_usage or self._call.wants_cost:
            used = told(self._call, reading.usage, cost, charge_microcredits)
            last += sse({**self._head, "choices": [], "usage": used})
        return last + b"data: [DONE]\n\n"

    def _read(self, name: str, value: Any) -> Any:
        if self._parse is None:
            self._parse = self._crossing.parser(self._crossed)
        try:
            return self._parse(name, value)
        except Exception as error:  # noqa: BLE001  # a library's reading of a foreign event: it may raise anything
            kind = type(error).__name__
        raise UpstreamError(f"an event of the provider's could not be translated ({kind})")

    def _chunks(self, chunk: Any) -> bytes:
        out = b""
        if not self._begun:  # also what has no text yet: the client sees that somebody answers
            self._begun = True
            out = self._chunk({"role": "assistant", "content": ""}, None)
        for choice in getattr(chunk, "choices", None) or ():
            delta = delta_of(choice.delta)
            if delta:
                out += self._chunk(delta, None)
            self._finish_reason = choice.finish_reason or self._finish_reason
        return out

    def _chunk(self, delta: Mapping[str, object], finish_reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage: dict[str, object] = {"usage": None} if self._call.wants_usage else {}
        return sse({**self._head, "choices": [choice], **usage})

    # Whole answers --------------------------------------------------------------------------------------

    def body(self, data: bytes, reading: Reading) -> bytes:
        """The completion, or the provider's error in OpenAI's shape."""
        if self._status >= 400:
            error = self._crossing.error(_json_or_none(data))
            text = data.decode("utf-8", "replace").strip() or f"the provider answered {self._status}"
            return self._error(*(error or (text, None)))
        value = parsed(data)
        try:
            answer = self._crossing.whole(self._crossed, orjson.dumps(self._crossing.cleaned(value)))
            choices = [_choice(choice) for choice in answer.choices]
        except Exception as error:  # noqa: BLE001  # as above
            kind = type(error).__name__
        else:
            return dump({**self._head, "choices": choices, "usage": usage_of(reading.usage)})
        raise UpstreamError(f"the provider's answer could not be translated ({kind})")

    def _error(self, message: str, kind: str | None) -> bytes:
        clean = self._redact(message[: 8 * _MOST_MESSAGE].encode()).decode("utf-8", "replace")
        text = clean[:_MOST_MESSAGE]  # cut afterwards: half a key would not be known as one
        return dump({"error": {"message": text, "type": kind or "server_error", "param": None, "code": kind}})


def delta_of(delta: Any) -> dict[str, object]:
    """What a chunk of LiteLLM's adds, without what says nothing."""
    found: dict[str, object] = {}
    for name in ("content", "reasoning_content"):
        if value := getattr(delta, name, None):
            found[name] = value
    if blocks := getattr(delta, "thinking_blocks", None):
        found["thinking_blocks"] = [dict(block) for block in blocks]
    if calls := getattr(delta, "tool_calls", None):
        found["tool_calls"] = [_call_delta(call) for call in calls]
    return found | _media_of(delta)


def _media_of(said: Any) -> dict[str, object]:
    """What is no text: pictures, sound, and where something was found."""
    return {name: _plain(value) for name in _MEDIA if (value := getattr(said, name, None))}


_MEDIA = ("images", "audio", "annotations")


def _plain(value: Any) -> object:
    """LiteLLM's objects as JSON has them."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.model_dump(exclude_none=True) if hasattr(value, "model_dump") else value


def _call_delta(call: Any) -> dict[str, object]:
    """A new call brings id and name; what follows only arguments, as OpenAI has it."""
    function: dict[str, object] = {"arguments": call.function.arguments or ""}
    if not call.id:
        return {"index": call.index, "function": function}
    return {
        "index": call.index,
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, **function},
    }


def _choice(choice: Any) -> dict[str, object]:
    message = choice.message
    said: dict[str, object] = {"role": "assistant", "content": message.content, "refusal": None}
    if calls := getattr(message, "tool_calls", None):
        said["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments or "{}"},
            }
            for call in calls
        ]
    if reasoning := getattr(message, "reasoning_content", None):
        said["reasoning_content"] = reasoning
    if blocks := getattr(message, "thinking_blocks", None):
        said["thinking_blocks"] = [dict(block) for block in blocks]
    said |= _media_of(message)
    logprobs = _plain(getattr(choice, "logprobs", None))
    return {"index": choice.index, "message": said, "logprobs": logprobs, "finish_reason": choice.finish_reason}


def usage_of(usage: Usage | None) -> dict[str, object] | None:
    """What was metered, in OpenAI's names: cached reads and writes are inside `prompt_tokens`, reasoning in completion.

    The parts of a cache write by their time to live are under Anthropic's names.
    """
    if usage is None or usage.input_tokens is None:
        return None
    given, taken = usage.input_tokens, usage.output_tokens or 0
    details: dict[str, object] = {"cached_tokens": usage.cached_input_tokens or 0}
    if usage.audio_input_tokens is not None:
        details["audio_tokens"] = usage.audio_input_tokens
    made: dict[str, object] = {"reasoning_tokens": usage.reasoning_tokens or 0}
    if usage.audio_output_tokens is not None:
        made["audio_tokens"] = usage.audio_output_tokens
    if usage.image_output_tokens is not None:
        made["image_tokens"] = usage.image_output_tokens
    if usage.cache_write_tokens:
        details["cache_write_tokens"] = details["cache_creation_tokens"] = usage.cache_write_tokens
        details["cache_creation_token_details"] = {
            "ephemeral_5m_input_tokens": usage.cache_write_5m_tokens or 0,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens or 0,
        }
    return {
        "prompt_tokens": given,
        "completion_tokens": taken,
        "total_tokens": given + taken,
        "prompt_tokens_details": details,
        "completion_tokens_details": made,
    }


def told(call: Call, usage: Usage | None, cost: Cost | None, charge_microcredits: int) -> dict[str, object] | None:
    """`usage_of` as the last chunk of a stream has it: with its cost for a client that wants it."""
    used = usage_of(usage)
    if used is not None and call.wants_cost and cost is not None:
        used |= {"cost_usd": _number(plain(cost.usd)), "credits": _number(credits(charge_microcredits))}
    return used


def parsed(data: bytes) -> Any:
    """JSON of the provider's. Raises UpstreamError."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        raise UpstreamError("the provider's answer is not valid JSON") from None


def _json_or_none(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _number(value: Decimal) -> orjson.Fragment:
    return orjson.Fragment(f"{value:f}")


def dump(value: object) -> bytes:
    """JSON that no reader of lines cuts."""
    out = orjson.dumps(value)
    for raw, escaped in _LINE_ENDS:
        out = out.replace(raw, escaped)
    return out


def sse(value: object) -> bytes:
    """One data event."""
    return b"data: " + dump(value) + b"\n\n"


def _second_of(call_id: str) -> int:
    """When the call came: its id is a UUIDv7, which begins with the millisecond."""
    digits = call_id.removeprefix("call_").replace("-", "")[:12]
    return int(digits, 16) // 1000
