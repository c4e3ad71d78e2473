"""One data-plane endpoint as an ASGI callable.

The flow runs in a task that this process owns and that no handler's cancellation touches: a client that leaves, or a
server that cancels its handlers, takes no charge with it (an `await` in a handler's `finally` is cancelled with it).
"""

from __future__ import annotations

import asyncio
import logging

from starlette.types import Receive, Scope, Send

from faregate.core.ids import uuid7_hex
from faregate.errors import FaregateError, MethodNotAllowed, RequestTooLarge, StoreUnavailable
from faregate.gateway.asgi import AsgiReply, header_map, presented_key, read_body, refuse_key_in_url
from faregate.gateway.replays import Serves
from faregate.ports import ClientGone, Dialect, Events, Inbound

log = logging.getLogger("faregate.gateway")

MOST_CALLS = 4_000
"""Of one worker at a time, whatever they wait for; the next ones are refused before their body is read."""


class Endpoint:
    """Serves one endpoint (`chat.completions`, `messages`, ...) in its dialect."""

    def __init__(
        self,
        name: str,
        dialect: Dialect,
        flow: Serves,
        events: Events,
        *,
        max_body_bytes: int,
        calls: set[asyncio.Task[None]] | None = None,
    ) -> None:
        """`calls`: where the running calls can be seen, for whoever has to wait for them."""
        self._name = name
        self._flow = flow
        self._events = events
        self._max_body_bytes = max_body_bytes
        self._dialect = dialect
        self._calls: set[asyncio.Task[None]] = set() if calls is None else calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.create_task(self._serve(scope, receive, send))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        await asyncio.shield(task)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = AsgiReply(receive, send, f"req_{uuid7_hex()}")
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed("this path takes POST only")
            if len(self._calls) > MOST_CALLS:
                raise StoreUnavailable("too many calls are running", retry_after_s=1)
            inbound = await self._inbound(scope, receive, reply)
            await self._flow.serve(inbound, self._dialect, reply)
        except ClientGone:
            self._events.call_refused("client_closed")
        except FaregateError as error:
            await self._refuse(reply, error)
        except Exception:  # the process edge: a defect must not take its traceback to the client
            log.exception("request %s failed", reply.request_id)
            await self._refuse(reply, FaregateError("the gateway failed"))

    async def _inbound(self, scope: Scope, receive: Receive, reply: AsgiReply) -> Inbound:
        headers = header_map(scope)
        refuse_key_in_url(scope["query_string"])
        body = await read_body(receive, headers, self._max_body_bytes)
        return Inbound(
            endpoint=self._name,
            secret=presented_key(headers),
            headers=headers,
            body=body,
            request_id=reply.request_id,
            path=scope["path"],
            query=scope["query_string"],
        )

    async def _refuse(self, reply: AsgiReply, error: FaregateError) -> None:
        self._events.call_refused(error.code)
        if reply.started:
            raise error  # Half a response cannot be turned into an error: the connection is cut instead.
        error.request_id = reply.request_id
        headers, body = self._dialect.error(error)
        headers["content-length"] = str(len(body))
        if isinstance(error, RequestTooLarge):
            headers["connection"] = "close"
        if isinstance(error, MethodNotAllowed):
            headers["allow"] = "POST"
        await reply.start(error.status, headers)
        await reply.finish(body)
