"""The WebSocket /v1/realtime at the front door."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from faregate.core.call import Call, Principal
from faregate.core.ids import uuid7_hex
from faregate.errors import FaregateError, InvalidRequest
from faregate.gateway.asgi import header_map, presented_key
from faregate.gateway.common import attribution_of, error_headers, model_of, multiplier_of
from faregate.gateway.openai import error_body
from faregate.ports import ClientGone, Events, Inbound
from faregate.realtime.door import Realtime

log = logging.getLogger("faregate.gateway")

_KEY_PROTOCOL = "openai-insecure-api-key."
_BETA_PROTOCOL = "openai-beta."
_PROTOCOL = "realtime"
_PASSED_ON = ("openai-beta",)


class RealtimeEndpoint:
    """ASGI, one WebSocket a time."""

    def __init__(self, realtime: Realtime, events: Events, calls: set[asyncio.Task[None]]) -> None:
        """`calls`: where the running sessions can be seen, for whoever has to wait for them."""
        self._realtime = realtime
        self._events = events
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.create_task(self._serve(scope, receive, send))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        await asyncio.shield(task)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = f"req_{uuid7_hex()}"
        await receive()  # websocket.connect
        try:
            session = await self._realtime.open(_inbound(scope, request_id), _read)
        except FaregateError as error:
            self._events.call_refused(error.code)
            await _refuse(send, error, request_id)
            return
        except Exception:  # the process edge: a defect must not take its traceback to the client
            log.exception("request %s failed", request_id)
            await _refuse(send, FaregateError("the gateway failed"), request_id)
            return
        accepted = {"type": "websocket.accept", "headers": [(b"x-faregate-request-id", request_id.encode())]}
        if _PROTOCOL in scope.get("subprotocols", ()):
            accepted["subprotocol"] = _PROTOCOL
        client = AsgiSocket(receive, send)
        with suppress(ClientGone):  # The session will hear of it, and end as it should.
            await client.say(accepted)
        await session.run(client)


class AsgiSocket:
    """`ports.Socket` over ASGI."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send

    async def receive(self) -> str | None:
        """The next frame as text; None: the client has left."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            return None
        text: str | None = message.get("text")
        return text if text is not None else (message.get("bytes") or b"").decode("utf-8", "replace")

    async def send(self, text: str) -> None:
        """Raises ClientGone."""
        await self.say({"type": "websocket.send", "text": text})

    async def close(self, code: int, reason: str) -> None:
        """Raises ClientGone."""
        await self.say({"type": "websocket.close", "code": code, "reason": reason[:120]})

    async def say(self, message: Mapping[str, object]) -> None:
        """Servers differ in what they raise for a client that has left. Raises ClientGone."""
        try:
            await self._send(dict(message))
        except (OSError, RuntimeError) as error:
            raise ClientGone from error


def _inbound(scope: Scope, request_id: str) -> Inbound:
    headers = header_map(scope)
    secret = presented_key(headers)
    for name in scope.get("subprotocols", ()):
        if not secret and name.startswith(_KEY_PROTOCOL):
            secret = name.removeprefix(_KEY_PROTOCOL)
        if name.startswith(_BETA_PROTOCOL):
            headers.setdefault("openai-beta", name.removeprefix(_BETA_PROTOCOL).replace("-v", "=v"))
    return Inbound(
        endpoint="realtime",
        secret=secret,
        headers=headers,
        body=b"",
        request_id=request_id,
        path=scope["path"],
        query=scope["query_string"],
    )


def _read(inbound: Inbound, principal: Principal, account_id: str) -> Call:
    """What all responses of a session have in common. Raises InvalidRequest, PermissionDenied."""
    query = dict(parse_qsl(inbound.query.decode("latin-1"), keep_blank_values=True, max_num_fields=32))
    intent = query.get("intent")
    if intent not in (None, "transcription", "conversation"):
        raise InvalidRequest("intent must be conversation or transcription", param="intent")
    if "call_id" in query:
        raise InvalidRequest("call_id is not supported", param="call_id")
    headers = inbound.headers
    return Call(
        id="",
        request_id=inbound.request_id,
        endpoint="realtime",
        model=model_of(query),
        body={},
        raw_body=b"",
        stream=True,
        wants_usage=True,
        account_id=account_id,
        multiplier=multiplier_of(headers, principal),
        attribution=attribution_of(headers, {}),
        forward_headers={name: headers[name] for name in _PASSED_ON if name in headers},
        query={} if intent is None else {"intent": intent},
    )


async def _refuse(send: Send, error: FaregateError, request_id: str) -> None:
    """An HTTP answer in place of the handshake."""
    body = error_body(error)
    headers = {**error_headers(error), "content-length": str(len(body)), "x-faregate-request-id": request_id}
    raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "websocket.http.response.start", "status": error.status, "headers": raw})
    await send({"type": "websocket.http.response.body", "body": body})
