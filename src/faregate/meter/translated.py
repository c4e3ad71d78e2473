"""A foreign answer: metered in the provider's own bytes, handed to the client in its own dialect.

The native meter reads every byte that came, as it would in front of a client that speaks the provider's language;
beside it a translator (`ports.Translator`) says each event again. So no charge ever rests on a translation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from faregate.core.price import Cost
from faregate.core.usage import ProviderError, Reading
from faregate.errors import UpstreamError
from faregate.meter.framing import Framing
from faregate.meter.plain import PlainMeter
from faregate.meter.sse import Tail, Unparsed
from faregate.meter.stream import StreamMeter
from faregate.meter.values import loads
from faregate.ports import Translator

_OK = 200
_REFUSED = 400


class TranslatedMeter:
    """Implements ports.Meter over a native meter and a translator; `framing` cuts the stream a second time."""

    def __init__(self, native: StreamMeter | PlainMeter, framing: Framing | None, translator: Translator) -> None:
        self._native = native
        self._framing = framing
        self._translator = translator

    @property
    def events(self) -> int:
        """Real events of the provider's so far."""
        return self._native.events

    def feed(self, chunk: bytes) -> bytes:
        """Take what came; the client's bytes so far. Raises UpstreamError for what cannot be translated."""
        passed = self._native.feed(chunk)
        if self._framing is not None:
            plain = isinstance(self._native, StreamMeter) and self._native.is_plain
            return b"" if plain else b"".join([self._say(block) for block in self._framing.feed(chunk)])
        if passed:
            raise UpstreamError("the provider's answer is too long to be translated")
        return b""

    def finish(self, cost: Cost | None, charge_microcredits: int) -> bytes:
        """A whole body, or the end of a complete stream: empty when it was cut."""
        rest = self._native.finish(None, 0)
        reading = self._native.reading(_OK, {})
        if self._framing is None or (isinstance(self._native, StreamMeter) and self._native.is_plain):
            return self._translator.body(rest, reading)
        last = self._framing.close()
        said = self._say(last) if self._is_whole(last) else b""
        return said + (self._translator.end(reading, cost, charge_microcredits) if reading.complete else b"")

    def reading(self, status: int, headers: Mapping[str, str]) -> Reading:
        """What the provider's own bytes say."""
        known = self._native.reading(status, headers)
        if self._framing is None and status < _REFUSED and known.usage is None and not known.complete:
            # No JSON: there is nothing in it that the client could be told.
            return replace(known, error=known.error or ProviderError(), delivered_tokens=0)
        return known

    def _say(self, block: bytes) -> bytes:
        if isinstance(block, Unparsed):
            raise UpstreamError("an event of the provider's is too long to be translated")
        assert self._framing is not None
        if isinstance(block, Tail) or not self._framing.is_event(block):
            return b""
        decoded = self._framing.decode(block)
        if decoded is None:
            return b""
        return self._translator.event(*decoded)

    def _is_whole(self, rest: bytes) -> bool:
        """An event that only lacks its blank line."""
        assert self._framing is not None
        decoded = self._framing.decode(rest) if rest and self._framing.is_event(rest) else None
        return decoded is not None and loads(decoded[1]) is not None
