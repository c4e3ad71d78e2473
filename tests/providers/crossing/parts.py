"""A chat completion on its way through a crossing, without a network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import orjson

from faregate.core.call import Call, Candidate
from faregate.core.price import PriceCard
from faregate.meter import meter_for
from faregate.ports import Meter
from faregate.providers.crossing import Crossed, CrossedAnswer, Crossing

HI = [{"role": "user", "content": "hi"}]


def chat(**body: Any) -> Call:
    """A call as OpenAI's dialect reads it."""
    body = {"model": "up/m", "messages": HI, **body}
    options = body.get("stream_options") or {}
    return Call(
        id="call_0199aaaaaaaa70008000000000000001",
        request_id="req_1",
        endpoint="chat.completions",
        model="up/m",
        body=body,
        raw_body=orjson.dumps(body),
        stream=body.get("stream") is True,
        wants_usage=options.get("include_usage") is True,
        account_id="acc_1",
    )


def candidate(kind: str, model: str, most: int | None = 1000) -> Candidate:
    """Where it goes."""
    card = PriceCard(id="c", provider=kind, model="*", rates={}, source="test", max_output_tokens=most)
    return Candidate(provider="up", kind=kind, model=model, card=card)


class Came:
    """ports.Answer of a provider that has said it all."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {}

    async def chunks(self) -> AsyncIterator[bytes]:
        """Fed by hand."""
        nothing: tuple[bytes, ...] = ()
        for chunk in nothing:
            yield chunk

    def touch(self) -> None: ...

    def abort(self) -> None: ...

    async def close(self) -> None: ...


def meter(crossing: Crossing, call: Call, crossed: Crossed, *, kind: str, endpoint: str, status: int = 200) -> Meter:
    """What the provider would return for an answer to `crossed`."""
    translator = crossing.translator(call, CrossedAnswer(Came(status), crossed), lambda body: body)
    return meter_for(kind, endpoint, stream=call.stream and status < 400, translator=translator)


def sse(events: Iterable[Mapping[str, Any]]) -> bytes:
    """Anthropic's framing."""
    return b"".join(b"event: %s\ndata: %s\n\n" % (event["type"].encode(), orjson.dumps(event)) for event in events)


def chunks(body: bytes) -> list[Any]:
    """The events of a chat completion's stream."""
    data = [block.removeprefix(b"data: ") for block in body.split(b"\n\n") if block]
    return [orjson.loads(item) if item != b"[DONE]" else "[DONE]" for item in data]
