from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from faregate.errors import RequestTooLarge
from faregate.gateway.asgi import AsgiReply, header_map, presented_key, read_body
from faregate.ports import ClientGone


class Wire:
    """What a server would hand to an application, and what it gets back."""

    def __init__(self, *messages: Message) -> None:
        self.messages = list(messages)
        self.sent: list[Message] = []
        self.gone = asyncio.Event()

    async def receive(self) -> Message:
        if self.messages:
            return self.messages.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


def part(body: bytes, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def read(*messages: Message, most: int = 10, length: str | None = None) -> bytes:
    headers = {} if length is None else {"content-length": length}
    return await read_body(Wire(*messages).receive, headers, most)


def test_headers_are_found_by_lower_case_names() -> None:
    raw: list[tuple[bytes, bytes]] = [(b"x-a", b"1"), (b"x-a", b"2"), (b"x-b", b"\xe9")]
    assert header_map({"type": "http", "headers": raw}) == {"x-a": "2", "x-b": "é"}


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"authorization": "Bearer fg_live_1"}, "fg_live_1"),
        ({"authorization": "bearer  fg_live_1 "}, "fg_live_1"),
        ({"x-api-key": "fg_live_2"}, "fg_live_2"),
        ({"authorization": "Bearer fg_live_1", "x-api-key": "fg_live_2"}, "fg_live_1"),
        ({"authorization": "Basic dXNlcjpw", "x-api-key": "fg_live_2"}, "fg_live_2"),
        ({"authorization": "fg_live_1"}, ""),
        ({"authorization": "Bearer"}, ""),
        ({}, ""),
    ],
)
def test_the_key_is_a_bearer_token_or_an_x_api_key(headers: dict[str, str], key: str) -> None:
    assert presented_key(headers) == key


async def test_a_body_is_read_whole() -> None:
    assert await read(part(b"0123456789", more=False)) == b"0123456789"
    assert await read(part(b"01234"), part(b""), part(b"56789", more=False)) == b"0123456789"


async def test_a_body_may_be_left_out() -> None:
    """ASGI: `body` is optional."""
    assert await read({"type": "http.request"}) == b""


async def test_a_declared_length_over_the_bound_is_refused_before_a_byte_is_read() -> None:
    with pytest.raises(RequestTooLarge):
        await read(length="11")
    assert await read(part(b"x", more=False), length="10") == b"x"


async def test_a_body_over_the_bound_is_refused_whatever_was_declared() -> None:
    with pytest.raises(RequestTooLarge):
        await read(part(b"x" * 11, more=False), length="1")
    with pytest.raises(RequestTooLarge):
        await read(part(b"x" * 6), part(b"x" * 5), length="-1")


@pytest.mark.parametrize("length", ["", "ten", "-5", "1e3"])
async def test_a_length_that_is_none_is_not_believed(length: str) -> None:
    assert await read(part(b"abc", more=False), length=length) == b"abc"


@pytest.mark.parametrize("before", [(), (part(b"abc"),)])
async def test_a_client_that_leaves_while_it_sends_is_gone(before: tuple[Message, ...]) -> None:
    with pytest.raises(ClientGone):
        await read(*before, {"type": "http.disconnect"})


def reply_on(wire: Wire) -> AsgiReply:
    return AsgiReply(wire.receive, wire.send, "req_1")


async def test_a_reply_is_a_start_parts_and_an_end() -> None:
    wire = Wire()
    reply = reply_on(wire)
    assert reply.started is False
    await reply.start(200, {"x-a": "a b%20c%"})
    await reply.send(b"one")
    await reply.finish(b"two")
    start, first, last = wire.sent
    assert (reply.started, start["status"]) == (True, 200)
    assert start["headers"] == [(b"x-a", b"a b%20c%"), (b"x-faregate-request-id", b"req_1")]
    assert (first["body"], first["more_body"], last["body"], last["more_body"]) == (b"one", True, b"two", False)


@pytest.mark.parametrize("value", ["模型", "\udcff", "a\r\nset-cookie: b", "a\x00b"])
async def test_no_header_value_breaks_the_reply_or_out_of_its_line(value: str) -> None:
    """A model's name comes from the client, a provider's header from anywhere."""
    wire = Wire()
    await reply_on(wire).start(200, {"x-faregate-model": value})
    (_, raw), _ = wire.sent[0]["headers"]
    assert raw.isascii()
    assert raw.decode().isprintable()


async def test_a_name_that_cannot_be_sent_leaves_the_reply_unbegun() -> None:
    """So that an error can still be said."""
    reply = reply_on(Wire())
    with pytest.raises(UnicodeEncodeError):
        await reply.start(200, {"x-模": "a"})
    assert reply.started is False


async def test_who_listens_hears_once_that_the_client_has_left() -> None:
    wire, told = Wire(), []
    reply = reply_on(wire)
    reply.on_gone(lambda: told.append("gone"))
    await asyncio.sleep(0)
    assert told == []
    wire.gone.set()
    await asyncio.sleep(0.01)
    assert told == ["gone"]


async def test_a_client_that_left_before_is_told_too() -> None:
    wire, told = Wire(part(b"", more=False), {"type": "http.disconnect"}), []
    reply_on(wire).on_gone(lambda: told.append("gone"))
    await asyncio.sleep(0.01)
    assert told == ["gone"]


async def test_who_no_longer_listens_hears_nothing() -> None:
    wire, told = Wire(), []
    reply = reply_on(wire)
    reply.on_gone(lambda: told.append("first"))
    reply.on_gone(lambda: told.append("second"))
    await asyncio.sleep(0)
    reply.on_gone(None)
    wire.gone.set()
    await asyncio.sleep(0.01)
    assert told == []
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
