"""Test keys never leave the house in Gemini's words either: the sandbox behind Google's SDK."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.test_google_sdk import speaking
from tests.story.conftest import house as house
from tests.story.conftest import open_house as open_house
from tests.story.conftest import story_valkey as story_valkey
from tests.story.conftest import upstream as upstream
from tests.story.house import House

WISH = "Write 9 words"
PATH = "/v1beta/models/any:streamGenerateContent"


@pytest.fixture
def kind() -> str:
    return "sqlite"


async def test_a_test_key_gets_a_pretended_answer_with_honest_usage(house: House) -> None:
    tester = await house.caller(test=True)
    async with speaking(house, tester.secret) as models:
        got = await models.generate_content(model="gemini-2.5-flash", contents=WISH)
        parts = [part.text async for part in await models.generate_content_stream(model="any", contents=WISH)]
    assert len((got.text or "").split()) == 9
    assert [len(part or "") > 0 for part in parts] == [True] * 9 + [False]
    await house.settled(tester)
    counted = [(record.provider_kind, record.usage["output_tokens"]) for record in await house.records(tester)]
    assert counted == [("sandbox", 9)] * 2


@pytest.mark.parametrize("query", ["", "?alt=sse"])
async def test_bounds_are_obeyed_in_either_frame(house: House, query: str) -> None:
    tester = await house.caller(test=True)
    contents = [{"parts": [{"text": WISH}]}]
    body: dict[str, Any] = {"contents": contents, "generation_config": {"max_output_tokens": 4, "candidateCount": 2}}
    got = await house.http.post(PATH + query, json=body, headers={"authorization": f"Bearer {tester.secret}"})
    assert b"MAX_TOKENS" in got.content
    assert got.content.rstrip().endswith(b"}" if query else b"]")
    record = await house.record(tester)
    assert (record.usage["output_tokens"], record.outcome) == (8, "ok")


async def test_counts_and_vectors(house: House) -> None:
    tester = await house.caller(test=True)
    async with speaking(house, tester.secret) as models:
        counted = await models.count_tokens(model="any", contents="12345678")
        embedded = await models.embed_content(
            model="any", contents=["a", "b", "a"], config={"output_dimensionality": 8}
        )
    first, second, again = [each.values or [] for each in embedded.embeddings or ()]
    assert counted.total_tokens == 2
    assert len(first) == 8
    assert first == again != second


async def test_the_sandboxs_errors_come_in_googles_shape(house: House) -> None:
    tester = await house.caller(test=True)
    path = "/v1beta/models/sandbox-error-429:generateContent"
    got = await house.http.post(path, json={"contents": []}, headers={"authorization": f"Bearer {tester.secret}"})
    assert (got.status_code, got.json()["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
