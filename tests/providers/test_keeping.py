"""Where responses are asked for again and sessions opened, and with what key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from faregate.errors import UpstreamError
from faregate.meter import meter_for
from faregate.ports import Keeper, Talker
from faregate.providers.registry import build_providers
from faregate.providers.upstream import Upstream
from faregate.settings import Settings


class Seen:
    """A server that says yes to everything and remembers it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.lines.append(f"{request.method} {request.raw_path}")
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if "upgrade" in self.headers[-1]:
            line = web.WebSocketResponse()
            await line.prepare(request)
            await line.send_str("hello")
            await line.receive()
            return line
        return web.json_response({})


@pytest.fixture
async def seen() -> AsyncIterator[Seen]:
    seen = Seen()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", seen.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    seen.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield seen
    await runner.cleanup()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    yield upstream
    await upstream.close()


def provider(upstream: Upstream, kind: str, url: str, **options: Any) -> Any:
    config = {"kind": kind, "base_url": url, "api_key": "the-key", **options}
    providers = Settings.model_validate({"providers": {"one": config}}).providers
    return build_providers({**providers}, upstream, meter_for)["one"]


@pytest.mark.parametrize(
    ("verb", "line"),
    [
        ("get", "GET /v1/responses/resp_1?include=x"),
        ("input_items", "GET /v1/responses/resp_1/input_items?include=x"),
        ("cancel", "POST /v1/responses/resp_1/cancel?include=x"),
        ("delete", "DELETE /v1/responses/resp_1?include=x"),
    ],
)
async def test_openai_is_asked_for_a_response(upstream: Upstream, seen: Seen, verb: Any, line: str) -> None:
    openai = provider(upstream, "openai", f"{seen.url}/v1")
    assert isinstance(openai, Keeper)
    await (await openai.kept(verb, "resp_1", "m", "include=x")).close()
    assert seen.lines == [line]
    assert seen.headers[0]["authorization"] == "Bearer the-key"
    assert seen.headers[0].get("content-length", "0") == "0"


async def test_an_id_leads_nowhere_else(upstream: Upstream, seen: Seen) -> None:
    openai = provider(upstream, "openai", f"{seen.url}/v1")
    await (await openai.kept("get", "../files?x", "m", "")).close()
    assert seen.lines == ["GET /v1/responses/..%2Ffiles%3Fx"]


async def test_azure_keeps_them_at_its_v1_url(upstream: Upstream, seen: Seen) -> None:
    azure = provider(upstream, "azure", seen.url)
    await (await azure.kept("cancel", "resp_1", "m", "")).close()
    assert seen.lines == ["POST /openai/v1/responses/resp_1/cancel"]
    assert seen.headers[0]["api-key"] == "the-key"


@pytest.mark.parametrize(
    ("kind", "path", "header"),
    [
        ("openai", "/v1/realtime?model=a%26b", ("authorization", "Bearer the-key")),
        ("azure", "/openai/v1/realtime?model=my-deployment", ("api-key", "the-key")),
    ],
)
async def test_sessions_are_opened(
    upstream: Upstream, seen: Seen, kind: str, path: str, header: tuple[str, str]
) -> None:
    own = {"deployments": {"a&b": "my-deployment"}} if kind == "azure" else {}
    talker = provider(upstream, kind, f"{seen.url}/v1" if kind == "openai" else seen.url, **own)
    assert isinstance(talker, Talker)
    assert talker.serves("realtime", "a&b")  # type: ignore[attr-defined]
    socket = await talker.talk("a&b", {}, {"openai-beta": "realtime=v1"})
    assert await socket.receive() == "hello"
    await socket.close(1000, "")
    assert await socket.receive() is None
    assert seen.lines == [f"GET {path}"]
    assert (seen.headers[0][header[0]], seen.headers[0]["openai-beta"]) == (header[1], "realtime=v1")


async def test_a_session_that_nobody_answers_is_an_upstream_error(upstream: Upstream) -> None:
    openai = provider(upstream, "openai", "http://127.0.0.1:9/v1")
    with pytest.raises(UpstreamError) as caught:
        await openai.talk("m", {}, {})
    assert caught.value.__context__ is None
