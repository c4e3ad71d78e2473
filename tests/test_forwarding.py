from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import orjson
import pytest

from faregate import forwarding
from faregate.core.call import Call, Candidate, Estimate, Hold, Principal
from faregate.core.estimate import CallEstimator
from faregate.errors import (
    InsufficientCredits,
    UpstreamError,
    UpstreamTimeout,
)
from faregate.ports import Answer
from tests import parts
from tests.calls import (
    DONE,
    STREAMED,
    USAGE,
    House,
    Place,
    Scripted,
    event,
    in_flight,
    opened,
    plain,
    refusal,
    stream,
)
from tests.parts import HEARTBEAT_S

RETRIED = (408, 425, 429, 500, 502, 503, 504, 529)
ELSEWHERE = (401, 402, 403, 404)


@pytest.fixture(scope="module")
def stores() -> Iterator[tuple[Path, Path]]:
    with parts.stores() as stores:
        yield stores


@pytest.fixture
async def house(stores: tuple[Path, Path], tmp_path: Path) -> AsyncIterator[House]:
    async with opened(stores, tmp_path) as house:
        yield house


@pytest.fixture(autouse=True)
def backoffs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was waited for."""
    waited: list[object] = []

    def at_once(failed: object) -> float:
        waited.append(failed)
        return 0

    monkeypatch.setattr(forwarding, "_backoff_s", at_once)
    return waited


# Retries and fallbacks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", RETRIED)
async def test_trouble_is_tried_again_at_the_same_place_and_then_elsewhere(
    house: House, status: int, backoffs: list[object]
) -> None:
    house.up.answers, house.up.retries = [refusal(status)], 2
    client = await house.call()
    assert (house.calls, len(backoffs)) == (["up", "up", "up", "down"], 2)
    assert (client.status, client.headers["x-faregate-provider"]) == (200, "down")
    assert await house.charges() == [30_000]


async def test_a_retry_that_helps_is_the_last(house: House) -> None:
    house.up.answers, house.up.retries = [refusal(503), plain()], 5
    await house.call()
    assert house.calls == ["up", "up"]


@pytest.mark.parametrize("status", ELSEWHERE)
async def test_a_refusal_that_is_about_the_place_goes_elsewhere_at_once(
    house: House, status: int, backoffs: list[object]
) -> None:
    house.up.answers, house.up.retries = [refusal(status)], 2
    client = await house.call()
    assert (house.calls, backoffs, client.status) == (["up", "down"], [], 200)


@pytest.mark.parametrize("status", [400, 405, 409, 413, 422, 451])
async def test_a_refusal_that_is_about_the_call_is_final_and_passes(house: House, status: int) -> None:
    house.up.answers, house.up.retries = [refusal(status)], 2
    client = await house.call()
    assert (house.calls, client.status) == (["up"], status)
    assert client.body == refusal(status).pieces[0].replace(b"sk-secret", b"[redacted]")  # type: ignore[union-attr]
    assert client.headers["content-length"] == str(len(client.body))
    assert await house.charges() == []


@pytest.mark.parametrize("error", [UpstreamError("refused"), UpstreamTimeout("silent")])
async def test_a_place_that_does_not_answer_is_tried_again_and_then_left(house: House, error: UpstreamError) -> None:
    house.up.answers, house.up.retries = [error], 1
    await house.call()
    assert house.calls == ["up", "up", "down"]


async def test_when_nobody_answers_the_last_error_is_told_and_nothing_is_charged(house: House) -> None:
    house.up.answers, house.down.answers = [UpstreamError("first")], [UpstreamTimeout("last")]
    with pytest.raises(UpstreamTimeout, match="last"):
        await house.call()
    assert (house.client.started, await house.charges()) == (False, [])


@pytest.mark.parametrize(
    ("status", "told"), [(401, 502), (402, 502), (403, 502), (500, 502), (503, 502), (404, 404), (429, 429)]
)
async def test_the_last_places_refusal_is_told_as_whose_fault_it_is(house: House, status: int, told: int) -> None:
    house.up.answers = house.down.answers = [refusal(status)]
    if told == 502:
        with pytest.raises(UpstreamError) as caught:
            await house.call()
        assert (caught.value.status, "secret" in caught.value.message) == (502, False)
    else:
        assert (await house.call()).status == told
    assert (house.calls, await house.charges()) == (["up", "down"], [])


async def test_a_failure_that_counted_something_is_charged_and_not_repeated(house: House) -> None:
    house.up.answers, house.up.retries = [refusal(500, usage=True)], 2
    with pytest.raises(UpstreamError):
        await house.call()
    assert (house.calls, await house.charges()) == (["up"], [20_000])


async def test_a_body_that_breaks_off_before_anything_was_delivered_is_tried_elsewhere(house: House) -> None:
    house.up.answers = [Scripted(pieces=[b'{"choices"', UpstreamError("cut")])]
    assert (await house.call()).status == 200
    assert (house.calls, await house.charges()) == (["up", "down"], [30_000])


async def test_a_stream_that_breaks_off_is_neither_repeated_nor_made_to_look_finished(house: House) -> None:
    house.up.answers, house.up.retries = [stream(event("a"), event("b"), event("c"), UpstreamError("cut"))], 2
    client = await house.call(STREAMED)
    assert (house.calls, client.status) == (["up"], 200)
    assert b"[DONE]" not in client.body
    assert orjson.loads(client.body.splitlines()[-2].removeprefix(b"data: "))["error"]["code"] == "upstream_error"
    (charge,) = await house.charges()
    assert charge > 0


async def test_a_stream_that_ends_without_its_end_is_told_as_an_error(house: House) -> None:
    house.up.answers = [stream(event("a"), event("b"))]
    client = await house.call(STREAMED)
    assert b'"upstream_error"' in client.body


async def test_each_attempt_gets_back_its_connection(house: House) -> None:
    answers = [refusal(500), refusal(503), plain()]
    house.up.answers, house.up.retries = list(answers), 2
    await house.call()
    assert [answer.closed for answer in answers] == [True, True, True]


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        *(("2", 2, 2.25), ("4", 4, 4.25), ("0", 0, 0.25)),
        *((odd, 0.25, 0.5) for odd in ("5", "soon", "-1", "1.5", "9" * 400, "9" * 5000)),
    ],
    ids=lambda value: str(value)[:8],
)
def test_a_short_wait_a_provider_asks_for_is_kept(
    monkeypatch: pytest.MonkeyPatch, asked: str, least: float, most: float
) -> None:
    monkeypatch.undo()
    place = Place("up", [], [])
    answer = Scripted(429, headers={"retry-after": asked})
    attempt = forwarding.Attempt(
        candidate=None,  # type: ignore[arg-type]
        provider=place,
        answer=answer,
        meter=None,  # type: ignore[arg-type]
        cap=None,
    )
    assert all(least <= forwarding._backoff_s(attempt) <= most for _ in range(20))
    assert 0.25 <= forwarding._backoff_s(UpstreamError("x")) <= 0.5
    if most == 2.25:
        answer.headers = {"retry-after": asked, "retry-after-ms": "1200"}
        assert 1.2 <= forwarding._backoff_s(attempt) <= 1.45


# Low credit ---------------------------------------------------------------------------------------------


async def test_what_the_hold_covers_goes_upstream_as_the_bound_and_is_told(house: House) -> None:
    house.rates = {"up": 4, "down": 4}
    client = await house.call({"max_tokens": 100})
    (cap,) = house.up.caps
    assert cap is not None
    assert 0 < cap < 100
    assert client.headers["x-faregate-output-cap"] == str(cap)


async def test_a_call_that_is_covered_goes_out_without_a_bound(house: House) -> None:
    client = await house.call({"max_tokens": 10})
    assert (house.up.caps, "x-faregate-output-cap" in client.headers) == ([None], False)


class NothingLeft(CallEstimator):
    """The hold does not even pay for the input at this place."""

    def output_cap(
        self,
        call: Call,
        candidates: Sequence[Candidate],
        principal: Principal,
        estimate: Estimate,
        hold: Hold,
    ) -> int | None:
        return 0 if candidates[0].provider == "down" else None


async def test_a_place_the_hold_does_not_pay_for_is_not_asked(house: House) -> None:
    house.estimator, house.up.answers = NothingLeft(), [refusal(500)]
    with pytest.raises(InsufficientCredits):
        await house.call()
    assert (house.calls, await house.charges()) == (["up"], [])


# Clients that leave, holds that are lost ----------------------------------------------------------------


async def test_a_stream_whose_client_left_is_read_to_its_end_and_charged_exactly(house: House) -> None:
    waits = asyncio.Event()
    serving = await in_flight(house, STREAMED, stream(event("a") * 2, event("b"), USAGE, DONE, waits=waits))
    house.client.leave()
    waits.set()
    client = await serving
    assert b'"b"' not in client.body
    assert (client.ended, await house.charges()) == (False, [14_000])


async def test_where_the_operator_says_cancel_the_provider_is_stopped_and_what_came_is_charged(house: House) -> None:
    house.up.on_disconnect = "cancel"
    answer = stream(event("a") * 2, event("b"), USAGE, DONE, waits=asyncio.Event())
    serving = await in_flight(house, STREAMED, answer)
    house.client.leave()
    await serving
    assert answer.aborted.is_set()
    (charge,) = await house.charges()
    assert charge > 0


async def test_a_client_that_leaves_before_the_answer_begins_owes_the_input_when_the_provider_is_let_go(
    house: House,
) -> None:
    async def never(call: Call, candidate: Candidate, output_cap: int | None) -> Answer:
        house.calls.append("up")
        await asyncio.Event().wait()
        raise AssertionError

    house.up.on_disconnect, house.up.send = "cancel", never  # type: ignore[method-assign]
    serving = await in_flight(house, STREAMED, plain())
    house.client.leave()
    client = await serving
    (charge,) = await house.charges()
    assert (house.calls, client.started) == (["up"], False)
    assert 0 < charge < 100_000, "the input: the provider may have read it"


async def test_a_client_that_leaves_a_plain_call_is_waited_out(house: House) -> None:
    waits = asyncio.Event()
    serving = await in_flight(house, {}, Scripted(pieces=[b" ", *plain().pieces], waits=waits))
    assert house.client.gone is None
    waits.set()
    await serving
    assert await house.charges() == [20_000]


async def test_a_call_whose_hold_was_swept_is_stopped_and_told_so(house: House) -> None:
    answer = stream(event("a") * 2, event("b"), USAGE, DONE, waits=asyncio.Event())
    serving = await in_flight(house, STREAMED, answer)
    await house.site.expire()
    ((hold_id, _),) = (await house.site.holds()).items()
    await house.site.gate.claim(house.site.bucket, house.site.account_id, hold_id)
    house.site.clock.pass_s(HEARTBEAT_S)
    await house.owner.beat()
    client = await serving
    assert (answer.aborted.is_set(), b'"store_unavailable"' in client.body) == (True, True)
    assert len(await house.charges()) == 1


async def test_the_heartbeat_learns_what_was_delivered(house: House) -> None:
    waits = asyncio.Event()
    serving = await in_flight(house, STREAMED, stream(event("word " * 8) * 10, USAGE, DONE, waits=waits))
    (before,) = await house.site.gate.holds(house.site.bucket, house.site.account_id)
    house.site.clock.pass_s(HEARTBEAT_S)
    await house.owner.beat()
    (after,) = await house.site.gate.holds(house.site.bucket, house.site.account_id)
    waits.set()
    await serving
    assert after.progress_microcredits != before.progress_microcredits


async def test_comments_before_an_answer_bind_nobody_to_it(house: House) -> None:
    house.up.answers = [stream(b": wait\n\n", UpstreamError("the provider stopped"))]
    house.down.answers = [stream(b": wait\n\n", event("a"), USAGE, DONE)]
    client = await house.call(STREAMED)
    assert client.headers["x-faregate-provider"] == "down"
    assert client.body.startswith(b": wait\n\ndata: ")
