from __future__ import annotations

from typing import Any

import pytest

from faregate.core.asked import asked_output
from faregate.core.call import Call
from faregate.errors import InvalidRequest
from faregate.gateway.doors import DOORS
from faregate.gateway.multipart import parts_of
from faregate.ports import Inbound
from tests.core.test_estimate import PRINCIPAL
from tests.recordings import wav

TYPE = "multipart/form-data; boundary=XX"
SOUND = wav(2)


def part(name: str, value: bytes | str, filename: str | None = None) -> bytes:
    file = "" if filename is None else f'; filename="{filename}"\r\nContent-Type: audio/wav'
    data = value.encode() if isinstance(value, str) else value
    return f'--XX\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n"


MODEL = part("model", "up/whisper")
FILE = part("file", SOUND, "a.wav")


def read(*parts: bytes, path: str = "/v1/audio/transcriptions", kind: str = TYPE, end: bytes = b"--XX--\r\n") -> Call:
    door = DOORS[path]
    inbound = Inbound(
        endpoint=door.endpoint, secret="", headers={"content-type": kind}, body=b"".join(parts) + end, request_id="r"
    )
    return door.dialect.read(inbound, PRINCIPAL, "acc", "call")


def test_a_form_is_its_fields_and_its_files() -> None:
    call = read(FILE, MODEL, part("prompt", "grüße"), part("include[]", "a"), part("include[]", "b"))
    assert call.body == {"model": "up/whisper", "prompt": "grüße", "include[]": ["a", "b"]}
    assert call.form is not None
    assert call.form.files == (("file", len(SOUND)),)
    assert (call.form.seconds, call.form.guessed) == (2, False)
    assert call.raw_body[slice(*call.form.model_at)] == b"up/whisper"
    assert (call.model, call.content_type, call.stream) == ("up/whisper", TYPE, False)


def test_a_form_may_ask_for_a_stream() -> None:
    assert read(FILE, MODEL, part("stream", "true")).stream
    assert not read(FILE, MODEL, part("stream", "False")).stream


def test_a_file_may_hold_anything_but_its_boundary() -> None:
    odd = b"\r\n--X\r\n--XY--\r\n\r\n\x00\xff" + b"-XX--"
    call = read(part("file", odd, "a"), MODEL)
    assert call.form is not None
    assert call.form.files == (("file", len(odd)),)


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([FILE], "model"),
        ([FILE, part("model", "")], "model"),
        ([FILE, part("model", b"\xff\xfe")], "model"),
        ([FILE, part("model", "m", "m.txt")], "model"),
        ([MODEL], "file"),
        ([MODEL, part("file", "text, not a file")], "file"),
        ([MODEL, part("file", b"", "a.wav")], "file"),
        ([MODEL, FILE, FILE], "file"),
        ([MODEL, MODEL, FILE], "model"),
        ([MODEL, FILE, part("prompt", b"\xc3\x28")], "prompt"),
        ([MODEL, FILE, part("stream", "maybe")], "stream"),
        ([MODEL, FILE, part("prompt", b"x" * (1 << 20) + b"y")], "prompt"),
    ],
)
def test_what_cannot_be_meant_names_its_field(parts: list[bytes], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(*parts)
    assert refused.value.param == param


@pytest.mark.parametrize("n", ["0", "-1", "1.5", "ten", "1e3", "129", "9" * 5000, "²"])
def test_the_number_of_pictures_is_a_number(n: str) -> None:
    image = part("image", b"png", "a.png")
    with pytest.raises(InvalidRequest) as refused:
        asked_output(read(image, MODEL, part("n", n), path="/v1/images/edits"))
    assert refused.value.param == "n"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"end": b""}, "breaks off"),
        ({"end": b"--X"}, "breaks off"),
        ({"kind": "multipart/form-data"}, "boundary"),
        ({"kind": "application/json"}, "multipart/form-data"),
        ({"kind": ""}, "multipart/form-data"),
        ({"kind": "multipart/form-data; boundary=YY"}, "not valid"),
        ({"kind": "multipart/form-data; boundary=" + "Y" * 300}, "not valid"),
        ({"kind": 'multipart/form-data; boundary="ä"'}, "not valid"),
    ],
)
def test_a_broken_form_says_so(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        read(FILE, MODEL, **changes)


CD = b"Content-Disposition: form-data; "
SMUGGLED = [
    b"--XX\r\n" + CD + b'name="y"\r\n' + CD + b'name="model"\r\n\r\ndear\r\n--XX--\r\n',
    b"--XX\r\n" + CD + b'name="y"; name="model"\r\n\r\ndear\r\n--XX--\r\n',
    b"--XX\r\n" + CD + b"name=\"y\"; name*=utf-8''model\r\n\r\ndear\r\n--XX--\r\n",
    b"--XX\r\n" + CD + b'name="y"; NAME="model"\r\n\r\ndear\r\n--XX--\r\n',
    b"--XX\r\n" + CD + b'filename="a\\"; name="model"; name="y"\r\n\r\ndear\r\n--XX--\r\n',
    b"--XX\r\n" + CD + b'name="y"\r\n\r\nx\n--XX\n' + CD + b'name="model"\n\ndear\r\n--XX--\r\n',
    b"--XX\r\n" + CD + b'name="y"\r\n\r\nx\r\n--XX--\r\n--XX\r\n' + CD + b'name="model"\r\n\r\ndear\r\n--XX--\r\n',
    b"--XX\r\n" + CD + b'name="model"\r\nContent-Transfer-Encoding: base64\r\n\r\nZGVhcg==\r\n--XX--\r\n',
]


@pytest.mark.parametrize("raw", SMUGGLED)
def test_a_form_that_others_may_read_otherwise_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parts_of(raw, TYPE)


def test_a_content_type_with_two_boundaries_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        read(FILE, MODEL, kind=TYPE + "; boundary=YY")


@pytest.mark.parametrize(
    "raw",
    [
        b"--XX\r\nContent-Disposition: form-data\r\n\r\nx\r\n--XX--\r\n",
        b'--XX\r\nContent-Disposition: attachment; name="a"\r\n\r\nx\r\n--XX--\r\n',
        b'--XX\r\nContent-Disposition: form-data; name="a\xff"\r\n\r\nx\r\n--XX--\r\n',
        b"--XX\r\n\r\nx\r\n--XX--\r\n",
        b"--XX\r\nbad header\r\n\r\nx\r\n--XX--\r\n",
        b"--XX--\r\n"[:4],
        part("a", "x") * 200 + b"--XX--",
        b"",
    ],
)
def test_parts_that_are_none_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parts_of(raw, TYPE)


def test_an_edit_takes_several_pictures() -> None:
    pictures = [part("image[]", b"png", f"{index}.png") for index in range(3)]
    call = read(*pictures, part("mask", b"png", "m.png"), MODEL, part("n", "2"), path="/v1/images/edits")
    assert call.form is not None
    assert [name for name, _ in call.form.files] == ["image[]"] * 3 + ["mask"]
    assert call.body["n"] == 2


def test_an_edit_may_come_as_json() -> None:
    body = b'{"model":"m","prompt":"p","images":[{"image_url":"https://h/a.png"}]}'
    call = read(body, path="/v1/images/edits", kind="application/json", end=b"")
    assert (call.form, call.model) == (None, "m")


def test_a_moderation_without_a_model_has_openais_default() -> None:
    assert read(b'{"input":"x"}', path="/v1/moderations", end=b"").model == "omni-moderation-latest"
    assert read(b'{"input":"x","model":"m"}', path="/v1/moderations", end=b"").model == "m"


def test_speech_streams_where_events_are_asked_for() -> None:
    said = {"path": "/v1/audio/speech", "end": b""}
    assert read(b'{"model":"m","input":"x","stream_format":"sse"}', **said).stream  # type: ignore[arg-type]
    assert not read(b'{"model":"m","input":"x","stream_format":"audio"}', **said).stream  # type: ignore[arg-type]
