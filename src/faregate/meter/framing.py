"""How a stream is cut into events: one small interface, and the framings that are not SSE or AWS.

A framing keeps the raw bytes of each block as they came (a relay stays byte-exact) and decodes only on demand.
"""

from __future__ import annotations

import re
from typing import Protocol

from faregate.meter.sse import MAX_EVENT_BYTES, SseSplitter, Unparsed, has_data, parse


class Framing(Protocol):
    """Sans-IO: bytes in, blocks out."""

    plain_starts: bytes
    """First bytes that this framing cannot begin with and JSON does: such an answer is no stream."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The blocks that are complete now. Unparsed and Tail blocks are never decoded."""
        ...

    @property
    def oversized_events(self) -> int:
        """How many passed unread."""
        ...

    @property
    def pending(self) -> bytes:
        """What waits for the rest of its block."""
        ...

    def close(self) -> bytes:
        """The body has ended: what was never completed."""
        ...

    def clean(self, chunk: bytes) -> int | None:
        """The number of events, if nothing waits and the chunk is made of plain, complete ones; else None."""
        ...

    def is_event(self, block: bytes) -> bool: ...

    def decode(self, block: bytes) -> tuple[str, bytes] | None:
        """Event name and data, or None when the block carries none."""
        ...

    def passes_at_end(self, rest: bytes) -> bool:
        """Whether what is left at the end, and is no event, may go to the client as it is."""
        ...


class SseFraming:
    """text/event-stream."""

    plain_starts = b"{["

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._splitter = SseSplitter(max_event_bytes)
        self._max = max_event_bytes
        self.feed = self._splitter.feed
        self.close = self._splitter.close

    @property
    def pending(self) -> bytes:
        return self._splitter.pending

    @property
    def oversized_events(self) -> int:
        return self._splitter.oversized_events

    def clean(self, chunk: bytes) -> int | None:
        if not chunk.endswith(b"\n\n") or b"\r" in chunk or not self._splitter.empty or len(chunk) > self._max:
            return None
        if chunk.startswith(b"data:") and chunk.find(b"\n") == len(chunk) - 2:
            return 1  # by far the usual read
        if chunk.count(b"\n") != 2 * chunk.count(b"\n\n"):
            return None  # a block of several lines: worth a closer look
        return chunk.count(b"\ndata:") + chunk.startswith(b"data:")

    def is_event(self, block: bytes) -> bool:
        return has_data(block)

    def decode(self, block: bytes) -> tuple[str, bytes] | None:
        return parse(block)

    def passes_at_end(self, rest: bytes) -> bool:
        return rest.startswith(b":")


class _Buffered:
    """What the other framings share: a buffer, a bound, no fast path."""

    plain_starts = b""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._buffer = bytearray()
        self._seen = 0
        self.oversized_events = 0
        self._oversized = False

    @property
    def pending(self) -> bytes:
        return b"" if self._oversized else bytes(self._buffer)

    def close(self) -> bytes:
        rest = Unparsed(self._buffer) if self._oversized else bytes(self._buffer)
        self._buffer.clear()
        self._seen = 0
        return rest

    def clean(self, chunk: bytes) -> int | None:
        return None

    def is_event(self, block: bytes) -> bool:
        return bool(block.strip(b" \t\r\n,[]"))

    def decode(self, block: bytes) -> tuple[str, bytes] | None:
        data = block.strip(b" \t\r\n,")
        return ("", data) if data else None

    def passes_at_end(self, rest: bytes) -> bool:
        return rest.strip(b" \t\r\n,") in (b"", b"]")

    def _cut(self, start: int, end: int) -> bytes:
        block = bytes(memoryview(self._buffer)[start:end])
        if self._oversized or len(block) > self._max:
            self.oversized_events += not self._oversized
            self._oversized = False
            return Unparsed(block)
        return block

    def _keep(self, start: int, blocks: list[bytes]) -> None:
        del self._buffer[:start]
        if self._buffer and (self._oversized or len(self._buffer) > self._max):
            self.oversized_events += not self._oversized
            self._oversized = True
            blocks.append(Unparsed(self._buffer))
            self._buffer.clear()
        self._seen = len(self._buffer)


class NdJsonFraming(_Buffered):
    """One JSON document per line (Ollama)."""

    def feed(self, chunk: bytes) -> list[bytes]:
        self._buffer += chunk
        blocks: list[bytes] = []
        start, begin = 0, self._seen
        while (end := self._buffer.find(b"\n", begin) + 1) > 0:
            blocks.append(self._cut(start, end))
            start = begin = end
        self._keep(start, blocks)
        return blocks


class JsonArrayFraming(_Buffered):
    """One JSON array whose elements come over time (Gemini without alt=sse). A lone object is an array of one."""

    _OUTSIDE = re.compile(rb'["{}]')
    _INSIDE = re.compile(rb'["\\]')

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        super().__init__(max_event_bytes)
        self._depth = 0
        self._in_string = False

    def feed(self, chunk: bytes) -> list[bytes]:
        self._buffer += chunk
        blocks: list[bytes] = []
        start, at = 0, self._seen
        while (at := self._step(at)) >= 0:
            if self._depth == 0 and not self._in_string and self._buffer[at - 1] == 0x7D:
                blocks.append(self._cut(start, at))
                start = at
        self._keep(start, blocks)
        # A backslash at the very end waits for the character that it escapes.
        self._seen = len(self._buffer) + self._skip
        return blocks

    _skip = 0

    def _step(self, at: int) -> int:
        """To just after the next character that means something; -1 at the end of what is there."""
        self._skip = max(0, at - len(self._buffer))
        match = (self._INSIDE if self._in_string else self._OUTSIDE).search(self._buffer, at)
        if match is None:
            return -1
        char = match[0]
        if char == b"\\":
            return match.end() + 1
        if char == b'"':
            self._in_string = not self._in_string
        else:
            self._depth = max(0, self._depth + (1 if char == b"{" else -1))
        return match.end()

    def decode(self, block: bytes) -> tuple[str, bytes] | None:
        data = block.strip(b" \t\r\n,")
        data = data[1:].lstrip() if data.startswith(b"[") else data
        return ("", data) if data.startswith(b"{") else None


class MessageFraming(_Buffered):
    """Every chunk is one whole message (WebSocket)."""

    def feed(self, chunk: bytes) -> list[bytes]:
        if len(chunk) > self._max:
            self.oversized_events += 1
            return [Unparsed(chunk)]
        return [chunk]
