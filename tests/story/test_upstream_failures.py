"""The provider refuses, fails or falls silent."""

from __future__ import annotations

import httpx
import pytest

from tests.story.conftest import Open
from tests.story.house import INPUT, OUTPUT, PRICES, PROVIDER_KEY, House, events, said, until
from tests.story.raw import RawUpstream
from tests.upstreams.scripted import Script, Scripted

WHOLE = 1_000_000_000


async def assert_free(house: House) -> None:
    await house.settled()
    assert [record.outcome for record in await house.records() if record.outcome != "released"] == []
    assert await house.balance() == WHOLE


def code(got: httpx.Response) -> tuple[int, str]:
    return got.status_code, got.json()["error"]["code"]


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 429])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_passes_in_its_own_words_and_is_free(house: House, status: int, stream: bool) -> None:
    got = await house.call(script={"status": status, "headers": [["retry-after", "9"]]}, stream=stream)
    assert (got.status_code, got.json()["error"]["message"]) == (status, f"scripted {status}")
    assert got.headers["retry-after"] == "9"
    await assert_free(house)


@pytest.mark.parametrize("status", [401, 403])
async def test_trouble_with_our_own_credentials_is_ours_to_report(house: House, status: int) -> None:
    got = await house.call(script={"status": status})
    assert code(got) == (502, "upstream_error")
    await assert_free(house)


@pytest.mark.parametrize("status", [500, 503, 529])
async def test_a_failure_is_502_after_retries_and_free(open_house: Open, upstream: Scripted, status: int) -> None:
    house = await open_house(providers__up={"retries": 1})
    upstream.scripts["m"] = Script(status=status) if status != 529 else Script(status=502)
    assert code(await house.call()) == (502, "upstream_error")
    assert len(upstream.served) == 2
    await assert_free(house)


async def test_an_error_that_echoes_our_key_does_not_leak_it(open_house: Open) -> None:
    echo = b'{"error":{"message":"bad header: Bearer %s"}}' % PROVIDER_KEY.encode()
    async with RawUpstream([echo], status="400 Bad Request", content_type="application/json") as raw:
        house = await open_house(providers__up={"base_url": raw.url})
        got = await house.call()
    assert got.status_code == 400
    assert PROVIDER_KEY not in got.text
    assert "Bearer" in got.text


async def test_a_stream_that_echoes_our_key_in_its_error_does_not_leak_it(open_house: Open) -> None:
    echo = b'{"error":{"message":"bad header: Bearer %s"}}' % PROVIDER_KEY.encode()
    async with RawUpstream([echo], status="400 Bad Request", content_type="text/event-stream") as raw:
        house = await open_house(providers__up={"base_url": raw.url})
        got = await house.call(stream=True)
    assert got.status_code == 400
    assert PROVIDER_KEY not in got.text


async def test_no_secret_is_logged(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    for model in ("up/broken", "up/unauthorized", "up/reset", "up/reset-mid", "nobody", "up/m"):
        await house.call(model)
        await house.stream(model)
    await house.settled()
    assert PROVIDER_KEY not in caplog.text
    assert house.me.secret not in caplog.text


@pytest.mark.parametrize("fault", ["reset_before_headers", "close_before_headers"])
async def test_a_provider_that_hangs_up_before_it_answers_is_502(house: House, fault: str) -> None:
    assert code(await house.call(script={"fault": fault})) == (502, "upstream_error")
    await assert_free(house)


async def test_a_redirect_is_not_followed(house: House) -> None:
    assert code(await house.call("up/redirect")) == (502, "upstream_error")
    await assert_free(house)


async def test_nobody_listens_so_the_next_candidate_answers(open_house: Open, upstream: Scripted) -> None:
    house = await open_house(providers__down={"base_url": upstream.refused_url}, models={"fast": ["down/m", "up/m"]})
    got = await house.call("fast")
    assert (got.status_code, got.headers["x-faregate-provider"]) == (200, "up")
    assert (await house.record()).provider == "up"


@pytest.mark.parametrize("first", ["broken", "unauthorized", "rate-limited", "reset"])
async def test_a_failed_candidate_is_free_and_the_next_is_charged_once(
    open_house: Open, upstream: Scripted, first: str
) -> None:
    house = await open_house(models={"fast": [f"up/{first}", "up/m"]})
    got = await house.call("fast")
    assert (got.status_code, got.headers["x-faregate-model"]) == (200, "m")
    assert len(upstream.served) == 2
    assert (await house.record()).charge_microcredits == 10 * INPUT + 5 * OUTPUT


async def test_the_next_candidate_gets_a_bound_of_its_own(open_house: Open, upstream: Scripted) -> None:
    dear = PRICES + '- {provider: dear, model: "*", per_million: {input: 1, output: 20}, max_output_tokens: 1000}'
    house = await open_house(
        models={"fast": ["up/broken", "dear/m"]}, providers__dear={"base_url": upstream.url}, prices=dear
    )
    poor = await house.caller(8_000_000)
    got = await house.call("fast", by=poor, script=None)
    cheap, expensive = (int(str(served.json["max_tokens"])) for served in upstream.served)
    left = 2_000_000 - -(-len(got.request.content) // 2) * INPUT
    assert (cheap, expensive) == (left // OUTPUT, left // (10 * OUTPUT))
    assert got.headers["x-faregate-output-cap"] == str(expensive)


async def test_no_answer_in_time_is_504_and_free(open_house: Open, upstream: Scripted) -> None:
    house = await open_house(providers__up={"timeout_s": 0.15})
    assert code(await house.call("up/hang")) == (504, "upstream_timeout")
    await assert_free(house)
    await until(lambda: upstream.served[0].outcome == "aborted")


async def test_a_failure_whose_body_carries_usage_is_charged_once(open_house: Open, upstream: Scripted) -> None:
    house = await open_house(providers__up={"retries": 2})
    assert (await house.call("up/broken-with-usage")).status_code == 502
    assert len(upstream.served) == 1
    assert (await house.record()).charge_microcredits == 10 * INPUT


@pytest.mark.parametrize("fault", ["reset_mid", "truncate"])
async def test_a_broken_stream_charges_what_was_delivered_and_says_so(house: House, fault: str) -> None:
    body = await house.stream(script={"fault": fault, "output_tokens": 10})
    assert said(body) == " word" * 5
    assert events(body)[-1]["error"]["code"] == "upstream_error"
    assert b"[DONE]" not in body
    record = await house.record()
    assert (record.estimated, record.outcome) == (True, "upstream_error")
    assert (
        record.charge_microcredits == counted(record.usage, "input") * INPUT + counted(record.usage, "output") * OUTPUT
    )
    assert 5 <= counted(record.usage, "output") <= 8


def counted(usage: object, name: str) -> int:
    assert isinstance(usage, dict)
    count = usage[f"{name}_tokens"]
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize("fault", ["hang_mid", "comments"])
async def test_silence_in_mid_stream_times_out_whatever_the_comments(
    open_house: Open, upstream: Scripted, fault: str
) -> None:
    house = await open_house(providers__up={"idle_timeout_s": 0.2})
    body = await house.stream(script={"fault": fault, "output_tokens": 10})
    assert events(body)[-1]["error"]["code"] == "upstream_timeout"
    assert (await house.record()).estimated
    await until(lambda: upstream.served[0].outcome == "aborted")


async def test_comments_alone_are_not_an_answer(open_house: Open) -> None:
    house = await open_house(providers__up={"timeout_s": 0.2, "idle_timeout_s": 5})
    async with house.streaming(script={"fault": "comments", "output_tokens": 0}) as got:
        assert got.status_code == 504
        assert b"upstream_timeout" in await got.aread()
    await assert_free(house)


async def test_a_stream_without_its_end_is_not_a_success(house: House) -> None:
    body = await house.stream("up/no-done")
    assert events(body)[-1]["error"]["code"] == "upstream_error"
    record = await house.record()
    assert (record.outcome, record.charge_microcredits) == ("truncated", 10 * INPUT + 5 * OUTPUT)


async def test_a_broken_plain_answer_is_502_and_free(house: House) -> None:
    assert code(await house.call("up/truncated")) == (502, "upstream_error")
    await house.settled()
    await assert_free(house)


@pytest.mark.parametrize("raw", [(), (": keep-alive\n\n",)])
async def test_an_empty_stream_is_502_and_free(house: House, raw: tuple[str, ...]) -> None:
    house.upstream.scripts["m"] = Script(raw=raw)
    assert code(await house.call(stream=True)) == (502, "upstream_error")
    await assert_free(house)


async def test_after_an_empty_stream_the_next_candidate_answers(open_house: Open, upstream: Scripted) -> None:
    upstream.scripts["empty"] = Script(raw=())
    house = await open_house(models={"fast": ["up/empty", "up/m"]})
    assert said(await house.stream("fast")) == " word" * 5
    assert (await house.record()).charge_microcredits == 10 * INPUT + 5 * OUTPUT


async def test_an_error_event_in_mid_stream_passes_through(house: House) -> None:
    body = await house.stream("up/error-event")
    assert [event["error"]["message"] for event in events(body) if "error" in event] == ["scripted error"]
    record = await house.record()
    assert (record.outcome, record.estimated) == ("upstream_error", True)


async def test_an_error_event_before_any_output_is_free(house: House) -> None:
    body = await house.stream(script={"fault": "error_event", "output_tokens": 0})
    assert "error" in events(body)[0]
    await assert_free(house)


@pytest.mark.parametrize("content_type", ["", "Text/Event-Stream", "application/octet-stream"])
async def test_a_stream_is_one_whatever_its_server_calls_it(open_house: Open, content_type: str) -> None:
    pieces = [
        b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5}}\n\n',
        b"data: [DONE]\n\n",
    ]
    async with RawUpstream(pieces, content_type=content_type) as raw:
        house = await open_house(providers__up={"base_url": raw.url})
        assert await house.stream() == pieces[0] + pieces[2]
        assert (await house.record()).charge_microcredits == 10 * INPUT + 5 * OUTPUT


async def test_json_for_a_stream_passes_whole_and_is_charged(open_house: Open) -> None:
    body = b'{"choices":[{"message":{"content":"Hi"}}],"usage":{"prompt_tokens":10,"completion_tokens":5}}'
    async with RawUpstream([body[:20], body[20:]], content_type="application/json") as raw:
        house = await open_house(providers__up={"base_url": raw.url})
        assert await house.stream() == body
        assert (await house.record()).charge_microcredits == 10 * INPUT + 5 * OUTPUT


async def test_a_call_that_is_cut_by_the_end_of_the_server_is_charged(house: House) -> None:
    async with house.streaming(script={"fault": "hang_mid", "output_tokens": 10}) as got:
        await anext(got.aiter_bytes())
        await until(lambda: house.runtime.owner.open_holds == 1)
        (loop, *_) = house.runtime._loops
        await house.runtime._break_off(house.runtime.clock.monotonic() + 3)
        assert not loop.done()
    record = await house.record()
    assert record.charge_microcredits >= 10 * INPUT
    assert house.runtime.calls == set()
