"""The way in: hot paths past the router, everything else through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from faregate.gateway.doors import Pattern


class Front:
    """The data plane's paths go straight to their endpoints; everything else takes Starlette's way."""

    def __init__(
        self, rest: ASGIApp, exact: Mapping[str, ASGIApp], named: Sequence[tuple[Pattern, ASGIApp]] = ()
    ) -> None:
        """`named`: paths that hold a model's name, looked at when no exact one fits."""
        self._rest = rest
        self._exact = exact
        self._named = named

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = None
        if scope["type"] == "http":
            endpoint = self._exact.get(scope["path"]) or self._by_name(scope)
        await (endpoint or self._rest)(scope, receive, send)

    def _by_name(self, scope: Scope) -> ASGIApp | None:
        path, query = scope["path"], scope["query_string"]
        return next((endpoint for pattern, endpoint in self._named if pattern.matches(path, query)), None)
