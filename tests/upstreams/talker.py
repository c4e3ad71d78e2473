"""A provider of realtime sessions, on loopback, as OpenAI has them.

It answers `response.create` with a response of `words` words, and `input_audio_buffer.commit` with a transcription and
a response of its own accord (voice detection). What it was sent is in `events`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

USAGE: Mapping[str, Any] = {
    "total_tokens": 15,
    "input_tokens": 10,
    "output_tokens": 5,
    "input_token_details": {"text_tokens": 10, "audio_tokens": 0, "cached_tokens": 0},
    "output_token_details": {"text_tokens": 5, "audio_tokens": 0},
}
HEARD: Mapping[str, Any] = {
    "type": "tokens",
    "input_tokens": 20,
    "output_tokens": 3,
    "total_tokens": 23,
    "input_token_details": {"text_tokens": 0, "audio_tokens": 20},
}


@dataclass
class Talker:
    """The server. `hang` keeps responses unfinished until they are cancelled; `drop` cuts the connection instead."""

    words: int = 3
    usage: Mapping[str, Any] | None = field(default_factory=lambda: dict(USAGE))
    session: dict[str, Any] = field(default_factory=dict)
    hang: bool = False
    drop: bool = False
    refuse: int = 0
    """A status instead of the handshake."""
    events: list[dict[str, Any]] = field(default_factory=list)
    frames: list[str] = field(default_factory=list)
    handshakes: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/v1/realtime", self._serve)
        self._ids = itertools.count(1)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def kinds(self) -> list[str]:
        """The types of what it was sent."""
        return [event["type"] for event in self.events]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.handshakes.append((request.path_qs, {name.lower(): value for name, value in request.headers.items()}))
        if self.refuse:
            return web.Response(status=self.refuse, text="sk-operators-own-0123456789abcdef is wrong")
        line = web.WebSocketResponse(max_msg_size=16 << 20)
        await line.prepare(request)
        await self._say(line, "session.created", session={"id": "sess_1", "model": "m", **self.session})
        async for message in line:
            event = json.loads(message.data)
            self.frames.append(message.data)
            self.events.append(event)
            await self._react(line, event)
        return line

    async def _react(self, line: web.WebSocketResponse, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "session.update":
            self.session.update(event["session"])
            await self._say(line, "session.updated", session={"id": "sess_1", "model": "m", **self.session})
        elif kind == "response.create" and event.get("response", {}).get("instructions") == "fail":
            error = {"type": "invalid_request_error", "message": "no, sk-abcdefgh", "event_id": event.get("event_id")}
            await self._say(line, "error", error=error)
        elif kind == "response.create":
            await self._respond(line, event.get("response", {}).get("max_output_tokens"))
        elif kind == "input_audio_buffer.commit":
            await self._say(
                line,
                "conversation.item.input_audio_transcription.completed",
                item_id="item_1",
                content_index=0,
                transcript="hi",
                usage=dict(HEARD),
            )
            await self._respond(line, None)
        elif kind == "response.cancel":
            await self._done(line, event["response_id"], "cancelled", {**USAGE, "output_tokens": 1})

    async def _respond(self, line: web.WebSocketResponse, bound: int | None) -> None:
        response_id = f"resp_{next(self._ids)}"
        await self._say(line, "response.created", response={"id": response_id, "status": "in_progress", "usage": None})
        for _ in range(self.words):
            await self._say(line, "response.output_text.delta", response_id=response_id, delta="word")
        if self.drop:
            assert line._req is not None
            assert line._req.transport is not None
            await asyncio.sleep(0.02)
            line._req.transport.abort()
        elif not self.hang:
            await self._done(line, response_id, "completed", self.usage)

    async def _done(
        self, line: web.WebSocketResponse, response_id: str, status: str, usage: Mapping[str, Any] | None
    ) -> None:
        await self._say(line, "response.done", response={"id": response_id, "status": status, "usage": usage})

    async def _say(self, line: web.WebSocketResponse, kind: str, **fields: Any) -> None:
        if not line.closed:
            await line.send_str(json.dumps({"type": kind, "event_id": f"event_{next(self._ids)}", **fields}))
