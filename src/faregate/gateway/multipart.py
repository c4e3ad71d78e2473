"""Multipart bodies cut into parts: where each begins and ends, so that a form goes upstream byte for byte.

The body is here whole and bounded; python-multipart finds the parts in one pass and nothing of them is copied.

What is priced is what was read here, so nobody behind us may read it otherwise: a part that names itself twice, a
delimiter where only a lenient reader sees one, and encodings within a part are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from faregate.errors import InvalidRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MOST_PARTS = 128
_MOST_TEXT = 1 << 20
"""Bytes of one text field."""
_NAME = re.compile(rb"(?<![A-Za-z])name\*?[0-9]*\*?\s*=", re.IGNORECASE)
_AS_IT_IS = (b"binary", b"8bit", b"7bit")


@dataclass(frozen=True, slots=True)
class Part:
    """A field of a form. `filename` is None for text."""

    name: str
    filename: str | None
    start: int
    end: int

    def text(self, raw: bytes) -> str:
        """Its value. Raises InvalidRequest naming it."""
        if self.end - self.start > _MOST_TEXT:
            raise InvalidRequest(f"{self.name} is longer than {_MOST_TEXT} bytes", param=self.name)
        try:
            return raw[self.start : self.end].decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"{self.name} is not valid UTF-8", param=self.name) from None


def is_form(content_type: str) -> bool:
    """Whether a body of this type is a multipart form."""
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


def parts_of(raw: bytes, content_type: str) -> list[Part]:
    """The fields of a form, in order. Raises InvalidRequest for a body that is broken, cut off or too finely split."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not is_form(content_type) or not boundary or content_type.lower().count("boundary") > 1:
        raise InvalidRequest("the body must be multipart/form-data, with its boundary in the content type")
    cutter = _Cutter()
    try:
        parser = MultipartParser(boundary, cutter.callbacks())
        parser.write(raw)
    except FormParserError as error:
        raise InvalidRequest(f"the body is not valid multipart/form-data: {error}") from None
    if not cutter.ended:
        raise InvalidRequest("the body breaks off before its last boundary")
    if raw.count(b"--" + boundary) != len(cutter.parts) + 1:
        raise InvalidRequest("the boundary of the form occurs within or after its fields")
    return cutter.parts


class _Cutter:
    """What the parser tells, as parts."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._begin()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._value,
            "on_headers_finished": self._named,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._over,
        }

    def _begin(self) -> None:
        if len(self.parts) >= _MOST_PARTS:
            raise InvalidRequest(f"the form has more than {_MOST_PARTS} fields")
        self._header = self._disposition = b""
        self._span: tuple[int, int] | None = None
        self._name: str = ""
        self._filename: str | None = None

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header = data[start:end].lower()

    def _value(self, data: bytes, start: int, end: int) -> None:
        value = data[start:end]
        if self._header == b"content-disposition":
            if self._disposition or len(_NAME.findall(value)) != 1:
                raise InvalidRequest("a part of the form does not say once which field it is")
            self._disposition = value
        elif self._header == b"content-transfer-encoding" and value.strip().lower() not in _AS_IT_IS:
            raise InvalidRequest("parts of the form must come as they are, without a transfer encoding")

    def _named(self) -> None:
        kind, options = parse_options_header(self._disposition)
        try:
            self._name = options.get(b"name", b"").decode()
            filename = options.get(b"filename")
            self._filename = None if filename is None else filename.decode("utf-8", "replace")
        except UnicodeDecodeError:
            raise InvalidRequest("the name of a field is not valid UTF-8") from None
        if kind != b"form-data" or not 0 < len(self._name) <= 128 or not self._name.isprintable():
            raise InvalidRequest("a part of the form does not say which field it is")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._span is not None and self._span[1] != start:
            raise InvalidRequest("the body is not valid multipart/form-data")
        self._span = (start if self._span is None else self._span[0], end)

    def _end(self) -> None:
        start, end = self._span or (0, 0)
        self.parts.append(Part(self._name, self._filename, start, end))

    def _over(self) -> None:
        self.ended = True
