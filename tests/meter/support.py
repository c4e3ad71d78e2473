"""Streams to feed and ways to cut them."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from faregate.core.price import Cost
from faregate.core.usage import Reading
from faregate.meter import StreamMeter, meter_for, meter_line
from faregate.ports import Meter

VECTORS = Path(__file__).parents[1] / "vectors" / "usage_vectors.jsonl"


def vectors() -> list[dict[str, Any]]:
    return [json.loads(line) for line in VECTORS.read_text("utf-8").splitlines() if line.strip()]


def chunk(**fields: object) -> bytes:
    head = {"id": "c", "object": "chat.completion.chunk", "model": "gpt-4.1-mini-2025-04-14"}
    return b"data: " + json.dumps({**head, **fields}, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def delta(text: str, finish: str | None = None, **fields: object) -> bytes:
    return chunk(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **fields)


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


USAGE_CHUNK = chunk(choices=[], usage=usage(19, 2))
DONE = b"data: [DONE]\n\n"
STREAM = delta("Hel", usage=None) + delta("lo", usage=None) + delta("", "stop", usage=None) + USAGE_CHUNK + DONE


def chat(kind: str = "openai", **options: Any) -> StreamMeter:
    meter = meter_for(kind, "chat.completions", stream=True, **options)
    assert isinstance(meter, StreamMeter)
    return meter


def single_bytes(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({min(cut, len(data)) for cut in at}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def run(
    meter: Meter, chunks: Iterable[bytes], cost: Cost | None = None, charge: int = 0
) -> tuple[bytes, bytes, Reading]:
    """What went out at once, what at the end, and the reading in between: the flow's own order."""
    passed = b"".join(meter.feed(piece) for piece in chunks)
    reading = meter.reading(200, {})
    return passed, meter.finish(cost, charge), reading


def cost_of(usd: str) -> Cost:
    return Cost(usd=Decimal(usd), lines=())


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def metered(provider: str, endpoint: str, answer: Any, **more: Any) -> dict[str, Any]:
    form = "events" if more.get("stream") else "body"
    return meter_line({"id": 1, "provider": provider, "endpoint": endpoint, form: answer, **more})


def check(got: dict[str, Any], **expect: Any) -> None:
    assert {key: got.get(key) for key in expect} == expect
