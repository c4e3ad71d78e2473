"""One path of the control plane as an ASGI callable: method, key, scope, handler, reply.

The handler runs in a task of its own that no cancelled connection touches: a client that leaves in the middle of a
deduction takes nothing with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from faregate.api.auth import authenticate, authenticate_person
from faregate.api.errors import MethodNotAllowed, error_reply
from faregate.api.http import Reply, Request, header_map, presented_key, query_map, read_body, send_reply
from faregate.api.idempotency import answer_once
from faregate.api.services import Services
from faregate.auth.scopes import Scope as KeyScope
from faregate.core.ids import uuid7_hex
from faregate.errors import FaregateError, NotFound
from faregate.ports import ClientGone

log = logging.getLogger("faregate.api")

Handler = Callable[[Services, Request], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the route table. `scopes`: any one of them will do; none: public, unless it is a `person`'s."""

    method: str
    path: str
    scopes: tuple[KeyScope, ...]
    handler: Handler
    say: Callable[[FaregateError], Reply] = error_reply
    """How errors are said on its path."""
    max_body_bytes: int | None = None
    """None: what the control plane takes."""
    person: bool = False
    """A user's token opens it, and no key does."""

    @property
    def public(self) -> bool:
        return not self.scopes and not self.person


class Endpoint:
    """Serves the rules of one path."""

    def __init__(self, path: str, rules: Mapping[str, Rule], services: Services) -> None:
        self._path = path
        self._rules = rules
        self._services = services
        self._say = next(iter(rules.values())).say
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.create_task(self._serve(scope, receive, send))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = f"req_{uuid7_hex()}"
        try:
            reply = await self._answer(scope, receive, request_id)
        except ClientGone:
            return
        except FaregateError as error:
            reply = self._say(error)
            if isinstance(error, MethodNotAllowed):
                reply = Reply(body=reply.body, status=error.status, headers={"allow": ", ".join(self._rules)})
        except Exception:  # the process edge: a defect must not take its traceback to the client
            log.exception("request %s failed", request_id)
            reply = self._say(FaregateError("the gateway failed"))
        await send_reply(send, reply, request_id)

    async def _answer(self, scope: Scope, receive: Receive, request_id: str) -> Reply:
        method = scope["method"]
        rule = self._rules.get("GET" if method == "HEAD" else method)
        if rule is None:
            raise MethodNotAllowed(f"{method} is not for this path")
        headers = header_map(scope)
        principal = user = None
        if rule.scopes:
            principal = await authenticate(self._services, presented_key(headers), rule.scopes)
        elif rule.person:
            user = await authenticate_person(self._services, presented_key(headers))
        request = Request(
            method=method,
            route=self._path,
            path_params=scope.get("path_params", {}),
            headers=headers,
            query=query_map(scope),
            raw_body=await read_body(receive, headers, rule.max_body_bytes or self._services.max_body_bytes),
            request_id=request_id,
            caller=principal,
            user=user,
        )
        if method == "POST" and not rule.public:
            return await answer_once(self._services, request, rule.handler)
        return await rule.handler(self._services, request)


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """For paths that nobody serves."""
    reply = error_reply(NotFound("no such path"))
    await send_reply(send, reply, f"req_{uuid7_hex()}")
