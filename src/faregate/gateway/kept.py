"""Responses asked for again: GET, cancel and DELETE under /v1/responses/{id}. Their owner's only, and never billed.

What a background response has cost is known when somebody first sees its end: if that is here, it is charged before
the client sees it, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from urllib.parse import parse_qsl, urlencode

from starlette.types import Receive, Scope, Send

from faregate.background import Background
from faregate.core.call import Call, Principal
from faregate.core.ids import uuid7_hex
from faregate.core.truth import polled_call
from faregate.errors import FaregateError, MethodNotAllowed, NotFound, UpstreamError
from faregate.gateway.asgi import AsgiReply, header_map, presented_key, read_body
from faregate.gateway.responses import MOST_ID, ResponsesDialect
from faregate.ports import Answer, ClientGone, Events, Kept, KeptVerb, Meter, Provider

log = logging.getLogger("faregate.gateway")

PATHS = ("/v1/responses/{id}", "/v1/responses/{id}/{part}")
_VERBS: Mapping[tuple[str, str], KeptVerb] = {
    ("GET", ""): "get",
    ("DELETE", ""): "delete",
    ("POST", "cancel"): "cancel",
    ("GET", "input_items"): "input_items",
}
ROUTES = tuple([f"{method} {PATHS[0]}" + (f"/{part}" if part else "") for method, part in _VERBS])
"""As the documentation has them."""
_QUERY = frozenset(
    {"include", "include[]", "stream", "starting_after", "include_obfuscation", "limit", "order", "after"}
)
"""What of a client's query goes upstream."""
_MOST_BODY_BYTES = 65_536
"""Of requests that say nothing in their body."""
_DIALECT = ResponsesDialect()


class KeptEndpoint:
    """ASGI for one response, named by the path: `id`, and `part` (cancel, input_items)."""

    def __init__(
        self, background: Background, authenticate: Callable[[str], Awaitable[Principal]], events: Events
    ) -> None:
        self._background = background
        self._authenticate = authenticate
        self._events = events
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.create_task(self._serve(scope, receive, send))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = AsgiReply(receive, send, f"req_{uuid7_hex()}")
        try:
            await self._answer(scope, receive, reply)
        except ClientGone:
            return
        except FaregateError as error:
            await self._refuse(reply, error)
        except Exception:  # the process edge: a defect must not take its traceback to the client
            log.exception("request %s failed", reply.request_id)
            await self._refuse(reply, FaregateError("the gateway failed"))

    async def _answer(self, scope: Scope, receive: Receive, reply: AsgiReply) -> None:
        part, response_id = scope["path_params"].get("part", ""), scope["path_params"]["id"]
        headers = header_map(scope)
        await read_body(receive, headers, _MOST_BODY_BYTES)
        verb = _VERBS.get((scope["method"], part))
        if verb is None:
            if part in ("", "cancel", "input_items"):
                raise MethodNotAllowed(f"{scope['method']} is not for this path")
            raise NotFound("no such path")
        principal = await self._authenticate(presented_key(headers))
        if len(response_id) > MOST_ID:
            raise NotFound("no such response")
        kept = await self._background.find(principal, response_id)
        if verb == "delete":
            await self._spent_first(kept)
        await self._relay(kept, verb, _query(scope["query_string"]), reply)

    async def _spent_first(self, kept: Kept) -> None:
        """What is deleted cannot be asked what it cost: a response that runs is cancelled and charged before."""
        if kept.running is not None:
            _, answer = await self._background.ask(kept, "cancel")
            await answer.close()
            await self._background.look(kept)

    async def _relay(self, kept: Kept, verb: KeptVerb, query: str, reply: AsgiReply) -> None:
        provider, answer = await self._background.ask(kept, verb, query)
        meter = provider.meter(_call(kept, "stream=true" in query.split("&")), answer)
        try:
            async for chunk in answer.chunks():
                seen = meter.events
                out = meter.feed(chunk)
                if meter.events != seen:
                    answer.touch()
                if out:
                    await _send(reply, provider, answer, out)
        finally:
            await answer.close()
        await self._learn(kept, verb, meter, answer)
        rest = meter.finish(None, 0)
        if not reply.started:
            rest = _body(provider, answer, rest)
            await reply.start(answer.status, {**_headers(provider, answer), "content-length": str(len(rest))})
        await reply.finish(rest)

    async def _learn(self, kept: Kept, verb: KeptVerb, meter: Meter, answer: Answer) -> None:
        if verb == "delete" and (answer.status < 400 or answer.status == 404):
            await self._background.forget(kept)
        if answer.status >= 400 or verb not in ("get", "cancel") or kept.running is None:
            return
        reading = meter.reading(answer.status, answer.headers)
        if verb == "cancel" and reading.complete and reading.usage is None:
            await self._background.look(kept)  # What was spent is told when it is asked for.
        else:
            await self._background.learn(kept, reading)

    async def _refuse(self, reply: AsgiReply, error: FaregateError) -> None:
        self._events.call_refused(error.code)
        if reply.started:
            raise error  # Half a response cannot be turned into an error: the connection is cut instead.
        headers, body = _DIALECT.error(error)
        await reply.start(error.status, {**headers, "content-length": str(len(body))})
        await reply.finish(body)


def _call(kept: Kept, stream: bool) -> Call:
    """For the meter."""
    if kept.running is not None:
        return replace(polled_call(kept.running), stream=stream)
    return Call(
        id=kept.hold_id,
        request_id="",
        endpoint="responses",
        model=kept.model,
        body={},
        raw_body=b"",
        stream=stream,
        wants_usage=True,
        account_id=kept.account_id,
    )


async def _send(reply: AsgiReply, provider: Provider, answer: Answer, out: bytes) -> None:
    if not reply.started:
        await reply.start(answer.status, _headers(provider, answer))
    await reply.send(out)


def _headers(provider: Provider, answer: Answer) -> dict[str, str]:
    return {**provider.reply_headers(answer), "x-faregate-provider": provider.name}


def _body(provider: Provider, answer: Answer, body: bytes) -> bytes:
    """As the provider sent it; its trouble with our credentials, and its own, are ours to tell."""
    if answer.status in (401, 402, 403):
        raise UpstreamError("the provider refused the gateway's own account for this response")
    if answer.status >= 500:
        raise UpstreamError(f"the provider failed with status {answer.status}")
    return _DIALECT.refusal(answer.status, provider.redact(body)) if answer.status >= 400 else body


def _query(raw: bytes) -> str:
    """The parameters that are known, in their order."""
    pairs = parse_qsl(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=64)
    return urlencode([(name, value) for name, value in pairs if name in _QUERY])
