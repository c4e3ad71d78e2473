"""A provider that keeps responses, on loopback: POST, GET, cancel and DELETE of /v1/responses as OpenAI has them.

A background response stays `queued` for `polls` looks at it, then it is what `ends` says; `usage` is what it tells.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

USAGE: Mapping[str, Any] = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 15,
}


@dataclass
class Keeper:
    """The server; `seen` lists requests as "METHOD path", `bodies` what was posted."""

    polls: int = 2
    ends: str = "completed"
    usage: Mapping[str, Any] | None = field(default_factory=lambda: dict(USAGE))
    text: str = "hello there"
    fault: str = ""
    """cut: a stream breaks off after its text; error: an error event in the middle; 500, 404: what polls get."""
    seen: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/responses", self._create)
        app.router.add_get("/v1/responses/{id}", self._get)
        app.router.add_delete("/v1/responses/{id}", self._delete)
        app.router.add_post("/v1/responses/{id}/cancel", self._cancel)
        app.router.add_get("/v1/responses/{id}/input_items", self._items)
        self._ids = itertools.count(1)
        self._runner = web.AppRunner(app)
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

    def gets(self) -> int:
        """How often it was asked for a response."""
        return sum(line.startswith("GET /v1/responses/") for line in self.seen)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await self._note(request)
        status = "queued" if body.get("background") else self.ends
        made = self._response(f"resp_{next(self._ids):04d}", body, status)
        self.kept[made["id"]] = made
        if body.get("stream"):
            return await self._stream(request, made)
        return web.json_response(made)

    def _response(self, response_id: str, body: Mapping[str, Any], status: str) -> dict[str, Any]:
        ended = status not in ("queued", "in_progress")
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
        content = [{"type": "output_text", "text": self.text, "annotations": []}]
        return {
            "id": response_id,
            "object": "response",
            "created_at": 1_760_000_000,
            "status": status,
            "background": bool(body.get("background")),
            "error": {"code": "server_error", "message": "it failed"} if status == "failed" else None,
            "model": body.get("model", "m"),
            "output": [{**item, "content": content}] if ended and status != "failed" else [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "store": body.get("store", True),
            "usage": self.usage if ended else None,
            "polls": 0,
        }

    async def _stream(self, request: web.Request, made: dict[str, Any]) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        number = itertools.count()

        async def say(kind: str, **fields: Any) -> None:
            data = json.dumps({"type": kind, "sequence_number": next(number), **fields})
            await reply.write(f"event: {kind}\ndata: {data}\n\n".encode())

        await say("response.created", response={**made, "status": "in_progress", "output": [], "usage": None})
        for word in self.text.split():
            await say("response.output_text.delta", item_id="msg_1", output_index=0, content_index=0, delta=word)
        if self.fault == "cut":
            assert request.transport is not None
            request.transport.close()
        elif self.fault == "error":
            await say("error", code="server_error", message="it broke", param=None)
        else:
            made = self.kept[made["id"]] = self._response(made["id"], {**made, "background": False}, self.ends)
            await say(f"response.{self.ends}", response=made)
        return reply

    async def _get(self, request: web.Request) -> web.StreamResponse:
        await self._note(request)
        made = self.kept.get(request.match_info["id"])
        if self.fault.isdecimal() or made is None:
            status = int(self.fault) if self.fault.isdecimal() else 404
            return web.json_response({"error": {"message": "scripted", "type": "x", "code": None}}, status=status)
        made["polls"] += 1
        if made["status"] == "queued" and made["polls"] >= self.polls:
            made = self.kept[made["id"]] = {**self._response(made["id"], made, self.ends), "polls": made["polls"]}
        if request.query.get("stream") == "true":
            return await self._stream(request, made)
        return web.json_response(made)

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        await self._note(request)
        made = self.kept[request.match_info["id"]]
        if made["status"] == "queued":
            made["status"] = "cancelled"
            self.kept[made["id"]] = {**made, "usage": self.usage}
        return web.json_response(made)

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        await self._note(request)
        del self.kept[request.match_info["id"]]
        return web.json_response({"id": request.match_info["id"], "object": "response", "deleted": True})

    async def _items(self, request: web.Request) -> web.StreamResponse:
        await self._note(request)
        return web.json_response({"object": "list", "data": [], "has_more": False})

    async def _note(self, request: web.Request) -> dict[str, Any]:
        self.seen.append(f"{request.method} {request.path_qs}")
        body: dict[str, Any] = json.loads(await request.read() or b"{}")
        if request.method == "POST" and body:
            self.bodies.append(body)
        return body
