"""A request read whole (bounded), and the reply on its way: thin on purpose, since every byte of every call passes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl, quote

from starlette.types import Receive, Scope, Send

from faregate.errors import InvalidRequest, RequestTooLarge
from faregate.ports import ClientGone


def header_map(scope: Scope) -> dict[str, str]:
    """Lower-case names; of a doubled header the last one."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


_KEY_HEADERS = ("x-api-key", "x-goog-api-key", "api-key")


def presented_key(headers: Mapping[str, str]) -> str:
    """The key of `Authorization: Bearer …`, `X-API-Key: …`, or as Google's SDK and Azure's send it; "" without one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return next((key for name in _KEY_HEADERS if (key := headers.get(name))), "")


def parameters(query: bytes) -> dict[str, str]:
    """The query's parameters; of a doubled one the last."""
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))


def refuse_key_in_url(query: bytes) -> None:
    """`?key=…`, as Google's pages show it, ends up in the logs of whoever carries it. Raises InvalidRequest."""
    if b"key" in query and "key" in parameters(query):
        raise InvalidRequest("send the key in the header x-goog-api-key: in a URL it ends up in logs", param="key")


async def read_body(receive: Receive, headers: Mapping[str, str], most: int) -> bytes:
    """The whole body. Raises RequestTooLarge as soon as that is known, ClientGone when it breaks off."""
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise RequestTooLarge(f"the body is over {most} bytes")
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > most:
            raise RequestTooLarge(f"the body is over {most} bytes")
        return body
    return await _read_rest(receive, message, most)


async def _read_rest(receive: Receive, message: Mapping[str, object], most: int) -> bytes:
    parts, size = [], 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        assert isinstance(part, bytes)
        size += len(part)
        if size > most:
            raise RequestTooLarge(f"the body is over {most} bytes")
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()


_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))


def _field(value: str) -> bytes:
    """A header's value: printable ASCII as it stands, all else percent-encoded (a model may have any name)."""
    if value.isascii() and value.isprintable():
        return value.encode()
    return quote(value, safe=_PRINTABLE, errors="replace").encode()


class AsgiReply:
    """`ports.Reply` over ASGI. Sending to a client that has left does nothing: `on_gone` tells of it."""

    def __init__(self, receive: Receive, send: Send, request_id: str) -> None:
        self.started = False
        self._receive = receive
        self._send = send
        self.request_id = request_id
        self._watcher: asyncio.Task[None] | None = None

    def on_gone(self, act: Callable[[], object] | None) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
        if act is not None:
            self._watcher = asyncio.create_task(self._watch(act))

    async def _watch(self, act: Callable[[], object]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        act()

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        raw = [(name.encode("latin-1"), _field(value)) for name, value in headers.items()]
        self.started = True
        raw.append((b"x-faregate-request-id", self.request_id.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def send(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def finish(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})
