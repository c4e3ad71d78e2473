from __future__ import annotations

from decimal import Decimal

import pytest
from tests.api.conftest import World, code

from faregate.api.http import encode, parse_object
from faregate.errors import InvalidRequest


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"3",
        b"{",
        b'{"a":1,"a":2}',
        b'{"b":{"a":1,"a":2}}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":"\xff"}',
        b"\xff\xfe{\x00}\x00",
        b'{"a":"\\ud800"}',
        b'{"a":"\\u0000"}',
        b'{"\\u0000":1}',
        b'{"a":' + b"9" * 65 + b"}",
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":0.' + b"9" * 65 + b"}",
        b'{"a":' + b"[" * 40 + b"]" * 40 + b"}",
        b'{"a":' + b"[" * 200_000,
    ],
)
def test_what_cannot_be_meant_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_object(raw)


def test_numbers_come_exactly() -> None:
    assert parse_object(b'{"a":0.1,"b":1e2,"c":12345678901234567890}') == {
        "a": Decimal("0.1"),
        "b": Decimal("1E+2"),
        "c": 12345678901234567890,
    }


@pytest.mark.parametrize("text", ["0.1", "9007199254.740993", "0.000001", "1000000", "-0.5"])
def test_decimals_go_out_exactly(text: str) -> None:
    assert encode({"a": Decimal(text)}) == b'{"a":' + text.encode() + b"}"


async def test_a_body_over_the_bound_is_413(world: World) -> None:
    caller = await world.key(None, "credits:write")
    answer = await caller.send("POST", "/v1/accounts/create", raw=b" " * (world.services.max_body_bytes + 1))
    assert code(answer) == (413, "request_too_large")


async def test_an_unknown_field_is_named_with_what_is_allowed(world: World) -> None:
    caller = await world.key(None, "credits:write")
    answer = await caller.post("/v1/accounts/create", {"name": "Ann", "ballance": 3})
    assert code(answer) == (400, "invalid_request")
    assert answer.json()["error"]["param"] == "ballance"
    assert "externalId" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=-1", "limit=1e1", "offset=x", "limit=1&limit=2", "q=1"]
)
async def test_a_wrong_query_is_400_and_names_it(world: World, query: str) -> None:
    caller = await world.key(None, "credits:write")
    answer = await caller.send("GET", f"/v1/accounts?{query}")
    assert code(answer) == (400, "invalid_request")
    assert answer.json()["error"]["param"] == query.partition("=")[0]
