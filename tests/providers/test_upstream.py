from __future__ import annotations

import asyncio
import inspect
import socket
import ssl
import time
from collections.abc import AsyncIterator

import aiohttp
import aiohttp.client_exceptions
import aiohttp.http_exceptions
import orjson
import pytest

from faregate.errors import ConfigError, UpstreamError, UpstreamTimeout
from faregate.ports import Timeouts
from faregate.providers.upstream import FOREIGN, Upstream, UpstreamAnswer, prepare, translate
from tests.upstreams.scripted import Script, Scripted

SECRET = "sk-very-secret"
FAST = Timeouts(connect_s=1, first_byte_s=5, idle_s=5)


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    async with Scripted() as server:
        yield server


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    yield upstream
    await upstream.close()


async def post(
    upstream: Upstream, server: Scripted, script: Script, *, stream: bool = True, timeouts: Timeouts = FAST
) -> UpstreamAnswer:
    server.scripts["m"] = script
    body = {"model": "m", "messages": [], "stream": stream, "stream_options": {"include_usage": True}}
    target = prepare(server.url + "/chat/completions", {"authorization": f"Bearer {SECRET}"})
    return await upstream.post(target, {}, orjson.dumps(body), timeouts)


async def read(answer: UpstreamAnswer) -> bytes:
    """All of it, each chunk a real event."""
    body = b""
    try:
        async for chunk in answer.chunks():
            answer.touch()
            body += chunk
    finally:
        await answer.close()
    return body


async def read_broken(answer: UpstreamAnswer, event: bytes = b"") -> tuple[bytes, UpstreamError]:
    """What came and how it broke; only chunks that hold `event` are real."""
    body = b""
    try:
        async for chunk in answer.chunks():
            if event in chunk:
                answer.touch()
            body += chunk
    except UpstreamError as error:
        return body, error
    finally:
        await answer.close()
    raise AssertionError("the body ended well")


async def test_bytes_arrive_as_they_were_sent(upstream: Upstream, server: Scripted) -> None:
    pieces = ("data: {}\r\n\r\n", ": c\n", "\u2028x", "data: [DONE]")
    answer = await post(upstream, server, Script(raw=pieces))
    assert answer.status == 200
    assert await read(answer) == "".join(pieces).encode()


async def test_header_names_are_lower_case(upstream: Upstream, server: Scripted) -> None:
    answer = await post(upstream, server, Script(headers=(("X-Thing", "A"),)))
    assert answer.headers["x-thing"] == "A"
    await answer.close()


async def test_compression_is_declined(upstream: Upstream, server: Scripted) -> None:
    await read(await post(upstream, server, Script()))
    assert server.served[0].headers["accept-encoding"] == "identity"


async def test_a_finished_answer_gives_its_connection_back(upstream: Upstream, server: Scripted) -> None:
    for _ in range(5):
        await read(await post(upstream, server, Script()))
    assert server.connections == 1


async def test_closing_early_cuts_the_connection(upstream: Upstream, server: Scripted) -> None:
    answer = await post(upstream, server, Script(output_tokens=10_000, delay_s=0.001))
    await anext(answer.chunks())
    await answer.close()
    for _ in range(100):
        if server.served[0].outcome != "open":
            break
        await asyncio.sleep(0.01)
    assert server.served[0].outcome == "aborted"
    assert server.served[0].output_tokens < 1000


@pytest.mark.parametrize("fault", ["reset_before_headers", "close_before_headers"])
async def test_no_answer_is_a_retryable_error(upstream: Upstream, server: Scripted, fault: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        await post(upstream, server, Script(fault=fault))  # type: ignore[arg-type]
    assert caught.value.retryable


async def test_a_refused_connection_is_a_retryable_error(upstream: Upstream, server: Scripted) -> None:
    with pytest.raises(UpstreamError) as caught:
        await upstream.post(prepare(server.refused_url, {}), {}, b"{}", FAST)
    assert caught.value.retryable


async def test_a_closed_kept_alive_connection_is_an_error_before_any_answer(
    upstream: Upstream, server: Scripted
) -> None:
    await read(await post(upstream, server, Script()))
    with pytest.raises(UpstreamError):
        await post(upstream, server, Script(fault="close_before_headers"))
    assert server.connections == 1


async def test_silence_before_the_headers_times_out(upstream: Upstream, server: Scripted) -> None:
    timeouts = Timeouts(connect_s=1, first_byte_s=0.1, idle_s=5)
    with pytest.raises(UpstreamTimeout):
        await post(upstream, server, Script(fault="hang_before_headers"), timeouts=timeouts)


async def test_silence_in_the_middle_times_out(upstream: Upstream, server: Scripted) -> None:
    timeouts = Timeouts(connect_s=1, first_byte_s=5, idle_s=0.1)
    answer = await post(upstream, server, Script(fault="hang_mid"), timeouts=timeouts)
    body, error = await read_broken(answer)
    assert isinstance(error, UpstreamTimeout)
    assert b"word" in body


async def test_comments_alone_do_not_keep_a_stream_alive(upstream: Upstream, server: Scripted) -> None:
    timeouts = Timeouts(connect_s=1, first_byte_s=5, idle_s=0.2)
    answer = await post(upstream, server, Script(fault="comments"), timeouts=timeouts)
    begun = time.monotonic()
    _, error = await read_broken(answer, b"data:")
    assert isinstance(error, UpstreamTimeout)
    assert time.monotonic() - begun < 2


async def test_headers_without_an_event_have_the_first_byte_time(upstream: Upstream, server: Scripted) -> None:
    timeouts = Timeouts(connect_s=1, first_byte_s=0.3, idle_s=0.05)
    script = Script(fault="comments", output_tokens=0)
    answer = await post(upstream, server, script, timeouts=timeouts)
    begun = time.monotonic()
    _, error = await read_broken(answer, b"data:")
    assert isinstance(error, UpstreamTimeout)
    assert 0.15 < time.monotonic() - begun < 2


async def test_a_slow_stream_lives_while_events_come(upstream: Upstream, server: Scripted) -> None:
    timeouts = Timeouts(connect_s=1, first_byte_s=5, idle_s=0.3)
    answer = await post(upstream, server, Script(output_tokens=10, delay_s=0.1), timeouts=timeouts)
    assert (await read(answer)).endswith(b"data: [DONE]\n\n")


async def test_the_consumers_own_time_is_no_silence(upstream: Upstream, server: Scripted) -> None:
    timeouts = Timeouts(connect_s=1, first_byte_s=5, idle_s=0.15)
    answer = await post(upstream, server, Script(output_tokens=6, delay_s=0.02), timeouts=timeouts)
    async for _ in answer.chunks():
        answer.touch()
        await asyncio.sleep(0.2)
    await answer.close()
    assert server.served[0].outcome == "completed"


async def test_the_whole_call_has_a_bound(server: Scripted) -> None:
    upstream = Upstream(total_s=0.3)
    answer = await post(upstream, server, Script(output_tokens=1000, delay_s=0.02))
    _, error = await read_broken(answer)
    assert isinstance(error, UpstreamTimeout)
    await upstream.close()


async def test_closing_gives_open_answers_up_and_refuses_what_comes_later(upstream: Upstream, server: Scripted) -> None:
    answer = await post(upstream, server, Script(output_tokens=1000, delay_s=0.05))
    reading = asyncio.create_task(read_broken(answer))
    await asyncio.sleep(0.12)
    await upstream.close()
    body, error = await asyncio.wait_for(reading, 1)
    assert body
    assert "given up" in str(error)
    with pytest.raises(UpstreamError, match="shutting down"):
        await post(upstream, server, Script())


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", ["truncate", "reset_mid"])
async def test_a_broken_body_is_an_error_after_what_came(
    upstream: Upstream, server: Scripted, fault: str, stream: bool
) -> None:
    script = Script(fault=fault, output_tokens=10)  # type: ignore[arg-type]
    body, _ = await read_broken(await post(upstream, server, script, stream=stream))
    if stream:
        assert body.count(b"word") == 5
    else:
        assert len(body) > 50


async def test_an_error_status_is_an_answer(upstream: Upstream, server: Scripted) -> None:
    answer = await post(upstream, server, Script(status=429, headers=(("retry-after", "7"),)))
    assert (answer.status, answer.headers["retry-after"]) == (429, "7")
    assert b"scripted 429" in await read(answer)


async def test_a_redirect_is_not_followed(upstream: Upstream, server: Scripted) -> None:
    with pytest.raises(UpstreamError, match="redirect"):
        await post(upstream, server, Script(status=307, headers=(("location", server.url),)))
    assert len(server.served) == 1


async def test_cookies_are_not_kept(upstream: Upstream, server: Scripted) -> None:
    for _ in range(2):
        await read(await post(upstream, server, Script(headers=(("set-cookie", "a=b"),))))
    assert "cookie" not in server.served[1].headers


async def test_connections_have_tcp_nodelay(upstream: Upstream, server: Scripted) -> None:
    answer = await post(upstream, server, Script(delay_s=0.05))
    connection = answer._response.connection
    assert connection is not None
    assert connection.transport is not None
    sock = connection.transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    await answer.close()


def raised_by_aiohttp() -> list[type[BaseException]]:
    """Every exception class of aiohttp's client and HTTP parser."""
    modules = (aiohttp.client_exceptions, aiohttp.http_exceptions)
    classes = {cls for module in modules for _, cls in inspect.getmembers(module, inspect.isclass)}
    classes -= {aiohttp.WSMessageTypeError}  # websockets are not used here
    return sorted((c for c in classes if issubclass(c, Exception) and "aiohttp" in c.__module__), key=str)


@pytest.mark.parametrize("kind", raised_by_aiohttp())
def test_every_exception_of_aiohttp_is_translated(kind: type[BaseException]) -> None:
    error = kind.__new__(kind)
    assert isinstance(error, FOREIGN)
    assert isinstance(translate(error), UpstreamTimeout) == isinstance(error, TimeoutError)


@pytest.mark.parametrize("kind", [ConnectionResetError, BrokenPipeError, TimeoutError, ssl.SSLError, OSError])
def test_every_exception_of_the_wire_is_translated(kind: type[OSError]) -> None:
    assert isinstance(kind(), FOREIGN)
    assert isinstance(translate(kind()), UpstreamError)


@pytest.mark.parametrize("fault", ["reset_before_headers", "truncate"])
async def test_errors_carry_nothing_of_the_request(upstream: Upstream, server: Scripted, fault: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        await read(await post(upstream, server, Script(fault=fault)))  # type: ignore[arg-type]
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    assert SECRET not in caught.value.message
    assert "127.0.0.1" not in caught.value.message


def test_a_key_with_a_line_break_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError) as caught:
        prepare("http://127.0.0.1/v1", {"authorization": f"Bearer {SECRET}\n"})
    assert SECRET not in caught.value.message


async def test_abort_ends_a_read_that_waits(upstream: Upstream, server: Scripted) -> None:
    answer = await post(upstream, server, Script(fault="hang_mid", output_tokens=10))
    await anext(answer.chunks())
    asyncio.get_running_loop().call_later(0.05, answer.abort)
    with pytest.raises(UpstreamError) as caught:
        await asyncio.wait_for(read(answer), 2)
    assert not isinstance(caught.value, UpstreamTimeout)
    await asyncio.sleep(0.05)
    assert server.served[0].outcome == "aborted"
