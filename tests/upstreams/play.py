"""One request's script, played byte by byte on its connection."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

import orjson

from tests.upstreams import wire
from tests.upstreams.script import Script, Served


class Hangup(Exception):
    """The client is gone."""


@dataclass(slots=True)
class Line:
    """One connection's two ends."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def write(self, data: bytes) -> None:
        """Raises Hangup."""
        if self.writer.is_closing() or self.reader.at_eof():
            raise Hangup
        self.writer.write(data)
        try:
            await self.writer.drain()
        except ConnectionError:
            raise Hangup from None

    async def hang(self) -> None:
        """Say nothing until the client has enough of it. Raises Hangup."""
        with suppress(ConnectionError):
            await self.reader.read(1)
        raise Hangup

    def reset(self) -> None:
        """RST, not FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def response(status: int, body: bytes, headers: Mapping[str, str] | None = None, *, length: int | None = None) -> bytes:
    """A whole response; `length` may lie."""
    return head(status, {"content-length": str(len(body) if length is None else length), **(headers or {})}) + body


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """Status line and headers."""
    rows = [f"{name}: {value}" for name, value in {"content-type": "application/json", **headers}.items()]
    return "\r\n".join([f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *rows, "", ""]).encode()


class Play:
    """`run` gives the answer its script asks for and says whether the connection can go on."""

    def __init__(self, line: Line, served: Served, script: Script) -> None:
        self._line, self._served, self._script = line, served, script
        body = served.json
        asked = [body.get(name) for name in ("max_completion_tokens", "max_tokens")]
        bounds = [] if script.ignore_cap else [bound for bound in asked if isinstance(bound, int)]
        self._per_choice = 0 if served.endpoint == "embeddings" else min([script.output_tokens, *bounds])
        choices = body.get("n")
        self._choices = choices if isinstance(choices, int) else 1
        options = body.get("stream_options")
        self._include_usage = isinstance(options, dict) and options.get("include_usage") is True
        self._headers = {"x-request-id": f"req-{served.id}", **dict(script.headers)}

    async def run(self) -> bool:
        fault = self._script.fault
        if fault == "hang_before_headers":
            await self._line.hang()
        if fault == "reset_before_headers":
            self._line.reset()
        if fault in ("reset_before_headers", "close_before_headers"):
            return False
        await asyncio.sleep(self._script.first_byte_s)
        self._served.status = self._script.status
        if self._script.status != 200:
            return await self._refuse()
        self._served.input_tokens = self._script.input_tokens
        return await (self._stream() if self._served.stream else self._plain())

    def _usage(self, output_tokens: int) -> dict[str, object]:
        honest = self._script.usage == "honest"
        counts = (self._script.input_tokens, output_tokens) if honest else (0, 0)
        return wire.usage(self._served.endpoint, *counts)

    async def _refuse(self) -> bool:
        status = self._script.status
        body = wire.error(f"scripted {status}", "server_error" if status >= 500 else "invalid_request_error", None)
        if self._script.error_usage:
            body = {**body, "usage": self._usage(0)}
            self._served.input_tokens = self._script.input_tokens
        data = "".join(self._script.raw).encode() if self._script.raw is not None else orjson.dumps(body)
        await self._line.write(response(status, data, self._headers))
        return True

    async def _plain(self) -> bool:
        output_tokens = self._per_choice * self._choices
        served = self._served
        body = wire.plain(served.endpoint, served.id, served.model, self._per_choice, self._choices)
        if self._script.usage != "none":
            body["usage"] = self._usage(output_tokens)
        data = "".join(self._script.raw).encode() if self._script.raw is not None else orjson.dumps(body)
        if self._script.fault:
            return await self._plain_broken(data)
        served.output_tokens = output_tokens
        await self._line.write(response(200, data, self._headers))
        return True

    async def _plain_broken(self, data: bytes) -> bool:
        half = data[: len(data) // 2]
        await self._line.write(response(200, half, self._headers, length=len(data)))
        return await self._break()

    async def _stream(self) -> bool:
        headers = {"content-type": "text/event-stream", "transfer-encoding": "chunked", **self._headers}
        await self._line.write(head(200, headers))
        if self._script.raw is not None:
            for piece in self._script.raw:
                await self._chunk(piece.encode())
        elif self._script.fault not in ("", "no_done"):
            await self._events(self._per_choice * self._choices // 2)
            return await self._break()
        else:
            await self._events(None)
            await self._end()
        await self._line.write(b"0\r\n\r\n")
        return True

    async def _events(self, limit: int | None) -> None:
        """The events of the output; with a limit, only its first that many."""
        served = self._served
        events = wire.events(
            served.endpoint,
            served.id,
            served.model,
            self._per_choice,
            self._choices,
            usage_null=self._include_usage,
        )
        for count, (event, tokens) in enumerate(events):
            if count == limit:
                return
            await self._chunk(event)
            served.output_tokens += tokens

    async def _end(self) -> None:
        if self._include_usage and self._script.usage != "none":
            used = self._usage(self._served.output_tokens)
            await self._chunk(wire.usage_event(self._served.id, self._served.model, used))
        if self._script.fault != "no_done":
            await self._chunk(b"data: [DONE]\n\n")

    async def _chunk(self, data: bytes) -> None:
        await asyncio.sleep(self._script.delay_s)
        await self._line.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def _break(self) -> bool:
        """What a fault does in the middle of a body."""
        fault = self._script.fault
        if fault == "hang_mid":
            await self._line.hang()
        if fault == "reset_mid":
            await asyncio.sleep(0.02)  # else the RST overtakes what was written
            self._line.reset()
        if fault == "comments":
            await self._comment()
        if fault == "error_event":
            await self._chunk(wire.sse(wire.error("scripted error", "server_error", "server_error")))
            await self._chunk(b"data: [DONE]\n\n")
            await self._line.write(b"0\r\n\r\n")
        return fault == "error_event"

    async def _comment(self) -> None:
        while True:
            await self._line.write(b"e\r\n: keep-alive\n\n\r\n")
            await asyncio.sleep(0.02)
