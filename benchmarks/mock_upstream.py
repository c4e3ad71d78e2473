"""As fast an upstream as Python allows: canned OpenAI answers from a bare asyncio.Protocol on uvloop.

    python -m benchmarks.mock_upstream [--host 127.0.0.1] [--port 9100] [--chunks 60] [--delay-ms 0]

Any POST gets one JSON completion; a body with `"stream":true` gets one SSE stream of `chunks` content chunks
and a usage chunk. Request bodies are skipped by content-length, never parsed. Without a delay a stream is one
write.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from typing import cast

import orjson
import uvloop

INPUT_TOKENS = 20
_BASE = {"id": "chatcmpl-mock", "created": 1_760_000_000, "model": "mock"}


def usage(output_tokens: int) -> dict[str, int]:
    """What each answer says of itself."""
    return {
        "prompt_tokens": INPUT_TOKENS,
        "completion_tokens": output_tokens,
        "total_tokens": INPUT_TOKENS + output_tokens,
    }


def plain_body(output_tokens: int) -> bytes:
    """A chat.completion of `output_tokens` tokens."""
    message = {"role": "assistant", "content": " word" * output_tokens}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return orjson.dumps({**_BASE, "object": "chat.completion", "choices": [choice], "usage": usage(output_tokens)})


def stream_events(chunks: int) -> list[bytes]:
    """`chunks` content events, the finish, the usage chunk and [DONE]."""
    deltas = [([{"index": 0, "delta": {"content": " word"}, "finish_reason": None}], None)] * chunks
    finish = ([{"index": 0, "delta": {}, "finish_reason": "stop"}], None)
    events = [*deltas, finish, ([], usage(chunks))]
    head = {**_BASE, "object": "chat.completion.chunk"}
    lines = [orjson.dumps({**head, "choices": choices, "usage": used}) for choices, used in events]
    return [b"data: " + line + b"\n\n" for line in (*lines, b"[DONE]")]


class Canned:
    """The answers as bytes, built once."""

    def __init__(self, chunks: int, delay_s: float) -> None:
        body = plain_body(chunks)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self.plain = head % len(body) + body
        self.stream_head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        self.pieces = [b"%x\r\n%s\r\n" % (len(event), event) for event in stream_events(chunks)] + [b"0\r\n\r\n"]
        self.stream = self.stream_head + b"".join(self.pieces)
        self.delay_s = delay_s


class Mock(asyncio.Protocol):
    """One connection: requests in, canned answers out."""

    def __init__(self, canned: Canned) -> None:
        self._canned = canned
        self._buffer = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        while (end := self._request_end()) > 0:
            request, self._buffer = self._buffer[:end], self._buffer[end:]
            self._answer(b'"stream":true' in request or b'"stream": true' in request)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    def _request_end(self) -> int:
        """Where the first request in the buffer ends; 0 while it is incomplete."""
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return 0
        head = self._buffer[:head_end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        end = head_end + 4 + length
        return end if len(self._buffer) >= end else 0

    def _answer(self, stream: bool) -> None:
        if not stream:
            self._transport.write(self._canned.plain)
        elif self._canned.delay_s:
            self._task = asyncio.ensure_future(self._drip())
        else:
            self._transport.write(self._canned.stream)

    async def _drip(self) -> None:
        self._transport.write(self._canned.stream_head)
        for piece in self._canned.pieces:
            await asyncio.sleep(self._canned.delay_s)
            self._transport.write(piece)


async def serve(host: str, port: int, chunks: int, delay_s: float) -> None:
    """Serve until cancelled; prints the address once it listens."""
    canned = Canned(chunks, delay_s)
    server = await asyncio.get_running_loop().create_server(lambda: Mock(canned), host, port, backlog=4096)
    print(f"listening on http://{host}:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--chunks", type=int, default=60)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    options = parser.parse_args(argv)
    uvloop.run(serve(options.host, options.port, options.chunks, options.delay_ms / 1000))


if __name__ == "__main__":
    main()
