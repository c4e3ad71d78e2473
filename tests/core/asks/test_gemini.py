from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
import pytest

from faregate.core.asked import asked_output, measure
from faregate.core.asks.gemini import MOST_CONTEXT, name_in
from faregate.core.asks.shape import Allowances, Input
from faregate.core.call import Call
from faregate.errors import InvalidRequest

CONTEXT = 100_000


def call(**body: Any) -> Call:
    return Call(
        id="h",
        request_id="r",
        endpoint="generatecontent",
        model="m",
        body=body,
        raw_body=orjson.dumps(body),
        stream=False,
        wants_usage=True,
        account_id="a",
    )


def read(context: int | None = CONTEXT, **body: Any) -> Input:
    allow = Allowances(Decimal(2), 10, ("gemini-2.5-flash",), 16_384, context)
    return measure(call(**body), allow)


def media(mime: str, size: int, **more: Any) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime, "data": b64encode(b"\0" * size).decode()}, **more}


def tokens_of(*parts: Any, context: int | None = CONTEXT) -> int:
    """What parts bring beside their JSON, which is a few hundred bytes at most."""
    return read(context, contents=[{"parts": list(parts)}]).tokens


@pytest.mark.parametrize("config", ["generationConfig", "generation_config"])
@pytest.mark.parametrize("bound", ["maxOutputTokens", "max_output_tokens"])
@pytest.mark.parametrize("count", ["candidateCount", "candidate_count"])
def test_the_bound_is_read_in_either_spelling(config: str, bound: str, count: str) -> None:
    asked = asked_output(call(**{config: {bound: 50, count: 3}}))
    assert (asked.per_choice, asked.choices, asked.cappable) == (50, 3, True)
    assert asked.param == "generationConfig.maxOutputTokens"


@pytest.mark.parametrize("body", [{}, {"generationConfig": None}, {"generationConfig": {"maxOutputTokens": None}}])
def test_without_a_bound_it_is_the_models_own(body: dict[str, Any]) -> None:
    asked = asked_output(call(**body))
    assert (asked.per_choice, asked.choices) == (None, 1)


@pytest.mark.parametrize("bad", [0, -1, 1.5, "10", True, [], 10**9])
def test_a_bound_that_cannot_be_meant_is_refused(bad: object) -> None:
    with pytest.raises(InvalidRequest, match="maxOutputTokens must be"):
        asked_output(call(generationConfig={"maxOutputTokens": bad}))


def test_both_spellings_at_once_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="the same field"):
        name_in({"mimeType": "a", "mime_type": "b"}, "mimeType")


def test_text_counts_by_its_bytes_wherever_it_stands() -> None:
    system = {"parts": {"text": "x" * 1000}}
    assert read(contents={"parts": [{"text": "x" * 1000}]}, system_instruction=system).tokens > 1000


@pytest.mark.parametrize(
    ("part", "least", "most", "modalities"),
    [
        (media("image/png", 90_000), 6_450, 6_600, {"image"}),
        (media("audio/wav", 80_000), 10 * 32, 10 * 32 + 200, {"audio"}),
        (media("audio/mp3", 80_000), 80 * 32, 80 * 32 + 200, {"audio"}),
        (media("video/mp4", 60_000), 10 * 290, 10 * 290 + 200, {"audio", "image"}),
        (media("video/mp4", 60_000, videoMetadata={"fps": 2.5}), 10 * 806, 10 * 806 + 200, {"audio", "image"}),
        (media("video/mp4", 600_000, video_metadata={"fps": "9"}), CONTEXT, CONTEXT + 200, {"audio", "image"}),
        (media("application/pdf", 3_000), 2 * 8_450, 2 * 8_450 + 200, set()),
        (media("text/plain", 3_000), 2_000, 2_300, set()),
        (
            {"fileData": {"fileUri": "https://youtu.be/x", "mimeType": "video/*"}},
            CONTEXT,
            CONTEXT + 200,
            {"audio", "image"},
        ),
        ({"file_data": {"file_uri": "files/x", "mime_type": "image/png"}}, 6_450, 6_600, {"image"}),
        ({"fileData": {"fileUri": "files/x"}}, CONTEXT, CONTEXT + 200, set()),
    ],
)
def test_media_have_allowances(part: dict[str, Any], least: int, most: int, modalities: set[str]) -> None:
    assert least <= tokens_of(part) <= most
    assert read(contents=[{"parts": [part]}]).modalities == modalities


def test_what_a_function_returned_counts_too() -> None:
    returned = {"functionResponse": {"name": "f", "response": {}, "parts": [media("image/png", 9)]}}
    assert tokens_of(returned) > 6_450


def test_a_cache_may_fill_the_context() -> None:
    assert CONTEXT <= read(contents=[], cachedContent="cachedContents/x").tokens <= CONTEXT + 100
    assert read(None, contents=[], cached_content="cachedContents/x").tokens >= MOST_CONTEXT


def test_what_comes_out_and_what_is_searched() -> None:
    found = read(contents=[], generationConfig={"responseModalities": ["TEXT", "IMAGE"]}, tools=[{"google_search": {}}])
    assert found.modalities == {"image"}
    assert found.units["search"] == 1
    assert read(contents=[], tools=[{"functionDeclarations": []}]).units == {"request": 1}


@pytest.mark.parametrize(
    ("said", "tier"), [("PRIORITY", "priority"), ("flex", "flex"), (None, "default"), (1, "default")]
)
def test_the_tier_asked_for(said: object, tier: str) -> None:
    assert read(contents=[], serviceTier=said).tier == tier


@pytest.mark.parametrize("contents", [None, [], "hi", 1, [None], [{"parts": None}], [{"parts": "x"}], [{"parts": [1]}]])
def test_contents_of_any_shape_are_the_providers_to_judge(contents: object) -> None:
    assert read(contents=contents).tokens >= 1


@pytest.mark.parametrize("batch", [True, False])
def test_what_is_embedded_counts_by_its_bytes_and_media(batch: bool) -> None:
    content = {"content": {"parts": [{"text": "x" * 1000}, media("image/png", 90_000)]}}
    asked = call(**({"requests": [content, content]} if batch else content))
    endpoint = "batchembedcontents" if batch else "embedcontent"
    found = measure(replace(asked, endpoint=endpoint), Allowances(Decimal(2), 10, ("gemini",), 1, CONTEXT))
    each = 500 + 6_450
    assert each * (1 + batch) <= found.tokens <= each * (1 + batch) + 300
    assert found.modalities == {"image"}
