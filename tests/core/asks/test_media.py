"""Holds for sound and pictures are never less than what providers charge, as far as their prices are public."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from math import ceil
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.core.asks.media import picture_pixels, picture_rate
from faregate.core.call import Call, Candidate, Form
from faregate.core.estimate import CallEstimator
from faregate.core.price import PriceCard
from faregate.core.pricing import price
from faregate.core.usage import Usage
from faregate.errors import InvalidRequest
from faregate.pricing import litellm_map
from tests.core.test_estimate import PRINCIPAL

MAP = Path(litellm_map.__file__).parent / "data" / "litellm-map.json.gz"
ESTIMATOR = CallEstimator()


def call(endpoint: str, form: Form | None = None, /, **body: Any) -> Call:
    body = {"model": "m", **body}
    return Call(
        id="h",
        request_id="r",
        endpoint=endpoint,
        model="m",
        body=body,
        raw_body=orjson.dumps(body),
        stream=False,
        wants_usage=False,
        account_id="a",
        form=form,
    )


def held(asked: Call, model: str = "m", **rates: str) -> Decimal:
    """USD."""
    card = PriceCard(
        id=f"{model}{sorted(rates.items())}",
        provider="p",
        model=model,
        rates={name.replace("__", ":"): Decimal(rate) for name, rate in rates.items()},
        source="test",
        max_output_tokens=2000,
    )
    place = Candidate(provider="p", kind="openai", model=model, card=card)
    return Decimal(ESTIMATOR.estimate(asked, (place,), PRINCIPAL).want_microcredits) / 10**9


def listed() -> Iterator[tuple[str, str, str, str, Decimal]]:
    """Endpoint, quality, size, model and USD of one picture: the public map, and a reseller at the same prices."""
    entries = json.loads(gzip.decompress(MAP.read_bytes()))["entries"]
    for name, entry in entries.items():
        found = re.fullmatch(r"(?:fal_ai/)?(\w+)/(\d+)-x-(\d+)/(?:openai/)?(gpt-image[\w.-]+?)(?:-20\d\d.*|/.*)?", name)
        usd = entry.get("output_cost_per_image", entry.get("input_cost_per_image"))
        if found and usd:
            quality = "low" if found[1] == "standard" else found[1]
            endpoint = "images.edits" if name.endswith("/edit") else "images.generations"
            yield endpoint, quality, f"{found[2]}x{found[3]}", found[4], Decimal(usd)


RATES = {"gpt-image-1": "0.00004", "gpt-image-1-mini": "0.000008", "gpt-image-1.5": "0.000032"}


@pytest.mark.parametrize(("endpoint", "quality", "size", "model", "usd"), sorted(set(listed())))
def test_a_picture_is_held_for_what_the_public_map_lists(
    endpoint: str, quality: str, size: str, model: str, usd: Decimal
) -> None:
    given = {"images": [{"image_url": "https://h/a.png"}]} if endpoint == "images.edits" else {}
    asked = call(endpoint, quality=quality, size=size, **given)
    rates = {"input": "0.000005", "image_input": "0.000008", "image_output": RATES.get(model, "0.00003")}
    assert usd <= held(asked, model, **rates) <= 60 * usd


def test_without_a_quality_and_a_size_the_dearest_usual_picture_is_held() -> None:
    asked = call("images.generations", n=3, partial_images=2)
    assert held(asked, "gpt-image-1", input="0", image_output="0.00004") >= 3 * (6240 + 200) * Decimal("0.00004")


def test_a_listed_quality_and_size_is_held_exactly() -> None:
    rates = {"image": "0.12", "image__standard__1024x1024": "0.04", "image__hd__1792x1024": "0.12"}
    dalle: dict[str, Any] = {"n": 2, "quality": "standard", "size": "1024x1024"}
    assert held(call("images.generations", **dalle), "dall-e-3", **rates) == Decimal("0.24")
    assert held(call("images.generations", **dalle), "dall-e-3", image__standard__1024x1024="0.04") == Decimal("0.08")


@pytest.mark.parametrize(
    ("body", "rate", "pixels"),
    [
        ({}, "image:standard:1024x1024", 1 << 20),
        ({"size": "auto", "quality": "auto"}, "image:standard:1024x1024", 1 << 20),
        ({"size": "1792x1024", "quality": "hd"}, "image:hd:1792x1024", 1792 * 1024),
        ({"size": "99999x99999"}, "image:standard:99999x99999", 100_000_000),
        ({"size": "0x5", "quality": 7}, "image:standard:1024x1024", 1 << 20),
    ],
)
def test_what_a_picture_is_called_on_a_card(body: dict[str, Any], rate: str, pixels: int) -> None:
    assert (picture_rate(body), picture_pixels(body)) == (rate, pixels)


@pytest.mark.parametrize("name", ["n", "partial_images"])
@pytest.mark.parametrize("value", [-1, 1.5, "2", True, 10**9, float("nan")])
def test_a_number_of_pictures_that_cannot_be_meant_is_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        held(call("images.generations", **dict[str, Any]({name: value})), image="1")
    assert refused.value.param == name


@given(text=st.text(max_size=4096))
def test_speech_is_held_for_its_characters_and_for_its_tokens(text: str) -> None:
    asked = call("audio.speech", input=text)
    by_character = price(
        PriceCard(id="c", provider="p", model="m", rates={"character": Decimal("0.000015")}, source="t"),
        Usage(characters=len(text)),
    )
    assert held(asked, character="0.000015") == by_character.usd
    slowest = ceil(len(text.encode("utf-8", "replace")) / 6) * 21  # Tokens at six bytes of text a second.
    assert held(asked, input="0.0000006", output="0.000012") >= slowest * Decimal("0.000012")


@pytest.mark.parametrize("model", ["tts-1", "tts-1-hd", "gpt-4o-mini-tts"])
def test_openais_voices_take_4096_characters(model: str) -> None:
    assert held(call("audio.speech", input="ä" * 4096), model, character="0.000001") == Decimal("0.004096")
    with pytest.raises(InvalidRequest) as refused:
        held(call("audio.speech", input="ä" * 4097), model, character="0.000001")
    assert refused.value.param == "input"
    assert held(call("audio.speech", input="ä" * 4097), "my-voice", character="0.000001") == Decimal("0.004097")


@given(seconds=st.integers(1, 100_000))
def test_a_transcription_is_held_for_its_seconds_and_for_its_tokens(seconds: int) -> None:
    form = Form(model_at=(0, 0), seconds=seconds, most_seconds=seconds)
    asked = call("audio.transcriptions", form)
    assert held(asked, "whisper-1", second="0.0001") == seconds * Decimal("0.0001")
    most = seconds * Decimal("0.0001")  # The price by the minute that OpenAI names for it.
    assert held(asked, "gpt-4o-transcribe", input="0.0000025", audio_input="0.000006", output="0.00001") >= most


def test_of_two_bases_the_dearer_one_is_held_not_both() -> None:
    asked = call("audio.transcriptions", Form(model_at=(0, 0), seconds=10, most_seconds=10))
    rates = {"input": "0.000001", "audio_input": "0.000001", "output": "0"}
    alone = held(asked, "m", **rates)
    assert held(asked, "m", second="1", **rates) == Decimal(10)
    assert held(asked, "m", second="0.0000001", **rates) == alone


def test_a_recording_of_unknown_length_is_held_for_the_longest() -> None:
    asked = call("audio.transcriptions", Form(model_at=(0, 0), seconds=2, most_seconds=8, guessed=True))
    assert held(asked, "whisper-1", second="0.0001") == Decimal("0.0008")
