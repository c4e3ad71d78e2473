"""OpenAI's endpoints that take files: recordings to transcribe, pictures to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from faregate.core.call import Call, Form, Principal
from faregate.errors import InvalidRequest
from faregate.gateway.common import model_of, parse_object, refuse_encoding
from faregate.gateway.multipart import Part, is_form, parts_of
from faregate.gateway.openai import OpenAIDialect
from faregate.gateway.sounds import length_of
from faregate.ports import Inbound

_WHOLE = frozenset({"n", "partial_images", "output_compression"})
"""Fields that are numbers in JSON."""
_FLAGS: Mapping[str, bool] = {"true": True, "1": True, "false": False, "0": False, "": False}


class FormDialect(OpenAIDialect):
    """`ports.Dialect` for forms. Nothing of them is kept apart: they go upstream as they came."""

    def __init__(self, *files: str, sound: bool = False, json: bool = False) -> None:
        """`files`: a form must have one of these; `sound`: it is a recording; `json`: the endpoint takes JSON, too."""
        self._files = files
        self._sound = sound
        self._json = json

    def read(self, inbound: Inbound, principal: Principal, account_id: str, call_id: str) -> Call:
        content_type = inbound.headers.get("content-type", "")
        if self._json and not is_form(content_type):
            return super().read(inbound, principal, account_id, call_id)
        refuse_encoding(inbound.headers)
        parts = parts_of(inbound.body, content_type)
        body = _texts(parts, inbound.body)
        model_of(body)
        form = self._form(parts, inbound.body)
        return self.call(inbound, principal, account_id, call_id, body, content_type=content_type, form=form)

    def _form(self, parts: Sequence[Part], raw: bytes) -> Form:
        files = [part for part in parts if part.filename is not None]
        wanted = [part for part in files if part.name in self._files]
        name = self._files[0]
        if not wanted:
            raise InvalidRequest(f"{name} is missing: the form must have a file of this name", param=name)
        if any(part.end == part.start for part in wanted):
            raise InvalidRequest(f"{name} is empty", param=name)
        (model,) = [part for part in parts if part.name == "model"]
        length = length_of(raw[wanted[0].start : wanted[0].end]) if self._sound else None
        return Form(
            model_at=(model.start, model.end),
            files=tuple([(part.name, part.end - part.start) for part in files]),
            seconds=None if length is None else length.seconds,
            most_seconds=None if length is None else length.most,
            guessed=length is not None and length.guessed,
        )


def _texts(parts: Sequence[Part], raw: bytes) -> dict[str, object]:
    """The text fields as a JSON body would have them; names that end in [] may come several times."""
    body: dict[str, object] = {}
    seen = set()
    for part in parts:
        if part.name in seen and not part.name.endswith("[]"):
            raise InvalidRequest(f"{part.name} is there twice", param=part.name)
        seen.add(part.name)
        if part.filename is not None:
            continue
        value = part.text(raw)
        if part.name.endswith("[]"):
            listed = body.setdefault(part.name, [])
            assert isinstance(listed, list)
            listed.append(value)
        else:
            body[part.name] = _typed(part.name, value)
    return body


def _typed(name: str, value: str) -> object:
    if name == "stream":
        if value.lower() not in _FLAGS:
            raise InvalidRequest("stream must be true or false", param="stream")
        return _FLAGS[value.lower()]
    if name in _WHOLE:
        if not value.isascii() or not value.isdecimal() or len(value) > 9:
            raise InvalidRequest(f"{name} must be an integer", param=name)
        return int(value)
    return value


class MediaDialect(OpenAIDialect):
    """`ports.Dialect` for JSON endpoints with defaults of their own."""

    def __init__(self, *, model: str | None = None, stream: tuple[str, object] | None = None) -> None:
        """`model`: where none is named; `stream`: the field and its value that ask for one."""
        self._model = model
        self._stream = stream

    def read(self, inbound: Inbound, principal: Principal, account_id: str, call_id: str) -> Call:
        refuse_encoding(inbound.headers)
        body = parse_object(inbound.body)
        if self._model is not None and body.get("model") is None:
            body = {**body, "model": self._model}
        streams = None if self._stream is None else body.get(self._stream[0]) == self._stream[1]
        return self.call(inbound, principal, account_id, call_id, body, stream=streams)
