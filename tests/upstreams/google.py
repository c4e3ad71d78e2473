"""Google's Gemini API as a real HTTP server on loopback: what it answers is set, in which frame it comes is asked.

    async with Google(answer(text="hi")) as google: google.url, google.requests

A stream is server-sent events with `alt=sse`, else one JSON array; `cut` is the number of bytes per write, and
`breaks_after` the number of chunks after which the connection is dropped. OpenAI's endpoint gets `compat`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

import orjson

from tests.upstreams.play import head, response

MODEL = "gemini-2.5-flash"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        parsed: dict[str, Any] = orjson.loads(self.body)
        return parsed


def usage(prompt: int = 10, made: int | None = 5, thoughts: int = 0, **more: Any) -> dict[str, Any]:
    """usageMetadata; Google leaves out what is 0."""
    counts = {"promptTokenCount": prompt, "candidatesTokenCount": made, "thoughtsTokenCount": thoughts}
    told = {name: count for name, count in counts.items() if count}
    return {**told, "totalTokenCount": prompt + (made or 0) + thoughts, **more}


def part_of(*parts: Mapping[str, Any], finish: str | None = "STOP", used: Mapping[str, Any] | None = None) -> Any:
    """One GenerateContentResponse."""
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "usageMetadata": dict(used or usage()), "modelVersion": MODEL, "responseId": "r"}


def answer(text: str = "hi", **more: Any) -> Any:
    """One that says something."""
    return part_of({"text": text}, **more)


def refused(code: int, status: str, message: str, *details: Mapping[str, Any]) -> bytes:
    """google.rpc.Status, printed as Google prints it."""
    error = {"code": code, "message": message, "status": status, "details": list(details)}
    return orjson.dumps({"error": error}, option=orjson.OPT_INDENT_2)


@dataclass
class Google:
    """The server. `said` are the chunks of a stream; a plain answer is the last of them."""

    said: Any = field(default_factory=answer)
    status: int = 200
    refusal: bytes = b""
    compat: Sequence[bytes] = ()
    cut: int | None = None
    breaks_after: int | None = None
    pause_s: float = 0.0
    requests: list[Asked] = field(default_factory=list)
    written: list[bytes] = field(default_factory=list)
    """The bodies as they went out."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

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

    @property
    def chunks(self) -> list[Any]:
        return self.said if isinstance(self.said, list) else [self.said]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._serve(reader, writer):
                pass
        self._tasks.discard(task)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        rows = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (row.partition(":") for row in rows[1:])}
        body = await reader.readexactly(int(headers.get("content-length") or 0))
        asked = Asked(rows[0].split(" ")[1], headers, body)
        self.requests.append(asked)
        if self.status != 200:
            writer.write(response(self.status, self.refusal))
            return True
        pieces, kind = self._frame(asked)
        writer.write(head(200, {"content-type": kind, "transfer-encoding": "chunked"}))
        for number, piece in enumerate(pieces):
            if number == self.breaks_after:
                return False
            await self._write(writer, piece)
        if self.breaks_after is not None:
            return False
        writer.write(b"0\r\n\r\n")
        self.written.append(b"".join(pieces))
        return True

    def _frame(self, asked: Asked) -> tuple[list[bytes], str]:
        if "/openai/" in asked.path:
            return list(self.compat), "text/event-stream" if asked.json.get("stream") else "application/json"
        if ":stream" not in asked.path:
            return [
                orjson.dumps(self.chunks[-1], option=orjson.OPT_INDENT_2) + b"\n"
            ], "application/json; charset=UTF-8"
        if "alt=sse" in asked.path:
            return [b"data: " + orjson.dumps(chunk) + b"\r\n\r\n" for chunk in self.chunks], "text/event-stream"
        printed = [orjson.dumps(chunk, option=orjson.OPT_INDENT_2) for chunk in self.chunks]
        listed = [(b"[" if number == 0 else b",\r\n") + text for number, text in enumerate(printed)]
        return [*listed, b"\n]\n"], "application/json; charset=UTF-8"

    async def _write(self, writer: asyncio.StreamWriter, piece: bytes) -> None:
        size = self.cut or max(1, len(piece))
        for at in range(0, len(piece), size):
            part = piece[at : at + size]
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            await writer.drain()
            await asyncio.sleep(self.pause_s)
