"""The tap: a stream passes through, byte for byte, while its events are read.

Three things are done to it, nothing else: an extra usage chunk that the client did not ask for is taken out, the
terminal event (and all after it) waits for the charge, and a client that wants its cost finds it in the usage chunk.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

from faregate.core.price import Cost
from faregate.core.usage import Reading
from faregate.meter.cost import with_cost
from faregate.meter.framing import Framing
from faregate.meter.plain import PlainMeter
from faregate.meter.reader import ALONE, FINAL, LAST, PASS, USAGE, Reader
from faregate.meter.sse import BOM, MAX_EVENT_BYTES, Tail, Unparsed
from faregate.meter.values import loads

_BLANK = b" \t\r\n" + BOM
_FLOW, _COST_WAITS, _ENDED = range(3)
_MAX_COST_WAIT_BYTES = 64 * 1024


class StreamMeter:
    """Implements ports.Meter for any dialect and framing."""

    def __init__(
        self,
        reader: Reader,
        framing: Framing,
        *,
        drop_usage_chunk: bool = False,
        wants_cost: bool = False,
        max_held_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        self.reader = reader
        self._framing = framing
        self._drop = drop_usage_chunk and not wants_cost  # a client that wants its cost needs the chunk
        self._wants_cost = wants_cost
        self._max_held = max_held_bytes
        self._events = 0
        self._state = _FLOW
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._usage_at: int | None = None  # the held block that gets the cost
        self._last_dropped = False
        self._plain: PlainMeter | None = None
        self._sniffed = False

    @property
    def events(self) -> int:
        """Data events so far."""
        return self._events if self._plain is None else self._plain.events

    @property
    def is_plain(self) -> bool:
        """The answer turned out to be JSON, no stream."""
        return self._plain is not None

    @property
    def oversized_events(self) -> int:
        """Events over the bound, and breaks in the framing: bytes that passed unread."""
        return self._framing.oversized_events

    def feed(self, chunk: bytes) -> bytes:
        """Take what came; return what may go to the client now."""
        if not self._sniffed:
            self._sniff(chunk)
        if self._plain is not None:
            return self._plain.feed(chunk)
        events = self._framing.clean(chunk)
        reader = self.reader
        if events is not None and self._state == _FLOW and not reader.remarkable(chunk):
            self._events += events
            reader.count_text(chunk)
            self._last_dropped = False
            return chunk
        out: list[bytes] = []
        for block in self._framing.feed(chunk):
            self._place(block, self._examine(block), out)
        return b"".join(out)

    def finish(self, cost: Cost | None, charge_microcredits: int) -> bytes:
        """What was kept back. Of a truncated tail nothing, of an event that only lacks its blank line everything."""
        if self._plain is not None:
            return self._plain.finish(cost, charge_microcredits)
        out: list[bytes] = []
        rest = self._framing.close()
        if rest and (isinstance(rest, Unparsed) or self._is_whole(rest)):
            self._place(rest, self._examine(rest), out)
        if cost is not None and self._usage_at is not None:
            self._held[self._usage_at] = with_cost(self._held[self._usage_at], cost.usd, charge_microcredits)
        out += self._release()
        return b"".join(out)

    def reading(self, status: int, headers: Mapping[str, str]) -> Reading:
        """What is known so far, an event that only lacks its blank line included (the body may have ended)."""
        if self._plain is not None:
            return self._plain.reading(status, headers)
        reader = self.reader
        rest = self._framing.pending
        if rest and self._framing.is_event(rest) and self._is_whole(rest):
            reader = copy.deepcopy(reader)  # it will be fed again when its blank line comes
            self._read(reader, rest)
        return reader.reading(status, headers)

    def _sniff(self, chunk: bytes) -> None:
        """An answer that begins with a brace is JSON whatever was asked for: an error, or no streaming."""
        start = chunk.lstrip(_BLANK)[:1]
        if not start:
            return
        self._sniffed = True
        if start in self._framing.plain_starts:
            self._plain = PlainMeter(self.reader, self._max_held)
            self._plain.feed(self._framing.close())

    def _examine(self, block: bytes) -> int:
        if isinstance(block, Unparsed):
            return PASS
        if isinstance(block, Tail) or not self._framing.is_event(block):
            return PASS
        self._events += 1
        return self._read(self.reader, block)

    def _read(self, reader: Reader, block: bytes) -> int:
        reader.count_text(block)
        if not reader.remarkable(block):
            return PASS
        decoded = self._framing.decode(block)
        return reader.event(*decoded) if decoded is not None else PASS

    def _is_whole(self, rest: bytes) -> bool:
        """Whether bytes that the end of the body cut off from their end mark are complete as they stand."""
        if not self._framing.is_event(rest):
            return self._framing.passes_at_end(rest)
        decoded = self._framing.decode(rest)
        return decoded is not None and (decoded[1].strip() == b"[DONE]" or loads(decoded[1]) is not None)

    def _place(self, block: bytes, fate: int, out: list[bytes]) -> None:
        """Send it, keep it back, or drop it."""
        if isinstance(block, Tail):
            if self._last_dropped:
                return
        else:
            self._last_dropped = self._drop and bool(fate & ALONE)
            if self._last_dropped:
                return
            self._advance(fate, out)
        if self._state == _FLOW:
            out.append(block)
        else:
            self._hold(block, fate, out)

    def _advance(self, fate: int, out: list[bytes]) -> None:
        if fate & LAST:
            self._state = _ENDED
        elif self._wants_cost and self._state == _FLOW and fate & USAGE and fate & (ALONE | FINAL):
            self._state = _COST_WAITS
            self._deltas_before = self.reader.deltas
        elif self._state == _COST_WAITS and self.reader.deltas > self._deltas_before:
            out += self._release()  # text after a "last" usage: it was a placeholder, and the text must not wait
            self._state = _FLOW

    _deltas_before = 0

    def _hold(self, block: bytes, fate: int, out: list[bytes]) -> None:
        if self._held_bytes + len(block) > self._max_held:
            return  # nobody reads on for 16 MiB after the end
        if self._wants_cost and fate & USAGE:
            self._usage_at = len(self._held)
        self._held.append(block)
        self._held_bytes += len(block)
        if self._state == _COST_WAITS and self._held_bytes > _MAX_COST_WAIT_BYTES:
            out += self._release()

    def _release(self) -> list[bytes]:
        held, self._held = self._held, []
        self._held_bytes, self._usage_at = 0, None
        return held
