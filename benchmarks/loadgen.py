"""A load generator that costs little itself: raw HTTP/1.1 on asyncio protocols and uvloop, in a process of its own.

    python -m benchmarks.loadgen http://127.0.0.1:9100/v1 --connections 32 --seconds 3 [--stream] [--key K] [--model M]

Each connection calls one after the other. Prints one line of JSON: calls, errors, calls_s, p50_ms, p99_ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast
from urllib.parse import urlsplit

import uvloop

_END = b"0\r\n\r\n"
_TAIL = 32


@dataclass(slots=True)
class Tally:
    """What came back, and how long it took."""

    latencies_s: list[float] = field(default_factory=list)
    errors: int = 0
    stopping: bool = False

    def quantile_ms(self, part: float) -> float:
        """0 without any."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


class Client(asyncio.Protocol):
    """One connection: a request, its answer to the last byte, the next request."""

    def __init__(self, request: bytes, tally: Tally) -> None:
        self._request = request
        self._tally = tally
        self._began = 0.0
        self._good = False
        self._left = -1  # bytes of the body still to come; -1: no head yet, -2: chunked
        self._tail = b""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self._send()

    def data_received(self, data: bytes) -> None:
        if self._left == -1:
            data = self._tail + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._tail = data
                return
            head, data = data[:end].lower(), data[end + 4 :]
            self._good, self._tail = head[9:12] == b"200", b""
            at = head.find(b"content-length:")
            self._left = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else -2
        if self._left >= 0:
            self._left -= len(data)
            if self._left <= 0:
                self._ended()
            return
        tail = self._tail = data[-_TAIL:] if len(data) >= _TAIL else (self._tail + data)[-_TAIL:]
        if tail.endswith(_END):
            self._good = self._good and b"[DONE]" in tail
            self._ended()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._tally.stopping:
            self._tally.errors += 1
        if not self.closed.done():
            self.closed.set_result(None)

    def _send(self) -> None:
        self._left, self._tail = -1, b""
        self._began = perf_counter()
        self._transport.write(self._request)

    def _ended(self) -> None:
        tally = self._tally
        if self._good:
            tally.latencies_s.append(perf_counter() - self._began)
        else:
            tally.errors += 1
        if tally.stopping:
            self._transport.close()
        else:
            self._send()


def request(path: str, host: str, *, key: str, model: str, stream: bool) -> bytes:
    """A small chat completion."""
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "Say something. " * 4}]}
    data = json.dumps(body, separators=(",", ":")).encode()
    head = f"POST {path}/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data


async def run(url: str, *, connections: int, seconds: float, data: bytes) -> dict[str, float]:
    """Call for so long. What came of it."""
    place, tally = urlsplit(url), Tally()
    loop = asyncio.get_running_loop()
    began = perf_counter()
    made = [
        await loop.create_connection(lambda: Client(data, tally), place.hostname or "127.0.0.1", place.port or 80)
        for _ in range(connections)
    ]
    await asyncio.sleep(seconds)
    calls, took_s = len(tally.latencies_s), perf_counter() - began
    tally.stopping = True
    await asyncio.wait([asyncio.ensure_future(client.closed) for _, client in made], timeout=5)
    return {
        "calls": calls,
        "errors": tally.errors,
        "calls_s": calls / took_s,
        "p50_ms": tally.quantile_ms(0.5),
        "p99_ms": tally.quantile_ms(0.99),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--key", default="none")
    parser.add_argument("--model", default="mock")
    chosen = parser.parse_args(argv)
    place = urlsplit(chosen.url)
    data = request(place.path, place.netloc, key=chosen.key, model=chosen.model, stream=chosen.stream)
    work = run(chosen.url, connections=chosen.connections, seconds=chosen.seconds, data=data)
    print(json.dumps(uvloop.run(work)))


if __name__ == "__main__":
    main()
