"""The WebSocket /v1/realtime: frames as they came, a hold and a charge a response."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from faregate.core.call import bucket_of
from tests.story.conftest import Open
from tests.story.house import CREDIT, HEARTBEAT_S, INPUT, OUTPUT, PROVIDER_KEY, Caller, House, eventually
from tests.upstreams.talker import Talker

FARE = 10 * INPUT + 5 * OUTPUT
HEARD = 20 * INPUT + 3 * OUTPUT


@pytest.fixture
async def talker() -> AsyncIterator[Talker]:
    async with Talker() as talker:
        yield talker


@pytest.fixture
async def talk(open_house: Open, talker: Talker) -> House:
    """A house whose `up` has realtime sessions."""
    return await open_house(**{"providers.up": {"base_url": talker.url}})


@asynccontextmanager
async def line(house: House, by: Caller | None = None, model: str = "up/m", **more: Any) -> AsyncIterator[Line]:
    """A session whose first event was heard."""
    url = house.url.replace("http", "ws") + f"/v1/realtime?model={model}"
    headers = {"authorization": f"Bearer {(by or house.me).secret}"}
    async with connect(url, additional_headers=headers, **more) as socket:
        one = Line(socket)
        assert (await one.next())["type"] == "session.created"
        yield one


class Line:
    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            event: dict[str, Any] = json.loads(await self.socket.recv())
            return event

    async def until(self, kind: str) -> dict[str, Any]:
        while (event := await self.next())["type"] != kind:
            pass
        return event

    async def closed(self) -> int:
        """The code it was closed with."""
        with suppress(ConnectionClosed):
            while await self.next():
                pass
        assert self.socket.close_code is not None
        return self.socket.close_code


# What goes well -----------------------------------------------------------------------------------------


async def test_a_response_is_charged_before_it_is_done(talk: House) -> None:
    async with line(talk) as one:
        await one.say("response.create")
        await one.until("response.done")
        assert [record.charge_microcredits for record in await talk.records()] == [FARE]
    record = await talk.record()
    assert (record.endpoint, record.estimated, record.outcome) == ("realtime", False, "ok")
    assert await talk.balance() == 1000 * CREDIT - FARE


async def test_frames_pass_as_they_came(talk: House, talker: Talker) -> None:
    frame = '{ "type":"conversation.item.create","item" : {"content":[{"type":"input_text","text":"\\u00e9 é"}]}}'
    async with line(talk) as one:
        await one.socket.send(frame)
        await one.say("response.create", event_id="mine")
        await one.until("response.done")
    assert talker.frames == [frame, '{"type": "response.create", "event_id": "mine"}']
    await talk.settled()


async def test_every_response_pays_for_itself(talk: House) -> None:
    async with line(talk) as one:
        for _ in range(3):
            await one.say("response.create")
            await one.until("response.done")
    await talk.settled()
    assert [record.charge_microcredits for record in await talk.records()] == [FARE] * 3


async def test_a_hold_comes_before_the_connection(talk: House, talker: Talker) -> None:
    poor = await talk.caller(0)
    with pytest.raises(InvalidStatus) as caught:
        async with line(talk, by=poor):
            pass
    assert caught.value.response.status_code == 402
    assert json.loads(caught.value.response.body)["error"]["code"] == "insufficient_credits"
    assert talker.handshakes == []


async def test_an_idle_session_holds_for_its_first_response(talk: House) -> None:
    async with line(talk):
        assert len(await talk.holds()) == 1
        await asyncio.sleep(5 * HEARTBEAT_S)
        assert len(await talk.holds()) == 1
    await talk.settled()
    assert await talk.balance() == 1000 * CREDIT


async def test_the_key_may_come_as_a_subprotocol(talk: House, talker: Talker) -> None:
    url = talk.url.replace("http", "ws") + "/v1/realtime?model=up/m"
    offered = ("realtime", f"openai-insecure-api-key.{talk.me.secret}", "openai-beta.realtime-v1")
    async with connect(url, subprotocols=[Subprotocol(name) for name in offered]) as socket:
        assert socket.subprotocol == "realtime"
        await Line(socket).until("session.created")
    path, headers = talker.handshakes[0]
    assert path == "/v1/realtime?model=m"
    assert headers["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert headers["openai-beta"] == "realtime=v1"
    assert "sec-websocket-protocol" not in headers
    await talk.settled()


async def test_the_bound_is_lowered_to_what_the_account_covers(talk: House, talker: Talker) -> None:
    poor = await talk.caller(400 * OUTPUT)
    async with line(talk, by=poor) as one:
        await one.say("response.create", response={"instructions": "be short"})
        await one.until("response.done")
    sent = talker.events[0]["response"]
    assert sent["instructions"] == "be short"
    assert 64 <= sent["max_output_tokens"] < 400
    await talk.settled(poor)


# What the server begins by itself -----------------------------------------------------------------------


async def test_voice_detection_and_what_was_heard_are_charged(talk: House) -> None:
    transcription = {"audio": {"input": {"transcription": {"model": "listener"}}}}
    async with line(talk) as one:
        await one.say("session.update", session=transcription)
        await one.say("input_audio_buffer.append", audio="A" * 64)
        await one.say("input_audio_buffer.commit")
        await one.until("response.done")
    await talk.settled()
    records = sorted((record.charge_microcredits, record.model) for record in await talk.records())
    assert records == sorted([(FARE, "m"), (HEARD, "listener")])


async def test_what_nobody_asked_for_is_cancelled_when_it_is_not_covered(talk: House, talker: Talker) -> None:
    talker.hang = True
    poor = await talk.caller(400 * OUTPUT)
    async with line(talk, by=poor) as one:
        await one.say("input_audio_buffer.commit")
        assert (await one.until("error"))["error"]["code"] == "insufficient_credits"
        assert await one.closed() == 1008
    assert talker.kinds() == ["input_audio_buffer.commit", "response.cancel"]
    await talk.settled(poor)
    charges = sorted(record.charge_microcredits for record in await talk.records(poor) if record.outcome != "released")
    assert charges == [10 * INPUT + OUTPUT, HEARD]


# What goes wrong ----------------------------------------------------------------------------------------


async def test_when_the_credits_are_gone_it_is_said_and_closed(talk: House, talker: Talker) -> None:
    talker.usage = {"input_tokens": 10, "output_tokens": 990, "total_tokens": 1000}
    poor = await talk.caller(1000 * OUTPUT)
    async with line(talk, by=poor) as one:
        await one.say("response.create")
        await one.until("response.done")
        await one.say("response.create", event_id="second")
        error = (await one.until("error"))["error"]
        assert (error["code"], error["type"]) == ("insufficient_credits", "insufficient_credits")
        assert await one.closed() == 1008
    assert talker.kinds() == ["response.create"]
    await talk.settled(poor)


async def test_a_client_that_leaves_pays_what_the_provider_says(talk: House, talker: Talker) -> None:
    talker.hang = True
    async with line(talk) as one:
        await one.say("response.create")
        await one.until("response.output_text.delta")
    await eventually(talk.records)
    record = await talk.record()
    assert (record.charge_microcredits, record.estimated) == (10 * INPUT + OUTPUT, False)
    assert talker.kinds() == ["response.create", "response.cancel"]


async def test_a_connection_that_breaks_is_charged_by_what_came(talk: House, talker: Talker) -> None:
    talker.drop = True
    async with line(talk) as one:
        await one.say("response.create")
        assert await one.closed() == 1011
    record = await talk.record()
    assert (record.estimated, record.outcome) == (True, "upstream_error")
    assert 3 * OUTPUT <= record.charge_microcredits < FARE + 100 * INPUT


async def test_an_event_that_is_refused_holds_nothing(talk: House) -> None:
    async with line(talk) as one:
        await one.say("response.create", event_id="e1", response={"instructions": "fail"})
        error = (await one.until("error"))["error"]
        assert error["message"] == "no, [redacted]"
        assert await eventually(lambda: _holds_nothing(talk))
        await one.say("response.create")
        await one.until("response.done")
    assert (await talk.record()).charge_microcredits == FARE


@pytest.mark.parametrize(
    "frame", ["no", "[]", '{"type": 7}', '{"type":"response.create","response":{"max_output_tokens":-1}}']
)
async def test_what_cannot_be_meant_is_refused_and_the_session_goes_on(talk: House, talker: Talker, frame: str) -> None:
    async with line(talk) as one:
        await one.socket.send(frame)
        assert (await one.until("error"))["error"]["code"] == "invalid_request"
        assert talker.frames == []
        await one.say("response.create")
        await one.until("response.done")
    assert (await talk.record()).charge_microcredits == FARE


async def test_a_transcriber_without_a_price_is_refused(open_house: Open, talker: Talker) -> None:
    prices = '- {provider: up, model: "m", per_million: {input: 1, output: 2}, max_output_tokens: 1000}'
    house = await open_house(prices=prices, **{"providers.up": {"base_url": talker.url}})
    async with line(house) as one:
        await one.say("session.update", session={"input_audio_transcription": {"model": "no-such"}})
        assert (await one.until("error"))["error"]["code"] == "model_not_priced"
    assert talker.events == []


@pytest.mark.parametrize(
    ("query", "status"), [("model=up/m&call_id=x", 400), ("", 400), ("model=up%2Fm&intent=x", 400), ("model=none", 404)]
)
async def test_handshakes_that_cannot_be_meant(talk: House, query: str, status: int) -> None:
    url = talk.url.replace("http", "ws") + f"/v1/realtime?{query}"
    with pytest.raises(InvalidStatus) as caught:
        await connect(url, additional_headers={"authorization": f"Bearer {talk.me.secret}"})
    assert caught.value.response.status_code == status
    await talk.settled()


async def test_without_a_key_nothing_opens(talk: House, talker: Talker) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await connect(talk.url.replace("http", "ws") + "/v1/realtime?model=up/m")
    assert caught.value.response.status_code == 401
    assert talker.handshakes == []


async def test_a_provider_that_refuses_is_our_trouble(talk: House, talker: Talker) -> None:
    talker.refuse = 401
    with pytest.raises(InvalidStatus) as caught:
        async with line(talk):
            pass
    assert caught.value.response.status_code == 502
    assert PROVIDER_KEY.encode() not in caught.value.response.body
    await talk.settled()


async def test_a_revoked_key_gets_no_further_response(talk: House) -> None:
    async with line(talk) as one:
        await one.say("response.create")
        await one.until("response.done")
        await talk.runtime.ledger.keys.revoke(talk.me.key_id)
        await talk.runtime.gate.set_rev(bucket_of(talk.me.organization.id), talk.me.key_id, 2)
        await one.say("response.create")
        assert (await one.until("error"))["error"]["code"] == "invalid_api_key"
        assert await one.closed() == 1008
    assert (await talk.record()).charge_microcredits == FARE


async def _holds_nothing(house: House) -> bool:
    return not await house.holds()


async def test_a_limit_refuses_one_response_and_the_session_goes_on(talk: House, talker: Talker) -> None:
    caller = await talk.caller(limits=[{"kind": "requests", "window": "hour", "max": 1}])
    async with line(talk, by=caller) as one:
        await one.say("response.create")
        await one.until("response.done")
        await one.say("response.create", event_id="second")
        error = (await one.until("error"))["error"]
        assert (error["code"], error["event_id"]) == ("limit_exceeded", "second")
        await one.say("input_audio_buffer.clear")
        await eventually(lambda: _heard(talker, "input_audio_buffer.clear"))
    assert (await talk.record(caller)).charge_microcredits == FARE


async def test_a_lost_hold_ends_the_session(talk: House, talker: Talker) -> None:
    talker.hang = True
    async with line(talk) as one:
        await one.say("response.create")
        await one.until("response.output_text.delta")
        (held,) = talk.runtime.owner._live.values()
        talk.runtime.owner._cut(held)
        assert (await one.until("error"))["error"]["code"] == "store_unavailable"
        assert await one.closed() == 1011
    assert (await talk.record()).estimated


async def test_only_so_many_responses_at_a_time(talk: House, talker: Talker) -> None:
    talker.hang = True
    async with line(talk) as one:
        for _ in range(9):
            await one.say("response.create", response={"max_output_tokens": 10})
        assert (await one.until("error"))["error"]["code"] == "invalid_request"
        assert talker.kinds() == ["response.create"] * 8
    await talk.settled()
    assert len(await talk.records()) == 8


async def test_a_doubled_key_goes_out_once(talk: House, talker: Talker) -> None:
    async with line(talk) as one:
        await one.socket.send('{"type":"response.cancel","type":"response.create"}')
        await one.until("response.done")
    assert talker.frames == ['{"type":"response.create"}']
    assert (await talk.record()).charge_microcredits == FARE


async def _heard(talker: Talker, kind: str) -> bool:
    return kind in talker.kinds()


async def test_a_response_that_was_never_said_to_begin_is_charged_when_it_is_done(talk: House, talker: Talker) -> None:
    talker.hang = True
    async with line(talk) as one:
        await one.say("response.cancel", response_id="resp_of_nobody")
        assert (await one.until("response.done"))["response"]["id"] == "resp_of_nobody"
        await one.say("response.cancel", response_id="resp_of_nobody")
        await one.until("response.done")
    await talk.settled()
    charges = [record.charge_microcredits for record in await talk.records() if record.outcome != "released"]
    assert charges == [10 * INPUT + OUTPUT]
