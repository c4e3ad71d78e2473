"""How long a recording lasts, as its own headers say: for answers that do not tell (srt, vtt, text, translations)."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from math import ceil, isfinite

from tinytag import TinyTag, TinyTagException

_LEAST_BYTES_PER_S = 1_000
"""8 kbit/s: what a recording of unknown length is held for."""
_USUAL_BYTES_PER_S = 4_000
"""32 kbit/s, speech as browsers and phones record it: what it is charged for when nobody says more."""
_MOST_BYTES_PER_S = 2_000_000
"""Above stereo of 192 kHz and 32 bit: a file that has more bytes for a second does not tell its length truly."""
_MOST_SECONDS = 7 * 86_400

_MOST_STEPS = 10_000
"""Reads while a length is looked for: some milliseconds."""

_OGG_HEAD = 4096
_WEBM_HEAD = 1 << 16
_WEBM_DURATION = re.compile(rb"\x44\x89(?:\x84(.{4})|\x88(.{8}))", re.DOTALL)
_WEBM_SCALE = re.compile(rb"\x2a\xd7\xb1([\x81-\x84])")


@dataclass(frozen=True, slots=True)
class Length:
    """Whole seconds, rounded up as providers bill them; `most` is the bound where they are guessed."""

    seconds: int
    most: int
    guessed: bool


def length_of(data: bytes) -> Length:
    """Of a recording in memory: mp3, m4a, mp4, ogg, opus, flac, wav, aiff, wma, webm; by its size where that fails."""
    read = next((reader for magic, reader in _OWN.items() if data.startswith(magic)), _tagged)
    told = read(data)
    if told is not None and len(data) / _MOST_BYTES_PER_S <= told <= _MOST_SECONDS:
        seconds = ceil(told)
        return Length(seconds, seconds, guessed=False)
    return Length(-(-len(data) // _USUAL_BYTES_PER_S), -(-len(data) // _LEAST_BYTES_PER_S), guessed=True)


class _Head(BytesIO):
    """A file that is not read for ever: thousands of tiny or broken frames are not worth the time."""

    _steps = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise TinyTagException("too many parts")
        return super().read(size)


def _tagged(data: bytes) -> float | None:
    try:
        duration = TinyTag.get(file_obj=_Head(data), tags=False, duration=True).duration
    except TinyTagException:
        return None
    return duration if duration is not None and isfinite(duration) and duration > 0 else None


def _ogg(data: bytes) -> float | None:
    """The position of the last page, in samples; pages between are not walked through."""
    head, last = data[:_OGG_HEAD], data.rfind(b"OggS")
    opus, vorbis = head.find(b"OpusHead"), head.find(b"\x01vorbis")
    if len(data) < last + 14 or max(opus, vorbis) < 0 or len(head) < max(opus, vorbis) + 16:
        return None
    (position,) = struct.unpack_from("<q", data, last + 6)
    if opus >= 0:
        seconds: float = (position - struct.unpack_from("<H", head, opus + 10)[0]) / 48_000
    else:
        seconds = position / (struct.unpack_from("<I", head, vorbis + 12)[0] or 1)
    return seconds if seconds > 0 else None


def _webm(data: bytes) -> float | None:
    """Matroska's Info: Duration in ticks of TimecodeScale nanoseconds, a million unless said."""
    head = data[:_WEBM_HEAD]
    found, scaled = _WEBM_DURATION.search(head), _WEBM_SCALE.search(head)
    if found is None:
        return None
    (ticks,) = struct.unpack(">f", found[1]) if found[1] else struct.unpack(">d", found[2])
    scale = 1_000_000
    if scaled is not None:
        size = scaled[1][0] - 0x80
        scale = int.from_bytes(head[scaled.end() : scaled.end() + size], "big")
    seconds = ticks * scale / 1e9
    return seconds if isfinite(seconds) and seconds > 0 else None


_OWN: Mapping[bytes, Callable[[bytes], float | None]] = {b"\x1a\x45\xdf\xa3": _webm, b"OggS": _ogg}
"""Containers that tinytag does not know, or walks through from end to end."""
