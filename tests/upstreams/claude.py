"""A real HTTP server on loopback that speaks Anthropic's wire, one scripted turn per request.

Plain answers and streams are made of the same turn; each event is one write. It keeps its own account of what it was
asked and how the conversation ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import orjson

Block = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one request gets."""

    content: Sequence[Block] = ({"type": "text", "text": "hello there"},)
    usage: Mapping[str, Any] = field(default_factory=lambda: {"input_tokens": 10, "output_tokens": 5})
    stop_reason: str = "end_turn"
    status: int = 200
    error: tuple[str, str] = ("invalid_request_error", "scripted error")
    """Type and message, with a status or where `fault` says so."""
    headers: Mapping[str, str] = field(default_factory=dict)
    pause_s: float = 0.0
    """Before each event of a stream."""
    fault: Literal["", "error_event", "cut"] = ""
    """After the content, before the usage's end."""


@dataclass(slots=True, kw_only=True)
class Asked:
    """One request in the server's own account."""

    path: str
    headers: dict[str, str]
    raw: bytes
    outcome: Literal["open", "completed", "aborted", "cut"] = "open"
    sent: int = 0
    """Events of a stream that were written."""

    @property
    def body(self) -> dict[str, Any]:
        """Parsed."""
        parsed: dict[str, Any] = orjson.loads(self.raw)
        return parsed


class Claude:
    """The server. `turns` are used up in order; then `turn` is repeated."""

    def __init__(self) -> None:
        self.turn = Turn()
        self.turns: list[Turn] = []
        self.asked: list[Asked] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._converse(reader, writer):
                pass
        self._tasks.discard(task)
        writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (row.partition(":") for row in head[1:])}
        raw = await reader.readexactly(int(headers.get("content-length") or 0))
        asked = Asked(path=head[0].split(" ")[1], headers=headers, raw=raw)
        self.asked.append(asked)
        turn = self.turns.pop(0) if self.turns else self.turn
        try:
            await self._answer(asked, turn, reader, writer)
        except ConnectionError:
            asked.outcome = "aborted"
            raise
        asked.outcome = "cut" if turn.fault == "cut" else "completed"
        return asked.outcome == "completed"

    async def _answer(
        self, asked: Asked, turn: Turn, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        extra = {"request-id": f"req_up_{len(self.asked)}", "anthropic-organization-id": "org-secret", **turn.headers}
        if turn.status != 200:
            writer.write(_response(turn.status, _error(turn), extra))
        elif asked.path.startswith("/v1/messages/count_tokens"):
            writer.write(_response(200, {"input_tokens": turn.usage["input_tokens"]}, extra))
        elif not asked.body.get("stream"):
            writer.write(_response(200, message(turn, asked.body["model"]), extra))
        else:
            writer.write(_head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked", **extra}))
            for event in events(turn, asked.body["model"]):
                await asyncio.sleep(turn.pause_s)
                if writer.is_closing() or reader.at_eof():
                    raise ConnectionResetError
                writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                await writer.drain()
                asked.sent += 1
            if turn.fault != "cut":
                writer.write(b"0\r\n\r\n")
        await writer.drain()


def message(turn: Turn, model: str) -> dict[str, Any]:
    """A whole answer."""
    return {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": list(turn.content),
        "stop_reason": turn.stop_reason,
        "stop_sequence": None,
        "usage": dict(turn.usage),
    }


def events(turn: Turn, model: str) -> Iterator[bytes]:
    """The same, as a stream: text and arguments in pieces, the output's count a placeholder at first."""
    start = {**message(turn, model), "content": [], "stop_reason": None, "usage": {**turn.usage, "output_tokens": 1}}
    yield sse({"type": "message_start", "message": start})
    yield sse({"type": "ping"})
    for index, block in enumerate(turn.content):
        yield from _block(index, block)
    if turn.fault == "error_event":
        yield sse(_error(turn))
    if turn.fault:
        return
    told = {name: turn.usage[name] for name in ("output_tokens", "output_tokens_details") if name in turn.usage}
    yield sse(
        {"type": "message_delta", "delta": {"stop_reason": turn.stop_reason, "stop_sequence": None}, "usage": told}
    )
    yield sse({"type": "message_stop"})


def sse(value: Mapping[str, Any]) -> bytes:
    """One event, named."""
    return b"event: %s\ndata: %s\n\n" % (value["type"].encode(), orjson.dumps(value))


def _block(index: int, block: Block) -> Iterator[bytes]:
    kind = block["type"]
    whole = {"text": "text", "thinking": "thinking", "tool_use": "input"}.get(kind)
    empty = {"text": "", "thinking": "", "tool_use": {}}.get(kind)
    begun = block if whole is None else {**block, whole: empty}
    if kind == "thinking":
        begun = {**begun, "signature": ""}
    yield sse({"type": "content_block_start", "index": index, "content_block": begun})
    for delta in _deltas(block):
        yield sse({"type": "content_block_delta", "index": index, "delta": delta})
    yield sse({"type": "content_block_stop", "index": index})


def _deltas(block: Block) -> Iterator[dict[str, Any]]:
    if block["type"] == "text":
        for word in block["text"].split(" "):
            yield {"type": "text_delta", "text": word + " "}
    elif block["type"] == "thinking":
        yield {"type": "thinking_delta", "thinking": block["thinking"]}
        yield {"type": "signature_delta", "signature": block["signature"]}
    elif block["type"] == "tool_use":
        text = orjson.dumps(block["input"]).decode()
        yield {"type": "input_json_delta", "partial_json": ""}
        for at in range(0, len(text), 7):
            yield {"type": "input_json_delta", "partial_json": text[at : at + 7]}


def _error(turn: Turn) -> dict[str, Any]:
    return {"type": "error", "error": {"type": turn.error[0], "message": turn.error[1]}, "request_id": "req_up"}


def _response(status: int, body: object, headers: Mapping[str, str]) -> bytes:
    data = orjson.dumps(body)
    return _head(status, {"content-type": "application/json", "content-length": str(len(data)), **headers}) + data


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    rows = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status} Scripted", *rows, "", ""]).encode()
