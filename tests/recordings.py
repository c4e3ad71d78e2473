"""Recordings made here: silence of a known length, in the containers that transcription takes."""

from __future__ import annotations

import struct


def wav(seconds: float, rate: int = 8_000) -> bytes:
    """Mono, 16 bit."""
    samples = bytes(2 * int(seconds * rate))
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    data = struct.pack("<4sI", b"data", len(samples)) + samples
    return struct.pack("<4sI4s", b"RIFF", 4 + len(form) + len(data), b"WAVE") + form + data


def mp3(seconds: float) -> bytes:
    """MPEG-1 layer III, 128 kbit/s, 44.1 kHz: frames of 417 bytes and 1152 samples."""
    return (b"\xff\xfb\x90\x64" + bytes(413)) * round(seconds * 44_100 / 1152)


def flac(seconds: int, rate: int = 16_000) -> bytes:
    """Nothing but its STREAMINFO, as far as a length goes; then silence as bytes."""
    packed = (rate << 44) | (0 << 41) | (15 << 36) | (seconds * rate)
    info = struct.pack(">HH", 4096, 4096) + bytes(6) + packed.to_bytes(8, "big") + bytes(16)
    return b"fLaC" + b"\x80" + len(info).to_bytes(3, "big") + info + bytes(2_000)


def ogg(seconds: int) -> bytes:
    """Opus: a head page and a last page whose position tells the length (48 kHz)."""
    head = b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 0, 48_000, 0, 0)
    tags = b"OpusTags" + struct.pack("<I", 0) + struct.pack("<I", 0)
    pages = [(2, 0, head), (0, 0, tags), (4, seconds * 48_000, bytes(200))]
    return b"".join(page(kind, position, number, data) for number, (kind, position, data) in enumerate(pages))


def page(kind: int, position: int, number: int, data: bytes) -> bytes:
    """One page of an Ogg stream."""
    return struct.pack("<4sBBqIIIB", b"OggS", 0, kind, position, 7, number, 0, 1) + bytes([len(data)]) + data


def m4a(seconds: int) -> bytes:
    """Its movie header, and data of no meaning."""
    header = struct.pack(">IIIII", 0, 0, 0, 1_000, seconds * 1_000) + bytes(80)
    return _atom(b"ftyp", b"M4A \x00\x00\x00\x00") + _atom(b"moov", _atom(b"mvhd", header)) + _atom(b"mdat", bytes(500))


def _atom(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", 8 + len(data)) + name + data


def webm(seconds: float | None) -> bytes:
    """EBML, with Segment Info; None: as a browser streams it, without its length."""
    told = b"" if seconds is None else b"\x44\x89\x88" + struct.pack(">d", seconds * 1_000)
    return b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x2a\xd7\xb1\x83\x0f\x42\x40" + told + bytes(12_000)
