"""What comes in, and what of it goes upstream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from decimal import Decimal

import httpx
import pytest

from tests.story.conftest import Open
from tests.story.house import PROVIDER_KEY, House
from tests.upstreams.scripted import Scripted

MESSAGES = '"messages":[{"role":"user","content":"hi"}]'


async def send(house: House, body: bytes) -> httpx.Response:
    return await house.http.post("/v1/chat/completions", content=body)


BAD = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"x"',
    b'{"model":"up/m","messages":[{"role":"user","content":"\xff"}]}',
    b'{"model":"up/m","messages":[{"role":"user","content":"\\ud800"}]}',
    b'{"model":"up/m","temperature":NaN}',
    b'{"model":"up/m","max_tokens":Infinity}',
    b'{"model":"up/m"} x',
    b'{"messages":[]}',
    b'{"model":1}',
    b'{"model":""}',
    b'{"model":"' + b"m" * 300 + b'"}',
    *(
        b'{"model":"up/m","%s":%s}' % (name, value)
        for name, values in {
            b"max_tokens": (
                b"-1",
                b"0",
                b"1.5",
                b'"5"',
                b"true",
                b"[]",
                b"1e400",
                b"1" + b"0" * 30,
                b"9007199254740993",
            ),
            b"max_completion_tokens": (b"-1", b"99999999999"),
            b"n": (b"0", b"-1", b"1.0", b"1000000", b'"2"', b"9223372036854775808"),
            b"stream": (b'"yes"', b"1"),
            b"stream_options": (b"[]", b"true", b'{"include_usage":"yes"}'),
        }.items()
        for value in values
    ),
]


@pytest.fixture
async def bare_house(open_house: Open) -> House:
    return await open_house(server__max_body_bytes=4096)


async def test_what_cannot_be_meant_is_400_and_never_forwarded(bare_house: House, upstream: Scripted) -> None:
    for body in BAD:
        got = await send(bare_house, body)
        assert (got.status_code, got.json()["error"]["type"]) == (400, "invalid_request_error"), body
        assert got.json()["error"]["code"] == "invalid_request", body
    assert upstream.served == []
    await bare_house.settled()


@pytest.mark.parametrize(
    "doubled",
    [
        '"max_tokens":1000000,"max_tokens":3',
        '"max_tokens":3,"max_tokens":4',
        '"mod\\u0065l":"up/dear","max_tokens":3',
        '"max_tokens":3,"user":"\\u0022","user":"\\u0022\\u0022"',
    ],
)
async def test_what_is_metered_is_what_is_forwarded(open_house: Open, upstream: Scripted, doubled: str) -> None:
    """A doubled key: we read the last, another parser may read the first."""
    house = await open_house(models={"m": ["up/m"]})
    assert (await send(house, ("{" + MESSAGES + "," + doubled + ',"model":"m"}').encode())).status_code == 200
    pairs = json.loads(upstream.served[0].body, object_pairs_hook=list)
    assert len({name for name, _ in pairs}) == len(pairs)
    assert dict(pairs)["model"] == "m"


async def test_a_declared_length_over_the_bound_is_413(bare_house: House, upstream: Scripted) -> None:
    got = await bare_house.call(prompt="x" * 5000)
    assert (got.status_code, got.json()["error"]["code"]) == (413, "request_too_large")
    assert upstream.served == []


async def test_an_undeclared_length_over_the_bound_is_413(bare_house: House, upstream: Scripted) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 1000

    got = await bare_house.http.post("/v1/chat/completions", content=pieces())
    assert got.status_code == 413
    assert upstream.served == []


async def test_a_body_that_needs_no_change_goes_up_byte_for_byte(open_house: Open, upstream: Scripted) -> None:
    house = await open_house(models={"m": ["up/m"]})
    body = '{ "model": "m",\n "messages": [{"role": "user", "content": "\\u2028\\"é \u2029"}], "x": 1.10 }'.encode()
    assert (await send(house, body)).status_code == 200
    assert upstream.served[0].body == body


SENT = {
    "cookie": "session=1",
    "x-faregate-agent": "a",
    "x-faregate-feature": "f",
    "x-faregate-tags": "team=red, cost-center=7",
    "x-api-key": "other",
    "openai-organization": "org-x",
    "openai-beta": "assistants=v2",
    "idempotency-key": "idem-1",
    "x-forwarded-for": "10.0.0.1",
    "user-agent": "client/1",
}


async def test_headers_go_upstream_by_allow_list(house: House, upstream: Scripted) -> None:
    assert (await house.call(headers=SENT)).status_code == 200
    got = upstream.served[0].headers
    assert got["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert (got["idempotency-key"], got["openai-beta"], got["user-agent"]) == ("idem-1", "assistants=v2", "faregate")
    assert not {"cookie", "x-api-key", "openai-organization", "x-forwarded-for"} & got.keys()
    assert not [name for name in got if name.startswith("x-faregate")]
    assert house.me.secret not in str(got)


async def test_attribution_is_recorded(house: House) -> None:
    await house.call(headers=SENT, user="u-1", metadata={"run": "r-9"})
    assert (await house.record()).attribution == {
        "agent": "a",
        "feature": "f",
        "tag.team": "red",
        "tag.cost-center": "7",
        "user": "u-1",
        "metadata.run": "r-9",
    }


@pytest.mark.parametrize(
    ("value", "status"), [("2", 200), ("3", 200), ("3.01", 403), ("0.9", 400), ("11", 400), ("NaN", 400), ("x", 400)]
)
async def test_a_multiplier_is_from_1_to_the_keys_own_most(house: House, value: str, status: int) -> None:
    key = await house.caller(of=house.me, max_multiplier=Decimal(3))
    got = await house.call(by=key, headers={"x-faregate-multiplier": value})
    assert got.status_code == status


async def test_bad_tags_are_400(house: House) -> None:
    assert (await house.call(headers={"x-faregate-tags": "novalue"})).status_code == 400


async def test_the_providers_own_headers_stay_with_us(house: House) -> None:
    own = [
        ["set-cookie", "a=b"],
        ["openai-organization", "org-x"],
        ["x-ratelimit-limit-requests", "9"],
        ["openai-version", "v"],
    ]
    got = await house.call(script={"headers": own})
    assert not {"set-cookie", "openai-organization", "x-ratelimit-limit-requests"} & got.headers.keys()
    assert got.headers["openai-version"] == "v"
    assert got.headers["x-upstream-request-id"].startswith("req-")


async def test_every_answer_names_its_request(house: House) -> None:
    answers = [await house.call(), await house.call("nobody"), await send(house, b"{")]
    assert len({got.headers["x-faregate-request-id"] for got in answers}) == 3


@pytest.mark.parametrize("name", ["模型", "a\r\nset-cookie: evil=1", "a\x00b", "naïve 😀"])
async def test_a_models_name_cannot_break_the_answers_headers(house: House, name: str) -> None:
    got = await house.call(f"up/{name}")
    assert got.status_code in (200, 400)
    assert "set-cookie" not in got.headers
    await house.settled()


@pytest.mark.parametrize("header", ["idempotency-key", "x-faregate-agent", "x-faregate-tags", "openai-beta"])
async def test_a_header_beyond_ascii_is_no_defect(house: House, header: str) -> None:
    got = await house.http.post(
        "/v1/chat/completions",
        json={"model": "up/m", "messages": []},
        headers=[(header.encode(), b"k=\xc3\xa9\xff")],
    )
    assert got.status_code in (200, 400)
    await house.settled()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS"])
async def test_another_method_is_405_in_the_dialect(bare_house: House, method: str) -> None:
    got = await bare_house.http.request(method, "/v1/chat/completions")
    assert (got.status_code, got.headers["allow"]) == (405, "POST")
    if method != "HEAD":
        assert got.json()["error"]["code"] == "method_not_allowed"


async def test_a_compressed_body_is_refused_for_what_it_is(bare_house: House, upstream: Scripted) -> None:
    got = await bare_house.http.post("/v1/chat/completions", content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert got.status_code == 400
    assert "gzip" in got.json()["error"]["message"]
    assert upstream.served == []
