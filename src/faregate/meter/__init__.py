"""Usage readers: bytes pass through, what they cost is known at the end. Pure: no I/O, no clock.

A *framing* cuts a stream into blocks (sse, aws, framing), a *reader* knows one dialect (dialects/), a *meter* ties
them together: StreamMeter (stream) relays and keeps the end back, PlainMeter (plain) keeps a whole body.
"""

from __future__ import annotations

from faregate.meter.filter import meter_line
from faregate.meter.plain import PlainMeter
from faregate.meter.registry import meter_for
from faregate.meter.stream import StreamMeter

__all__ = ["PlainMeter", "StreamMeter", "meter_for", "meter_line"]
