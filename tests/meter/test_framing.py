"""NDJSON, JSON arrays and messages: raw bytes kept, any split the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.meter.framing import Framing, JsonArrayFraming, MessageFraming, NdJsonFraming
from faregate.meter.sse import Unparsed
from tests.meter.support import cut

OBJECTS = [{"a": 'x"}]{\\'}, {"b": {"c": [1, {"d": "é"}]}}, {"e": ""}]
ARRAY = b"[" + b",\r\n".join(json.dumps(o, ensure_ascii=False).encode() for o in OBJECTS) + b"\n]"
LINES = b"".join(json.dumps(o).encode() + b"\n" for o in OBJECTS)


@pytest.mark.parametrize(("make", "stream"), [(JsonArrayFraming, ARRAY), (NdJsonFraming, LINES)])
@given(st.data())
def test_any_split(make: type[Framing], stream: bytes, data: st.DataObject) -> None:
    framing = make()
    chunks = cut(stream, data.draw(st.lists(st.integers(0, len(stream)))))
    blocks = [block for chunk in chunks for block in framing.feed(chunk)]
    rest = framing.close()
    assert b"".join(blocks) + rest == stream
    assert framing.passes_at_end(rest)
    assert [json.loads(decoded[1]) for block in blocks if (decoded := framing.decode(block))] == OBJECTS


@pytest.mark.parametrize("make", [JsonArrayFraming, NdJsonFraming])
def test_over_the_bound_bytes_pass_unparsed(make: type[Framing]) -> None:
    framing = make(max_event_bytes=10)  # type: ignore[call-arg]
    stream = [b'{"a":"', b"x" * 50, b'"}\n', b'{"b":1}\n']
    blocks = [block for chunk in stream for block in framing.feed(chunk)]
    assert b"".join(blocks) + framing.close() == b"".join(stream)
    assert isinstance(blocks[0], Unparsed)
    assert framing.decode(next(b for b in blocks if not isinstance(b, Unparsed))) == ("", b'{"b":1}')


def test_a_message_is_a_chunk() -> None:
    assert MessageFraming().feed(b'{"a":1}') == [b'{"a":1}']
    assert isinstance(MessageFraming(max_event_bytes=3).feed(b'{"a":1}')[0], Unparsed)
