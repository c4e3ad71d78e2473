"""A real HTTP server on loopback that speaks OpenAI's wire and misbehaves on request.

What a request gets is chosen by, first match wins: `x-script: {...}` (JSON of Script's fields) in its last
prompt text, the model's name in `server.scripts`, or the default Script. Bytes go out one write per item, so
a test controls where the wire is cut. The server keeps its own account of what it served, to be compared with
the charges.

    async with Scripted() as upstream: ...; upstream.url, upstream.served
    python -m tests.upstreams.scripted --port 9200         then GET /_served (?brief=1 for the totals alone)
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Self

import orjson

from tests.upstreams.play import Hangup, Line, Play, response
from tests.upstreams.script import SCRIPTS, Script, Served, script_in

__all__ = ["SCRIPTS", "Script", "Scripted", "Served"]


class Scripted:
    """The server. `url` is a base_url; `refused_url` is one where nobody listens."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.scripts: dict[str, Script] = dict(SCRIPTS)
        self.served: list[Served] = []
        self.connections = 0
        self._host, self._port = host, port
        self._ids = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, self._host, self._port, backlog=1024)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}/v1"

    @property
    def refused_url(self) -> str:
        with socket.socket() as free:
            free.bind((self._host, 0))
            return f"http://{self._host}:{free.getsockname()[1]}/v1"

    def totals(self) -> dict[str, int]:
        """The account in short."""
        count: dict[str, int] = {"requests": len(self.served), "input_tokens": 0, "output_tokens": 0}
        for served in self.served:
            count[served.outcome] = count.get(served.outcome, 0) + 1
            count["input_tokens"] += served.input_tokens
            count["output_tokens"] += served.output_tokens
        return count

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._converse(Line(reader, writer))
        except (Hangup, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _converse(self, line: Line) -> None:
        """Requests of one connection, until an end or a fault."""
        while True:
            head = (await line.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ", 2)
            headers = {name.lower(): value.strip() for name, _, value in (row.partition(":") for row in head[1:])}
            body = await line.reader.readexactly(int(headers.get("content-length") or 0))
            if method == "GET":
                await line.write(response(200, orjson.dumps(self._account("brief" not in path))))
                continue
            served = self._receive(path, headers, body)
            if not await self._serve(line, served):
                return

    def _account(self, full: bool) -> dict[str, object]:
        if not full:
            return {"totals": self.totals()}
        rows = [{**asdict(served), "body": served.body.decode("utf-8", "replace")} for served in self.served]
        return {"totals": self.totals(), "requests": rows}

    def _receive(self, path: str, headers: dict[str, str], body: bytes) -> Served:
        parsed = orjson.loads(body)
        served = Served(
            id=f"chatcmpl-{next(self._ids)}",
            path=path,
            endpoint=endpoint_of(path),
            headers=headers,
            body=body,
            model=str(parsed.get("model")),
            stream=parsed.get("stream") is True,
        )
        self.served.append(served)
        return served

    async def _serve(self, line: Line, served: Served) -> bool:
        """One answer; whether the connection can go on."""
        script = script_in(served.json) or self.scripts.get(served.model, Script())
        try:
            kept = await Play(line, served, script).run()
        except (Hangup, asyncio.CancelledError):
            served.outcome = "aborted"
            raise
        served.outcome = "completed" if kept else "faulted"
        return kept


def endpoint_of(path: str) -> str:
    """`/v1/chat/completions` and Azure's `/openai/deployments/d/chat/completions?…` are chat.completions."""
    return re.sub(r"^.*?/(v1|deployments/[^/]+)/", "", path.partition("?")[0]).replace("/", ".")


async def _forever(host: str, port: int) -> None:
    async with Scripted(host=host, port=port) as upstream:
        print(f"listening on {upstream.url}", flush=True)
        await asyncio.Event().wait()


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="An OpenAI-compatible upstream that misbehaves on request.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9200)
    options = parser.parse_args(argv)
    with suppress(KeyboardInterrupt):
        asyncio.run(_forever(options.host, options.port))


if __name__ == "__main__":
    main()
