"""The real OpenAI SDK on everything that is not text: recordings, speech, pictures, judgement."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests import recordings
from tests.story.conftest import Open
from tests.story.house import House
from tests.upstreams.media import Media, Reply, events

T = TypeVar("T")
FULL = 1_000_000_000
PRICES = """
- {provider: up, model: whisper, per_unit: {second: 0.0001}}
- {provider: up, model: listener, per_million: {input: 2.5, audio_input: 6, output: 10}, max_output_tokens: 2000}
- {provider: up, model: voice, per_unit: {character: 0.000015}}
- {provider: up, model: token-voice, per_million: {input: 0.6, output: 12}}
- {provider: up, model: painter, per_million: {input: 5, image_input: 10, image_output: 40, output: 40}}
- {provider: up, model: dall-e, per_unit: {image: 0.12, "image:standard:1024x1024": 0.04, "image:hd:1792x1024": 0.12}}
- {provider: up, model: judge, per_million: {input: 0, output: 0}}
"""
HEARD = {"input_tokens": 30, "input_token_details": {"audio_tokens": 28, "text_tokens": 2}, "output_tokens": 5}
DRAWN = {"input_tokens": 12, "input_tokens_details": {"text_tokens": 12, "image_tokens": 0}, "output_tokens": 4160}
PNG = base64.b64encode(b"\x89PNG").decode()


@pytest.fixture
async def upstream() -> AsyncIterator[Media]:
    async with Media() as upstream:
        yield upstream


@pytest.fixture
async def house(open_house: Open, upstream: Media) -> House:
    return await open_house(prices=PRICES)


@pytest.fixture
async def client(house: House) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=house.url + "/v1", api_key=house.me.secret, max_retries=0) as client:
        yield client


async def sync(house: House, use: Callable[[OpenAI], T]) -> T:
    """Use the sync client in a thread; the gateway runs in this loop."""

    def run() -> T:
        with OpenAI(base_url=house.url + "/v1", api_key=house.me.secret, max_retries=0) as client:
            return use(client)

    return await asyncio.to_thread(run)


async def charged(house: House) -> tuple[Decimal, bool]:
    """USD of the one record, which its charge must be; whether it is estimated."""
    record = await house.record()
    assert record.cost_usd is not None
    assert Decimal(record.charge_microcredits) == record.cost_usd * 10**9
    assert await house.balance() == FULL - record.charge_microcredits
    return record.cost_usd.normalize(), record.estimated


# Recordings ---------------------------------------------------------------------------------------------


def wav(seconds: float) -> tuple[str, bytes]:
    return ("speech.wav", recordings.wav(seconds))


def heard(upstream: Media, body: bytes, kind: str = "application/json", endpoint: str = "transcriptions") -> None:
    upstream.answers[f"audio.{endpoint}"] = Reply((body,), kind)


async def test_a_transcription_by_tokens(house: House, upstream: Media, client: AsyncOpenAI) -> None:
    heard(
        upstream,
        b'{"text":"hi","usage":{"type":"tokens","input_tokens":30,"input_token_details":{"audio_tokens":28,'
        b'"text_tokens":2},"output_tokens":5,"total_tokens":35}}',
    )
    got = await client.audio.transcriptions.create(model="up/listener", file=wav(3), prompt="names", temperature=0.5)
    assert got.text == "hi"
    assert await charged(house) == (Decimal("0.000223"), False)
    received = upstream.received[0]
    assert received.path == "/v1/audio/transcriptions"
    assert received.fields == {"model": "listener", "prompt": "names", "temperature": "0.5"}
    assert received.files == [("file", recordings.wav(3))]


async def test_a_transcription_by_seconds_with_the_sync_client(house: House, upstream: Media, tmp_path: Path) -> None:
    heard(upstream, b'{"text":"hi","duration":8.47,"usage":{"type":"duration","seconds":9}}')
    path = tmp_path / "a.mp3"
    path.write_bytes(recordings.mp3(8.47))
    got = await sync(
        house,
        lambda sdk: sdk.audio.transcriptions.create(
            model="up/whisper", file=path, response_format="verbose_json", timestamp_granularities=["word", "segment"]
        ),
    )
    assert got.duration == 8.47
    assert await charged(house) == (Decimal("0.0009"), False)
    assert upstream.received[0].files == [("file", path.read_bytes())]


@pytest.mark.parametrize("form", ["srt", "vtt", "text"])
async def test_a_transcript_that_tells_nothing_costs_the_recordings_seconds(
    house: House, upstream: Media, client: AsyncOpenAI, form: Any
) -> None:
    heard(upstream, b"1\n00:00:00,000 --> 00:00:03,200\nhi\n", "text/plain; charset=utf-8")
    got: Any = await client.audio.transcriptions.create(model="up/whisper", file=wav(3.2), response_format=form)
    assert "hi" in str(got)
    assert await charged(house) == (Decimal("0.0004"), False)


async def test_a_recording_that_does_not_say_its_length_is_guessed(
    house: House, upstream: Media, client: AsyncOpenAI
) -> None:
    heard(upstream, b"hi\n", "text/plain")
    file = ("a.webm", recordings.webm(None))
    await client.audio.transcriptions.create(model="up/whisper", file=file, response_format="text")
    assert await charged(house) == (Decimal("0.0004"), True)


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
async def test_a_translation(house: House, upstream: Media, client: AsyncOpenAI) -> None:
    heard(upstream, b'{"text":"hello"}', endpoint="translations")
    got = await client.audio.translations.create(model="up/whisper", file=wav(5))
    assert got.text == "hello"
    assert await charged(house) == (Decimal("0.0005"), False)


async def test_a_streamed_transcription(house: House, upstream: Media, client: AsyncOpenAI) -> None:
    delta = {"type": "transcript.text.delta", "delta": "hi"}
    done = {"type": "transcript.text.done", "text": "hi", "usage": {"type": "tokens", **HEARD, "total_tokens": 35}}
    upstream.answers["audio.transcriptions"] = Reply(events(delta, done), "text/event-stream")
    stream = await client.audio.transcriptions.create(model="up/listener", file=wav(3), stream=True)
    assert [event.type async for event in stream] == ["transcript.text.delta", "transcript.text.done"]
    assert upstream.received[0].fields["stream"] == "true"
    assert await charged(house) == (Decimal("0.000223"), False)


async def test_a_model_that_does_not_stream_answers_whole(house: House, upstream: Media, client: AsyncOpenAI) -> None:
    heard(upstream, b"hi\n", "text/plain")
    got = await house.http.post(
        "/v1/audio/transcriptions",
        files={"file": ("a.wav", recordings.wav(2))},
        data={"model": "up/whisper", "stream": "true", "response_format": "text"},
    )
    assert (got.status_code, got.content) == (200, b"hi\n")
    assert got.headers["x-faregate-cost-usd"] == "0.0002"


async def test_a_form_goes_upstream_byte_for_byte_but_for_the_model(house: House, upstream: Media) -> None:
    heard(upstream, b'{"text":"hi","usage":{"type":"duration","seconds":1}}')
    kind = "multipart/form-data; boundary=----odd'()+_,-./:=?"
    cut = b"------odd'()+_,-./:=?"
    raw = (
        b"preamble\r\n"[:0] + cut + b'\r\ncontent-disposition:   form-data; name="file"; filename="a \xc3\xa4.wav"\r\n'
        b"X-Own: 1\r\n\r\n"
        + recordings.wav(1)
        + b"\r\n"
        + cut
        + b'\r\nContent-Disposition: form-data; name="model"\r\n\r\nup/whisper\r\n'
        + cut
        + b"--\r\n"
    )
    got = await house.http.post("/v1/audio/transcriptions", content=raw, headers={"content-type": kind})
    assert got.status_code == 200, got.text
    assert upstream.received[0].body == raw.replace(b"up/whisper", b"whisper")
    assert upstream.received[0].headers["content-type"] == kind


async def test_a_form_without_its_file_is_refused_before_anything_is_held(
    house: House, upstream: Media, client: AsyncOpenAI
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.post("/audio/transcriptions", body={"model": "up/whisper"}, cast_to=object)
    assert refused.value.code == "invalid_request"
    got = await house.http.post("/v1/audio/transcriptions", files={"file": ("a.wav", b"x")})
    assert (got.status_code, got.json()["error"]["param"]) == (400, "model")
    assert upstream.received == []
    assert await house.records() == []


async def test_a_refused_recording_costs_nothing(house: House, upstream: Media, client: AsyncOpenAI) -> None:
    body = b'{"error":{"message":"Invalid file format.","type":"invalid_request_error","param":null,"code":null}}'
    upstream.answers["audio.transcriptions"] = Reply((body,), status=400)
    with pytest.raises(openai.BadRequestError, match="Invalid file format"):
        await client.audio.transcriptions.create(model="up/whisper", file=wav(3))
    await house.settled()
    assert await house.balance() == FULL


# Speech -------------------------------------------------------------------------------------------------


async def test_speech_by_characters(house: House, upstream: Media, client: AsyncOpenAI) -> None:
    upstream.answers["audio.speech"] = Reply((b"\xff\xf3sound",), "audio/mpeg")
    got = await client.audio.speech.create(model="up/voice", voice="alloy", input="grüße 🎉")
    assert got.content == b"\xff\xf3sound"
    assert got.response.headers["content-type"] == "audio/mpeg"
    assert got.response.headers["x-faregate-cost-usd"] == "0.000105"
    assert await charged(house) == (Decimal("0.000105"), False)


async def test_sound_passes_as_it_comes(house: House, upstream: Media, client: AsyncOpenAI) -> None:
    pieces = tuple(bytes([index]) * 50_000 for index in range(8))
    upstream.answers["audio.speech"] = Reply(pieces, "audio/pcm")
    create = client.audio.speech.with_streaming_response.create
    async with create(model="up/voice", voice="alloy", input="x" * 4096, response_format="pcm") as got:
        assert b"".join([chunk async for chunk in got.iter_bytes()]) == b"".join(pieces)
    assert await charged(house) == (Decimal("0.06144"), False)


async def test_speech_by_tokens_tells_them_in_events(house: House, upstream: Media) -> None:
    used = {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}
    said = events({"type": "speech.audio.delta", "audio": "AAAA"}, {"type": "speech.audio.done", "usage": used})
    upstream.answers["audio.speech"] = Reply(said, "text/event-stream")
    asked = {"model": "up/token-voice", "input": "hello", "voice": "alloy", "stream_format": "sse"}
    got = await house.http.post("/v1/audio/speech", json=asked)
    assert got.content == b"".join(said)
    assert await charged(house) == (Decimal("0.0012204"), False)


async def test_speech_by_tokens_without_events_is_estimated(house: House, upstream: Media, client: AsyncOpenAI) -> None:
    upstream.answers["audio.speech"] = Reply((b"sound",), "audio/mpeg")
    await client.audio.speech.create(model="up/token-voice", voice="alloy", input="a" * 100)
    usd, estimated = await charged(house)
    assert estimated
    assert Decimal("0.0018") <= usd < Decimal("0.0019")


async def test_speech_that_never_comes_costs_nothing(house: House, upstream: Media, client: AsyncOpenAI) -> None:
    upstream.answers["audio.speech"] = Reply((), "audio/mpeg", cut=True)
    with pytest.raises(openai.InternalServerError):
        await client.audio.speech.create(model="up/voice", voice="alloy", input="hello")
    await house.settled()
    assert await house.balance() == FULL


async def test_speech_needs_its_text(house: House, client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.audio.speech.create(model="up/voice", voice="alloy", input=["no"])  # type: ignore[arg-type]
    assert refused.value.param == "input"


# Pictures -----------------------------------------------------------------------------------------------


async def test_a_picture_by_tokens(house: House, upstream: Media, client: AsyncOpenAI) -> None:
    usage = b'{"input_tokens":12,"output_tokens":4160,"total_tokens":4172}'
    drawn = b'{"created":1,"data":[{"b64_json":"AAAA"}],"usage":' + usage + b"}"
    upstream.answers["images.generations"] = Reply((drawn,))
    got = await client.images.generate(model="up/painter", prompt="a gate", quality="high", size="1024x1024")
    assert got.data is not None
    assert got.data[0].b64_json == "AAAA"
    assert await charged(house) == (Decimal("0.16646"), False)


@pytest.mark.parametrize(
    ("asked", "usd"),
    [
        ({"n": 2}, "0.08"),
        ({"n": 2, "quality": "hd", "size": "1792x1024"}, "0.24"),
        ({"n": 2, "quality": "hd", "size": "512x512"}, "0.24"),
    ],
)
async def test_pictures_by_the_piece(house: House, upstream: Media, client: AsyncOpenAI, asked: Any, usd: str) -> None:
    upstream.answers["images.generations"] = Reply(
        (b'{"created":1,"data":[{"url":"https://h/1"},{"url":"https://h/2"}]}',)
    )
    await client.images.generate(model="up/dall-e", prompt="a gate", **asked)
    assert await charged(house) == (Decimal(usd), False)


async def test_pictures_that_were_filtered_are_not_paid(house: House, upstream: Media, client: AsyncOpenAI) -> None:
    upstream.answers["images.generations"] = Reply((b'{"created":1,"data":[]}',))
    await client.images.generate(model="up/dall-e", prompt="a gate", n=2)
    await house.settled()
    assert await house.balance() == FULL


async def test_a_streamed_picture_of_megabytes(house: House, upstream: Media, client: AsyncOpenAI) -> None:
    shown = {"created_at": 1, "size": "1024x1024", "quality": "high", "background": "auto", "output_format": "png"}
    large = "A" * 20_000_000
    partial = {"type": "image_generation.partial_image", **shown, "b64_json": large, "partial_image_index": 0}
    done = {"type": "image_generation.completed", **shown, "b64_json": large, "usage": {**DRAWN, "total_tokens": 4172}}
    upstream.answers["images.generations"] = Reply(events(partial, done), "text/event-stream")
    stream = await client.images.generate(model="up/painter", prompt="a gate", stream=True, partial_images=1)
    got = [event async for event in stream]
    assert [(event.type, len(event.b64_json)) for event in got] == [
        ("image_generation.partial_image", 20_000_000),
        ("image_generation.completed", 20_000_000),
    ]
    assert await charged(house) == (Decimal("0.16646"), False)


async def test_an_edit_of_two_pictures(house: House, upstream: Media, client: AsyncOpenAI) -> None:
    details = b'"input_tokens_details":{"text_tokens":10,"image_tokens":390}'
    usage = b'{"input_tokens":400,' + details + b',"output_tokens":272,"total_tokens":672}'
    upstream.answers["images.edits"] = Reply((b'{"created":1,"data":[{"b64_json":"AAAA"}],"usage":' + usage + b"}",))
    images = [("a.png", b"\x89PNGa"), ("b.png", b"\x89PNGb")]
    await client.images.edit(model="up/painter", image=images, prompt="both", mask=("m.png", b"\x89PNGm"), n=1)
    assert [name for name, _ in upstream.received[0].files] == ["image[]", "image[]", "mask"]
    assert upstream.received[0].fields["model"] == "painter"
    assert await charged(house) == (Decimal("0.01483"), False)


async def test_an_edit_with_the_sync_client_streams(house: House, upstream: Media, tmp_path: Path) -> None:
    shown = {"created_at": 1, "size": "1024x1024", "quality": "high", "background": "auto", "output_format": "png"}
    done = {"type": "image_edit.completed", **shown, "b64_json": PNG, "usage": {**DRAWN, "total_tokens": 4172}}
    upstream.answers["images.edits"] = Reply(events(done), "text/event-stream")
    path = tmp_path / "a.png"
    path.write_bytes(base64.b64decode(PNG))

    def use(sdk: OpenAI) -> list[str]:
        stream = sdk.images.edit(model="up/painter", image=path, prompt="brighter", stream=True, n=1)
        return [event.b64_json for event in stream]

    assert await sync(house, use) == [PNG]
    assert upstream.received[0].files == [("image", b"\x89PNG")]
    assert await charged(house) == (Decimal("0.16646"), False)


async def test_a_picture_that_breaks_off_is_an_error_and_not_free(house: House, upstream: Media) -> None:
    shown = {"type": "image_generation.partial_image", "b64_json": PNG, "partial_image_index": 0}
    upstream.answers["images.generations"] = Reply(events(shown), "text/event-stream", cut=True)
    asked = {"model": "up/painter", "prompt": "a gate", "stream": True, "quality": "low", "size": "1024x1024"}
    got = await house.http.post("/v1/images/generations", json=asked)
    assert b'"error"' in got.content
    usd, estimated = await charged(house)
    assert estimated
    assert Decimal("0.004") < usd < Decimal("0.0042")  # A partial image of 100 tokens, and the prompt.


async def test_a_client_that_wants_its_cost_finds_it_in_the_last_event(house: House, upstream: Media) -> None:
    done = {"type": "transcript.text.done", "text": "hi", "usage": {"type": "tokens", **HEARD, "total_tokens": 35}}
    upstream.answers["audio.transcriptions"] = Reply(events(done), "text/event-stream")
    got = await house.http.post(
        "/v1/audio/transcriptions",
        files={"file": wav(3)},
        data={"model": "up/listener", "stream": "true"},
        headers={"x-faregate-include-cost": "true"},
    )
    assert b'"cost_usd":0.000223,"credits":0.223' in got.content


# Judgement ----------------------------------------------------------------------------------------------


async def test_a_moderation_is_free_but_not_open(house: House, upstream: Media, client: AsyncOpenAI) -> None:
    result = b'{"id":"modr-1","model":"judge","results":[]}'
    upstream.answers["moderations"] = Reply((result,))
    got = await client.moderations.create(model="up/judge", input="hello")
    assert got.id == "modr-1"
    await house.settled()
    assert await house.balance() == FULL
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="fg_live_none").moderations.create(model="up/judge", input="hello")
    with pytest.raises(openai.NotFoundError):
        await client.moderations.create(input="hello")


# Test keys ----------------------------------------------------------------------------------------------


async def test_a_test_key_gets_pretend_sound_and_pictures(house: House, upstream: Media) -> None:
    tester = await house.caller(test=True)
    async with AsyncOpenAI(base_url=house.url + "/v1", api_key=tester.secret, max_retries=0) as sdk:
        heard = await sdk.audio.transcriptions.create(model="whisper", file=wav(3))
        written = await sdk.audio.transcriptions.create(model="whisper", file=wav(3), response_format="srt")
        stream = await sdk.audio.transcriptions.create(model="listener", file=wav(3), stream=True)
        kinds = [event.type async for event in stream]
        spoken = await sdk.audio.speech.create(model="voice", voice="alloy", input="hello there")
        drawn = await sdk.images.generate(model="painter", prompt="a gate", n=2)
        changed = await sdk.images.edit(model="painter", prompt="a gate", image=("a.png", b"png"))
        judged = await sdk.moderations.create(input="hello")
    assert heard.text
    assert "00:00:03,000" in str(written)
    assert kinds[-1] == "transcript.text.done"
    assert spoken.content.startswith(b"RIFF")
    assert drawn.data is not None
    assert len(drawn.data) == 2
    assert changed.data is not None
    assert not judged.results[0].flagged
    assert upstream.received == []
    endpoints = [(record.endpoint, record.estimated) for record in await house.records(tester)]
    assert sorted(endpoints) == sorted(
        [(f"audio.{name}", False) for name in ("transcriptions",) * 3 + ("speech",)]
        + [("images.generations", False), ("images.edits", False)]
    )


# Azure --------------------------------------------------------------------------------------------------


async def test_a_recording_goes_to_the_deployment(open_house: Open, upstream: Media) -> None:
    base_url = upstream.url.removesuffix("/v1")
    azure = {"kind": "azure", "base_url": base_url, "deployments": {"whisper-1": "ears"}, "api_key": "azure-key"}
    house = await open_house(providers__azure=azure)
    upstream.answers["audio.transcriptions"] = Reply((b"hi\n",), "text/plain")
    async with AsyncOpenAI(base_url=house.url + "/v1", api_key=house.me.secret) as sdk:
        file = ("a.wav", recordings.wav(2.5))
        await sdk.audio.transcriptions.create(model="azure/whisper-1", file=file, response_format="text")
    received = upstream.received[0]
    assert received.path == "/openai/deployments/ears/audio/transcriptions?api-version=2024-10-21"
    assert (received.headers["api-key"], received.fields["model"]) == ("azure-key", "ears")
    assert (await house.record()).cost_usd == Decimal("0.0003")
