"""A client that wants nothing but to be killed under: raw HTTP/1.1 on many connections, plain and streaming mixed.

Each call has a name of its own (`user` in its body), which the upstream's account and the usage record carry, too.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

ADMIN_KEY = "a" * 40
_PAUSE_S = 0.05


@dataclass(slots=True, kw_only=True)
class Answer:
    """What a client got for one call."""

    call: str
    stream: bool
    status: int = 0
    """0: the connection broke before a status line."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False
    """The body came to its end, as HTTP has it."""

    @property
    def whole(self) -> bool:
        """A success, received to its last byte."""
        ended = self.complete and self.status == 200
        return ended and (not self.stream or self.body.endswith(b"data: [DONE]\n\n"))


def script(n: int, seed: int = 7) -> dict[str, object]:
    """What the upstream is told to do for the n-th call: small, varied, never the same charge in a row."""
    dice = random.Random(f"{seed}/{n}")
    return {"output_tokens": 1 + n % 13, "delay_s": 0.004, "first_byte_s": round(dice.uniform(0, 0.06), 3)}


def request(
    call: str,
    told: dict[str, object],
    *,
    stream: bool,
    key: str = ADMIN_KEY,
    model: str = "m",
    headers: str = "",
) -> bytes:
    """A chat completion as bytes; the upstream reads its script in the prompt."""
    body = {
        "model": model,
        "user": call,
        "stream": stream,
        "messages": [{"role": "user", "content": f"x-script: {json.dumps(told)}"}],
    }
    data = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: chaos\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(data)}\r\n{headers}\r\n"
    )
    return head.encode() + data


class Wire:
    """One keep-alive connection."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._host = host
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def call(self, answer: Answer, data: bytes) -> Answer:
        """Send and read to the end. A broken connection leaves the answer incomplete."""
        try:
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
            self._writer.write(data)
            await self._read(answer)
        except (OSError, EOFError, ValueError):
            await self.close()
        except asyncio.CancelledError:
            await self.close()
            raise
        return answer

    async def _read(self, answer: Answer) -> None:
        assert self._reader is not None
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        rows = (row.partition(":") for row in head[1:] if row)
        answer.headers = {name.lower(): value.strip() for name, _, value in rows}
        answer.status = int(head[0].split(" ")[1])
        if answer.headers.get("transfer-encoding") == "chunked":
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                answer.body += (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readexactly(2)
        else:
            answer.body = await self._reader.readexactly(int(answer.headers["content-length"]))
        answer.complete = True

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


class Load:
    """`connections` clients that call one after the other, until told to stop.

    async with Load(port) as load: ...kill something...; load.answers
    """

    def __init__(
        self,
        port: int,
        *,
        name: str = "call",
        connections: int = 30,
        calls: int | None = None,
        key: str = ADMIN_KEY,
        told: Callable[[int], dict[str, object]] = script,
        stream: Callable[[int], bool] = lambda n: n % 2 == 0,
    ) -> None:
        self.answers: dict[str, Answer] = {}
        self._port = port
        self._name = name
        self._connections = connections
        self._most = calls
        self._key = key
        self._told = told
        self._stream = stream
        self._count = 0
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._connections)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self, timeout_s: float = 12.0) -> None:
        """Let what is in flight come to its end."""
        self._stopping = True
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def done(self) -> None:
        """With `calls` given: all of them were made."""
        await asyncio.gather(*self._tasks)

    @property
    def whole(self) -> int:
        """Successes so far."""
        return sum(answer.whole for answer in list(self.answers.values()))

    def statuses(self) -> dict[int, int]:
        """How many answers had which status."""
        found: dict[int, int] = {}
        for answer in list(self.answers.values()):
            found[answer.status] = found.get(answer.status, 0) + 1
        return found

    async def _client(self) -> None:
        wire = Wire(self._port)
        try:
            while not self._stopping and (self._most is None or self._count < self._most):
                answer = await self._next(wire)
                if not answer.whole:
                    await asyncio.sleep(_PAUSE_S)
        finally:
            await wire.close()

    async def _next(self, wire: Wire) -> Answer:
        n = self._count
        self._count += 1
        answer = Answer(call=f"{self._name}-{n}", stream=self._stream(n))
        self.answers[answer.call] = answer
        data = request(answer.call, self._told(n), stream=answer.stream, key=self._key)
        return await wire.call(answer, data)
