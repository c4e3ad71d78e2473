"""Server-sent events on bytes, without I/O: where one ends and the next begins, and what its data is.

Lines end at LF, CRLF or CR and nowhere else (never at U+2028 and its kin, which JSON strings may hold raw). The
splitter cuts, it does not copy apart: the raw bytes of every block, blank line included, come out as they went in, so
that a relay stays byte-exact. Every byte is looked at once, whatever the size of the reads.
"""

from __future__ import annotations

import re

MAX_EVENT_BYTES = 16 * 1024 * 1024
BOM = b"\xef\xbb\xbf"

# Two line ends in a row. The first needs no full match: LF is the end of CRLF, too.
_BOUNDARY = re.compile(rb"\n\n|[\r\n]\r\n?")
_LINE_END = re.compile(rb"\r\n?|\n")


class Unparsed(bytes):
    """Bytes of an event over the bound: they pass, nobody reads them."""


class Tail(bytes):
    """The LF of a CRLF whose CR already ended the block before: it shares that block's fate."""


class SseSplitter:
    """Cuts a stream into blocks: events, comments, single blank lines. `scanned` counts the work, for a test."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._buffer = bytearray()
        self._seen = 0  # up to here there is no boundary
        self._ended_with_cr = False
        self._oversized = False  # inside an event over the bound
        self.oversized_events = 0
        self.scanned = 0

    @property
    def empty(self) -> bool:
        """Nothing waits, and nothing depends on what came before."""
        return not self._buffer and not self._ended_with_cr and not self._oversized

    @property
    def pending(self) -> bytes:
        """What waits for its blank line."""
        return b"" if self._oversized else bytes(self._buffer)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The blocks that are complete now."""
        blocks: list[bytes] = []
        if self._ended_with_cr and chunk:
            self._ended_with_cr = False
            if chunk.startswith(b"\n"):
                blocks.append(Tail(b"\n"))
                chunk = chunk[1:]
        self._buffer += chunk
        start = 0
        while (end := self._next_end(start)) is not None:
            blocks.append(self._cut(start, end))
            start = self._seen = end
        self._keep(start, blocks)
        return blocks

    def close(self) -> bytes:
        """The body has ended: what never got its blank line."""
        rest = Unparsed(self._buffer) if self._oversized else bytes(self._buffer)
        self._oversized = False
        self._buffer.clear()
        self._seen = 0
        return rest

    def _next_end(self, start: int) -> int | None:
        """Where the block at `start` ends, if that is known."""
        buffer = self._buffer
        if start >= len(buffer):
            return None
        if not self._oversized and buffer[start] in b"\r\n":  # a blank line of its own
            match = _LINE_END.match(buffer, start)
        else:
            begin = max(start, self._seen - 1)  # a boundary may straddle two reads
            match = _BOUNDARY.search(buffer, begin)
            self.scanned += (match.end() if match else len(buffer)) - begin
        if match is None:
            self._seen = len(buffer)
            return None
        if match.end() == len(buffer) and buffer[-1] == 0x0D:
            self._ended_with_cr = True
        return match.end()

    def _cut(self, start: int, end: int) -> bytes:
        block = bytes(memoryview(self._buffer)[start:end])
        if self._oversized:
            self._oversized = False
            return Unparsed(block)
        if len(block.rstrip(b"\r\n")) > self._max:
            self.oversized_events += 1
            return Unparsed(block)
        return block

    def _keep(self, start: int, blocks: list[bytes]) -> None:
        """Drop what is cut off; let go of an event that has outgrown the bound."""
        buffer = self._buffer
        del buffer[:start]
        self._seen -= start
        if self._oversized or len(buffer) > self._max + 2:  # 2: one line end may be in it already
            if not self._oversized:
                self._oversized = True
                self.oversized_events += 1
            # The last byte stays: it may be the first half of the boundary.
            if len(buffer) > 1:
                blocks.append(Unparsed(buffer[:-1]))
                del buffer[:-1]
            self._seen = len(buffer)


def has_data(block: bytes) -> bool:
    """Whether a block is a real event: it has a data line (comments and keep-alives have none)."""
    return block.startswith((b"data:", BOM + b"data:")) or b"\ndata:" in block or b"\rdata:" in block


def parse(block: bytes) -> tuple[str, bytes] | None:
    """Event name ('' if unnamed) and data (several lines joined by LF), or None when the block has no data line."""
    if (
        block.startswith(b"data:")
        and block.endswith(b"\n\n")
        and block.find(b"\n") == len(block) - 2
        and b"\r" not in block
    ):
        return "", block[5:].strip(b" \n")  # by far the usual shape
    name, lines = "", []
    for line in _LINE_END.split(block.removeprefix(BOM)):
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.strip().decode("utf-8", "replace")
    return (name, b"\n".join(lines)) if lines else None
