"""AWS event stream frames: checksums, splits, damage."""

from __future__ import annotations

import struct
from binascii import crc32

from hypothesis import given
from hypothesis import strategies as st

from faregate.meter.aws import AwsFraming, decode_frame, encode_frame
from faregate.meter.sse import Unparsed
from tests.meter.support import cut

EVENT = encode_frame({":message-type": "event", ":event-type": "metadata"}, b'{"usage":{}}')
ERROR = encode_frame({":message-type": "exception", ":exception-type": "throttlingException"}, b"{}")


@given(st.data())
def test_any_split(data: st.DataObject) -> None:
    stream, framing = EVENT + ERROR, AwsFraming()
    chunks = cut(stream, data.draw(st.lists(st.integers(0, len(stream)))))
    assert [block for chunk in chunks for block in framing.feed(chunk)] == [EVENT, ERROR]


def test_names_and_payloads() -> None:
    assert AwsFraming().decode(EVENT) == ("metadata", b'{"usage":{}}')
    assert AwsFraming().decode(ERROR) == ("!throttlingException", b"{}")


def test_a_damaged_payload_is_not_read_but_passes() -> None:
    damaged = EVENT[:-6] + b"XX" + EVENT[-4:]
    framing = AwsFraming()
    assert framing.feed(damaged + ERROR) == [damaged, ERROR]
    assert framing.decode(damaged) is None


def test_after_a_damaged_prelude_bytes_pass_unread() -> None:
    framing = AwsFraming()
    out = framing.feed(EVENT + b"\x00" * 12)
    assert out == [EVENT, b"\x00" * 12]
    assert isinstance(framing.feed(EVENT)[0], Unparsed)


def test_other_header_types_are_skipped() -> None:
    headers = b"\x01a\x00" + b"\x01b\x04" + struct.pack(">i", 7) + b"\x01c\x06\x00\x02xx" + b"\x01d\x07\x00\x02ok"
    from_strings = encode_frame({"d": "ok"}, b"")
    assert decode_frame(from_strings) == ({"d": "ok"}, b"")
    prelude = struct.pack(">II", 16 + len(headers), len(headers))
    frame = prelude + struct.pack(">I", crc32(prelude)) + headers
    assert decode_frame(frame + struct.pack(">I", crc32(frame))) == ({"d": "ok"}, b"")


@given(st.binary(max_size=64))
def test_any_bytes(data: bytes) -> None:
    framing = AwsFraming()
    assert b"".join(framing.feed(data)) + framing.close() == data
    assert decode_frame(data) is None
