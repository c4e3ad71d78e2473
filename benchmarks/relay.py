"""What a stream that passes through costs per chunk, with and without reading it: ratios of CPU time in one run.

    ./scripts/bench --relay [--seconds 5] [--write benchmarks/RESULTS.md]

The gateway's share is a slope: its worker's CPU per stream with many chunks, less that with few, divided by the chunks
between; each chunk is a write, and a read, of its own. The meter's share is taken in this process, on the same chunks,
beside three other ways to handle them. The gateway without metering is the difference: it cannot be told not to meter.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.mock_upstream import stream_events
from faregate.meter import meter_for

FEW, MANY = 20, 220
DELAY_MS = 2
_ROUNDS = 40
_CHUNKS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """CPU in microseconds per stream, of the worker and of the upstream that wrote it."""

    worker: float
    mock: float


def _rounds(start: Callable[[], Callable[[bytes], object]]) -> float:
    """Microseconds per chunk: the best of many rounds, each on a fresh stream, so that neighbours count little."""
    chunks = stream_events(_CHUNKS)[:_CHUNKS]
    best = float("inf")
    for _ in range(_ROUNDS):
        take = start()
        began = time.thread_time_ns()
        for chunk in chunks:
            take(chunk)
        best = min(best, time.thread_time_ns() - began)
    return best / 1000 / _CHUNKS


def _metered() -> Callable[[bytes], object]:
    return meter_for("openai", "chat.completions", stream=True, drop_usage_chunk=True).feed


def _parsed() -> Callable[[bytes], object]:
    """Each chunk as JSON, and back: what a proxy does that hands on what it has understood."""
    return lambda chunk: b"data: " + json.dumps(json.loads(chunk[6:])).encode() + b"\n\n"


def _untouched() -> Callable[[bytes], object]:
    return lambda chunk: chunk


def report(few: Slope, many: Slope) -> list[str]:
    """The section of the report, as Markdown lines."""
    meter, bare, parsed = _rounds(_metered), _rounds(_untouched), _rounds(_parsed)
    worker = (many.worker - few.worker) / (MANY - FEW)
    mock = (many.mock - few.mock) / (MANY - FEW)
    without = worker - meter + bare
    return [
        "| per chunk | CPU µs | ratio |",
        "|---|---|---|",
        f"| gateway, as it is | {worker:.1f} | 1 |",
        f"| gateway without metering (the difference) | {without:.1f} | {without / worker:.2f} |",
        f"| the upstream that writes the chunk | {mock:.1f} | {mock / worker:.2f} |",
        f"| the meter alone | {meter:.2f} | {meter / worker:.3f} |",
        f"| each chunk parsed and written again, instead of the meter | {parsed:.2f} | {parsed / worker:.3f} |",
        f"| nothing done to it | {bare:.2f} | {bare / worker:.3f} |",
        "",
        f"Metering adds {100 * (meter - bare) / without:.1f} % to what passing a chunk on costs.",
    ]
