"""Gemini's own wire from end to end: bytes, frames, bounds, keys in the wrong place, clients that leave."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import httpx
import orjson
import pytest

from tests.story.conftest import Open
from tests.story.house import House
from tests.upstreams.google import Google, answer, part_of, refused, usage

PLAIN = "/v1beta/models/g/gemini-2.5-flash:generateContent"
STREAM = "/v1beta/models/g/gemini-2.5-flash:streamGenerateContent"
SSE = STREAM + "?alt=sse"
BODY = b'{ "contents" : [ {"parts":[{"text":"hi \\u2028"}]} ], "generationConfig": {"temperature": 0.10} }'
CHUNKS = [
    answer('a \u2028 } ] { \\" 😀', finish=None, used=usage(10, 1)),
    part_of({"text": "", "thoughtSignature": "c2ln"}, finish=None, used=usage(10, 2)),
    answer("c", used=usage(10, 5)),
]
PRICES = """
- {provider: gemini, model: "*", per_million: {input: 1, output: 2}, max_output_tokens: 1000}
- {provider: up, model: "*", per_million: {input: 1, output: 2}, max_output_tokens: 1000}
"""
FARE = Decimal("0.00002")


async def opened(open_house: Open, google: Google, **changes: Any) -> House:
    place = {"kind": "gemini", "base_url": google.url + "/v1beta/", "api_key": "AIzaOperators", **changes}
    return await open_house(prices=PRICES, providers__g=place, credits__settle_wait_ms=300)


async def post(house: House, path: str, body: bytes = BODY, key: str | None = None) -> httpx.Response:
    headers = {"x-goog-api-key": key or house.me.secret, "authorization": "", "content-type": "application/json"}
    return await house.http.post(path, content=body, headers=headers)


@pytest.mark.parametrize("cut", [None, 1, 7])
@pytest.mark.parametrize("path", [PLAIN, STREAM, SSE])
async def test_bytes_pass_as_they_came_whatever_the_frame_and_the_cuts(
    open_house: Open, path: str, cut: int | None
) -> None:
    async with Google(CHUNKS, cut=cut) as google:
        house = await opened(open_house, google)
        got = await post(house, path)
        assert got.content == google.written[0]
        assert google.requests[0].body == BODY
        record = await house.record()
    assert (record.cost_usd, record.estimated, record.outcome) == (FARE, False, "ok")
    assert record.stream == (path != PLAIN)


@pytest.mark.parametrize("path", [STREAM, SSE])
async def test_the_last_chunk_waits_for_the_charge(open_house: Open, path: str) -> None:
    """While the book is locked the finish (and the array's end) wait; all before them has gone out."""
    async with Google(CHUNKS, pause_s=0.01) as google:
        house = await opened(open_house, google)
        await post(house, path)
        seen, headers = [], {"x-goog-api-key": house.me.secret}
        with house.locked_book():
            async with house.http.stream("POST", path, content=BODY, headers=headers) as got:
                async for piece in got.aiter_raw():
                    seen.append((time.monotonic(), piece))
    before, last = seen[0], seen[-1]
    assert b'"a ' in before[1]
    assert b"STOP" not in b"".join(piece for _, piece in seen[:-1])
    assert last[1].endswith(b"]\n" if path == STREAM else b"\r\n\r\n")
    assert last[0] - before[0] > 0.25
    await house.settled()


@pytest.mark.parametrize(("path", "end"), [(STREAM, b"]"), (SSE, b"\n\n")])
async def test_a_stream_that_breaks_off_ends_in_an_error_of_its_frame(open_house: Open, path: str, end: bytes) -> None:
    async with Google(CHUNKS, breaks_after=1) as google:
        house = await opened(open_house, google)
        got = (await post(house, path)).content
    assert got.endswith(end)
    last = orjson.loads(got)[-1] if path == STREAM else orjson.loads(got.split(b"data: ")[-1])
    assert (last["error"]["code"], last["error"]["status"]) == (502, "UNAVAILABLE")
    record = await house.record()
    assert (record.outcome, record.cost_usd) == ("upstream_error", Decimal("0.000012"))


async def test_a_client_that_leaves_pays_for_all_of_it(open_house: Open) -> None:
    async with Google(CHUNKS, cut=40, pause_s=0.02) as google:
        house = await opened(open_house, google)
        async with house.http.stream("POST", SSE, content=BODY, headers={"x-goog-api-key": house.me.secret}) as got:
            await anext(got.aiter_bytes())
        record = await house.record()
    assert (record.outcome, record.cost_usd) == ("client_gone", FARE)


@pytest.mark.parametrize("path", [PLAIN, STREAM, SSE])
async def test_a_refusal_passes_without_the_operators_project(open_house: Open, path: str) -> None:
    said = refused(404, "NOT_FOUND", "models/x is not found for projects/operator-7 key=AIzaOperators")
    async with Google(status=404, refusal=said) as google:
        house = await opened(open_house, google)
        got = await post(house, path)
    assert (got.status_code, got.json()["error"]["status"]) == (404, "NOT_FOUND")
    assert b"operator-7" not in got.content
    assert b"AIza" not in got.content
    await house.settled()


async def test_a_low_balance_lowers_the_bound_in_the_clients_own_spelling(open_house: Open) -> None:
    async with Google() as google:
        house = await opened(open_house, google)
        poor = await house.caller(balance=900_000)
        body = {"contents": [{"parts": [{"text": "hi"}]}], "generation_config": {"max_output_tokens": 900, "top_k": 4}}
        got = await post(house, PLAIN, orjson.dumps(body), poor.secret)
        config = google.requests[0].json["generation_config"]
    assert got.status_code == 200
    assert config == {"max_output_tokens": int(got.headers["x-faregate-output-cap"]), "top_k": 4}
    assert 64 <= config["max_output_tokens"] < 900


async def test_a_model_in_the_body_and_doubled_keys_do_not_go_upstream(open_house: Open) -> None:
    async with Google() as google:
        house = await opened(open_house, google)
        await post(house, PLAIN, b'{"model": "models/gemini-9-ultra", "contents": [], "contents": [{"parts": []}]}')
        await post(house, PLAIN, b'{"contents": [1], "contents": [{"parts": []}]}')
        assert [asked.body for asked in google.requests] == [b'{"contents":[{"parts":[]}]}'] * 2


@pytest.mark.parametrize("path", [PLAIN, SSE, "/v1/models/g%2Fgemini-2.5-flash:generateContent"])
async def test_names_may_be_encoded_and_versions_old(open_house: Open, path: str) -> None:
    async with Google() as google:
        house = await opened(open_house, google)
        assert (await post(house, path)).status_code == 200
        assert google.requests[0].path.startswith("/v1beta/models/gemini-2.5-flash:")


@pytest.mark.parametrize("path", [PLAIN + "?key=", SSE + "&key="])
async def test_a_key_in_the_url_is_refused_even_if_there_is_another(open_house: Open, path: str) -> None:
    async with Google() as google:
        house = await opened(open_house, google)
        got = await post(house, path + house.me.secret)
    assert (got.status_code, got.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert "x-goog-api-key" in got.json()["error"]["message"]
    assert house.me.secret not in got.text
    assert google.requests == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"generationConfig": 1}', "generationConfig"),
        (b'{"generationConfig": {"maxOutputTokens": -1}}', "maxOutputTokens"),
        (b'{"generationConfig": {"maxOutputTokens": 1e3}}', "maxOutputTokens"),
        (b'{"generationConfig": {"maxOutputTokens": 99999999999999999999}}', "maxOutputTokens"),
        (b'{"generationConfig": {"candidateCount": 9}}', "candidateCount"),
        (b'{"generationConfig": {"maxOutputTokens": 1, "max_output_tokens": 9}}', "maxOutputTokens"),
        (b'{"generationConfig": {}, "generation_config": {}}', "generationConfig"),
        (b'{"generationConfig": {"maxOutputTokens": NaN}}', "JSON"),
        (b'{"contents": "\xff"}', "JSON"),
        (b'{"contents"', "JSON"),
        (b"[]", "JSON"),
    ],
)
async def test_a_body_that_cannot_be_meant_is_refused_by_name(open_house: Open, body: bytes, field: str) -> None:
    async with Google() as google:
        house = await opened(open_house, google)
        got = await post(house, PLAIN, body)
    assert google.requests == []
    assert (got.status_code, got.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert field in got.json()["error"]["message"]
    assert await house.records() == []


@pytest.mark.parametrize("path", [STREAM, SSE])
async def test_a_client_that_wants_its_cost_finds_it_beside_the_usage(open_house: Open, path: str) -> None:
    async with Google(CHUNKS) as google:
        house = await opened(open_house, google)
        headers = {"x-goog-api-key": house.me.secret, "x-faregate-include-cost": "true"}
        got = (await house.http.post(path, content=BODY, headers=headers)).content
    last = orjson.loads(got)[-1] if path == STREAM else orjson.loads(got.split(b"data: ")[-1])
    assert last["usageMetadata"] == {**usage(10, 5), "cost_usd": 0.00002, "credits": 0.02}


async def test_a_batch_cannot_name_a_dearer_model_than_its_path(open_house: Open) -> None:
    async with Google({"embeddings": []}) as google:
        house = await opened(open_house, google)
        content = {"parts": [{"text": "a"}]}
        body = orjson.dumps({"requests": [{"model": "models/dearer", "content": content}, 7]})
        assert (await post(house, "/v1beta/models/g/m:batchEmbedContents", body)).status_code == 200
        assert google.requests[0].json["requests"] == [{"model": "models/m", "content": content}, 7]
        got = await post(house, "/v1beta/models/g/m:batchEmbedContents", b'{"requests": {}}')
    assert (got.status_code, got.json()["error"]["details"][1]["fieldViolations"][0]["field"]) == (400, "requests")
    assert len(google.requests) == 1


async def test_a_model_of_another_wire_is_refused_in_googles_shape(open_house: Open) -> None:
    async with Google() as google:
        house = await opened(open_house, google)
        got = await post(house, "/v1beta/models/up/m:generateContent")
    assert (got.status_code, got.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert got.json()["error"]["details"][1]["fieldViolations"][0]["field"] == "model"


async def test_other_methods_and_paths(house: House) -> None:
    got = await house.http.get(PLAIN)
    assert (got.status_code, got.headers["allow"]) == (405, "POST")
    assert (await house.http.post("/v1beta/models/:generateContent", content=b"{}")).status_code == 404
    assert (await house.http.post("/v1beta/models/x:other", content=b"{}")).status_code == 404
