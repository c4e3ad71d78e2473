"""The bytes of a journal: version, kind, length, checksum, payload. A torn tail is cut off, never guessed at."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from faregate.core.call import Hold, Record
from faregate.core.codec import decode_hold, decode_record

VERSION = 1
OPEN, FORWARD, PROGRESS, LEARNED, CLOSED = b"o", b"f", b"p", b"l", b"c"

_HEAD = struct.Struct("<BcII")
"""version, kind, payload length, crc32 of kind and payload"""

MAX_PAYLOAD = 1 << 20


@dataclass(slots=True)
class Unclosed:
    """What a dead process left of one hold."""

    intent: Record
    hold: Hold | None = None
    """None: the call was never forwarded, its truth is zero."""
    progress_microcredits: int = 0
    learned: Record | None = None


def frame(kind: bytes, payload: bytes) -> bytes:
    """One record, ready to append."""
    return _HEAD.pack(VERSION, kind, len(payload), crc32(payload, crc32(kind))) + payload


def frames(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, payload) of every whole record; stops at the first torn or foreign one."""
    at = 0
    while at + _HEAD.size <= len(data):
        version, kind, length, checksum = _HEAD.unpack_from(data, at)
        payload = data[at + _HEAD.size : at + _HEAD.size + length]
        if version != VERSION or len(payload) != length or crc32(payload, crc32(kind)) != checksum:
            return
        yield kind, payload
        at += _HEAD.size + length


def unclosed(data: bytes) -> dict[str, Unclosed]:
    """What is still open at the end of a journal, by hold id, in order of opening."""
    left: dict[str, Unclosed] = {}
    for kind, payload in frames(data):
        if kind == OPEN:
            intent = decode_record(payload)
            left[intent.hold_id] = Unclosed(intent, progress_microcredits=intent.charge_microcredits)
        elif kind == CLOSED:
            left.pop(payload.decode(), None)
        elif kind == FORWARD:
            hold = decode_hold(payload)
            if hold.id in left:
                left[hold.id].hold = hold
        elif kind == PROGRESS:
            hold_id, _, amount = payload.decode().partition(" ")
            if hold_id in left:
                left[hold_id].progress_microcredits = int(amount)
        elif kind == LEARNED:
            learned = decode_record(payload)
            if learned.hold_id in left:
                left[learned.hold_id].learned = learned
    return left
