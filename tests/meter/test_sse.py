"""Where SSE blocks end, whatever the line ends and the reads; and that finding it is linear."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.meter.sse import SseSplitter, Tail, Unparsed, has_data, parse
from tests.meter.support import cut, single_bytes


def blocks(chunks: Iterable[bytes], max_event_bytes: int = 1 << 20) -> list[bytes]:
    splitter = SseSplitter(max_event_bytes)
    found: list[bytes] = []
    for chunk in chunks:
        for block in splitter.feed(chunk):
            if found and isinstance(block, Tail):
                found[-1] += block
            else:
                found.append(bytes(block))
    return [*found, rest] if (rest := splitter.close()) else found


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_each_line_end_ends_an_event(end: bytes) -> None:
    first, second = b"data: 1" + end + end, b"event: x" + end + b"data: 2" + end + end
    assert blocks([first + second]) == [first, second]
    assert blocks(single_bytes(first + second)) == [first, second]


def test_mixed_line_ends() -> None:
    stream = [b"data: 1\r\n\n", b"data: 2\n\r\n", b"data: 3\r\r\n", b"data: 4\n\r", b"data: 5\n\n"]
    assert blocks([b"".join(stream)]) == stream
    assert blocks(single_bytes(b"".join(stream))) == stream


def test_unicode_separators_are_text() -> None:
    event = "data: a\u2028b\u2029c\u0085d\x0b\x0c\n\n".encode()
    assert blocks(single_bytes(event)) == [event]
    assert parse(event) == ("", "a\u2028b\u2029c\u0085d\x0b\x0c".encode())


def test_blank_lines_pass_at_once() -> None:
    assert SseSplitter().feed(b"\n") == [b"\n"]
    assert blocks([b"\n\n\ndata: 1\n\n\n"]) == [b"\n", b"\n", b"\n", b"data: 1\n\n", b"\n"]


def test_a_cr_event_does_not_wait_for_the_next_byte() -> None:
    splitter = SseSplitter()
    assert splitter.feed(b"data: 1\r\r") == [b"data: 1\r\r"]
    assert splitter.feed(b"\ndata") == [Tail(b"\n")]


def test_fields() -> None:
    assert parse(b"id: 1\nevent: error\nretry: 3\ndata: {\ndata:}\n\n") == ("error", b"{\n}")
    assert parse(b"\xef\xbb\xbfdata: 1\n\n") == ("", b"1")
    assert parse(b": keep-alive\n\n") is None
    assert parse(b"data:[DONE]\r\n\r\n") == ("", b"[DONE]")


def test_real_events_have_data() -> None:
    assert has_data(b"event: x\ndata: 1\n\n")
    assert not has_data(b": data: 1\n\n")


@given(st.lists(st.sampled_from([b"data: x", b"\r", b"\n", b"\r\n", b":c", "é\u2028".encode(), b"x" * 9])), st.data())
def test_any_split_gives_the_same_blocks_and_loses_nothing(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    chunks = cut(stream, data.draw(st.lists(st.integers(0, len(stream)))))
    assert b"".join(blocks(chunks)) == stream
    assert blocks(chunks) == blocks([stream])


@given(st.integers(1, 12), st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r"]), st.data())
def test_oversized_events_pass_unparsed_for_any_split(size: int, end: bytes, data: st.DataObject) -> None:
    stream = b"data: 1" + end + b"x" * size + end + b"data: 2" + end
    splitter = SseSplitter(max_event_bytes=8)
    out = [b for c in cut(stream, data.draw(st.lists(st.integers(0, len(stream))))) for b in splitter.feed(c)]
    assert b"".join([*out, splitter.close()]) == stream
    assert splitter.oversized_events == (size > 8)
    assert sum(has_data(block) for block in out if not isinstance(block, Unparsed)) == 2


def test_every_byte_is_scanned_about_once() -> None:
    stream = (b"data: " + b"x" * 5000 + b"\n\n") * 20
    splitter = SseSplitter()
    for piece in single_bytes(stream):
        splitter.feed(piece)
    assert splitter.scanned <= 3 * len(stream)


def test_memory_stays_bounded_without_any_boundary() -> None:
    splitter = SseSplitter(max_event_bytes=1000)
    passed = sum(len(block) for _ in range(5000) for block in splitter.feed(b"x" * 10_000))
    assert passed >= 50_000_000 - 1
    assert len(splitter._buffer) <= 1  # the point of the bound
