"""`application/vnd.amazon.eventstream` without I/O: frames in, blocks out, both checksums verified.

A frame: u32 total length, u32 headers length, u32 CRC of those 8 bytes; headers (u8 name length, name, u8 type,
value); payload; u32 CRC of all before. Big-endian.
Source: smithy.io/2.0/aws/amazon-eventstream.html. Behind the Framing protocol, so botocore's decoder could stand here.
"""

from __future__ import annotations

import struct
from binascii import crc32

from faregate.meter.framing import _Buffered
from faregate.meter.sse import Unparsed

_PRELUDE = struct.Struct(">III")
_FIXED_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Header value types of fixed size; 6 is bytes and 7 is a string, each with a u16 length."""


class AwsFraming(_Buffered):
    """AWS event stream. A broken prelude cannot be skipped: from there on the bytes pass unread."""

    plain_starts = b"{"
    _broken = False

    def feed(self, chunk: bytes) -> list[bytes]:
        if self._broken:
            return [Unparsed(chunk)]
        self._buffer += chunk
        blocks: list[bytes] = []
        start = 0
        while (end := self._frame_end(start)) is not None:
            blocks.append(bytes(memoryview(self._buffer)[start:end]))
            start = end
        del self._buffer[:start]
        if self._is_broken():
            blocks.append(Unparsed(self._buffer))
            self._buffer.clear()
        return blocks

    def _frame_end(self, start: int) -> int | None:
        if len(self._buffer) - start < _PRELUDE.size:
            return None
        total, headers, checksum = _PRELUDE.unpack_from(self._buffer, start)
        if crc32(self._buffer[start : start + 8]) != checksum or not 16 + headers <= total <= self._max:
            self._broken = True
            self.oversized_events += 1
            return None
        return start + total if start + total <= len(self._buffer) else None

    def _is_broken(self) -> bool:
        return self._broken

    def is_event(self, block: bytes) -> bool:
        return True

    def passes_at_end(self, rest: bytes) -> bool:
        return False

    def decode(self, block: bytes) -> tuple[str, bytes] | None:
        """Name is the event type, or `!` and the exception's name."""
        frame = decode_frame(block)
        if frame is None:
            return None
        headers, payload = frame
        if headers.get(":message-type", "event") == "event":
            return headers.get(":event-type", ""), payload
        return "!" + (headers.get(":exception-type") or headers.get(":error-code") or "error"), payload


def decode_frame(frame: bytes) -> tuple[dict[str, str], bytes] | None:
    """String headers and payload of one whole frame, or None when it is damaged or incomplete."""
    if len(frame) < 16:
        return None
    total, headers_size, checksum = _PRELUDE.unpack_from(frame)
    (message_checksum,) = struct.unpack_from(">I", frame, len(frame) - 4)
    if total != len(frame) or crc32(frame[:8]) != checksum or crc32(frame[:-4]) != message_checksum:
        return None
    end = 12 + headers_size
    headers = _headers(frame[12:end]) if end <= total - 4 else None
    return None if headers is None else (headers, frame[end:-4])


def _headers(data: bytes) -> dict[str, str] | None:
    headers: dict[str, str] = {}
    at = 0
    try:
        while at < len(data):
            name = data[at + 1 : at + 1 + data[at]].decode("utf-8", "replace")
            at += 1 + data[at]
            kind, at = data[at], at + 1
            size = _FIXED_SIZES.get(kind)
            if size is None:
                (size,) = struct.unpack_from(">H", data, at)
                at += 2
            if kind == 7:
                headers[name] = data[at : at + size].decode("utf-8", "replace")
            at += size
    except (IndexError, struct.error):
        return None
    return headers


def encode_frame(headers: dict[str, str], payload: bytes) -> bytes:
    """One frame with string headers: what tests and the filter feed."""
    packed = b"".join(
        bytes([len(name)]) + name + b"\x07" + struct.pack(">H", len(value)) + value
        for name, value in ((n.encode(), v.encode("utf-8", "replace")) for n, v in headers.items())
    )
    prelude = struct.pack(">II", 16 + len(packed) + len(payload), len(packed))
    frame = prelude + struct.pack(">I", crc32(prelude)) + packed + payload
    return frame + struct.pack(">I", crc32(frame))
