"""What no answer may do to a meter, however broken it is: the vectors taken apart, spoiled, and put together again.

`checks()` has the properties; `test_fuzz.py` runs a few seconds of each, always the same, `scripts/fuzz` for long.
"""

from __future__ import annotations

import base64
import copy
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from functools import cache
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faregate.core.money import MAX_MICROCREDITS
from faregate.core.truth import Outcome, billable_usage, finished_record
from faregate.core.usage import Reading, Usage
from faregate.meter import meter_for, registry
from faregate.meter.aws import AwsFraming, decode_frame, encode_frame
from faregate.meter.filter import _chunks, _meter
from faregate.meter.framing import Framing, JsonArrayFraming, MessageFraming, NdJsonFraming
from faregate.meter.plain import PlainMeter
from faregate.meter.registry import framing_for, normal_endpoint, reader_for, source_for
from faregate.ports import Meter
from tests.core.test_truth import BOUND, CALL, INTENT, PLACE, WHO
from tests.meter.support import cut, vectors

BAD = ("NaN", "1e999", "-1", str(-(2**63)), str(2**64), "1.5", '"many"', "null", "true", "[]", "{}", '""', "Infinity")
"""What no count is."""
ODD = ("9223372036854775808", "1e3", '"12"', "12.0", "0", "1000000000000", "-0", "9" * 400)
"""What may be one."""
_MARK = "\x00number\x00"
_GARBAGE = (
    b"",
    b"\n\n",
    b"data: {\n\n",
    b"\xff\xfe\x00",
    b"data: [DONE]\n\n",
    b"{}",
    b"]",
    b'{"error":5}\n',
    b"\x00" * 16,
)
_KINDS = ("openai", "azure", "anthropic", "gemini", "bedrock", "xai", "deepseek", "cohere", "ollama", "perplexity", "x")

Value = Any


@dataclass(frozen=True)
class Piece:
    """One event of an answer: its name (or frame headers), and its JSON, if it is any."""

    name: str
    headers: dict[str, str]
    raw: bytes
    value: Value


@dataclass(frozen=True)
class Case:
    """One vector, taken apart."""

    id: str
    line: dict[str, Any]
    stream: bytes
    pieces: tuple[Piece, ...]
    framing: Framing | None
    """None: a whole body."""
    splittable: bool


# Taking apart -------------------------------------------------------------------------------------------


@cache
def cases() -> tuple[Case, ...]:
    return tuple(map(_case, vectors()))


def _case(line: dict[str, Any]) -> Case:
    meter = _meter(line)
    chunks = [*_chunks(line, meter)]
    stream = b"".join(chunks)
    if isinstance(meter, PlainMeter):
        piece = Piece("", {}, stream, _json(stream))
        return Case(line["id"], line, stream, (piece,), None, True)
    framing = framing_for(meter.reader, line.get("framing"))
    blocks = [block for chunk in chunks for block in framing.feed(chunk)]
    blocks += [rest] if (rest := framing.close()) else []
    pieces = tuple(_piece(block, framing) for block in blocks)
    return Case(line["id"], line, stream, pieces, framing, not isinstance(framing, MessageFraming))


def _piece(block: bytes, framing: Framing) -> Piece:
    decoded = framing.decode(block) if framing.is_event(block) else None
    if decoded is None:
        return Piece("", {}, block, None)
    name, data = decoded
    frame = decode_frame(block) if isinstance(framing, AwsFraming) else None
    value = _json(data)
    if frame is not None and isinstance(value, dict) and isinstance(value.get("bytes"), str):
        value = {"bytes": _json(base64.b64decode(value["bytes"]))}
    return Piece(name, {} if frame is None else frame[0], block, value)


def _json(data: bytes) -> Value:
    try:
        return json.loads(data, parse_float=Decimal)
    except ValueError:
        return None


# Putting together ---------------------------------------------------------------------------------------


def _dumped(value: Value, token: str) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=float)
    return text.replace(json.dumps(_MARK), token).encode("utf-8", "replace")


def assembled(case: Case, piece: Piece, token: str) -> bytes:
    """The event with its marked numbers replaced by a token, framed."""
    framing = case.framing
    if isinstance(framing, AwsFraming):
        value = piece.value
        if piece.name == "chunk" and isinstance(value, dict) and "bytes" in value:
            return encode_frame(
                piece.headers, _dumped({"bytes": base64.b64encode(_dumped(value["bytes"], token)).decode()}, "")
            )
        return encode_frame(piece.headers, _dumped(value, token))
    data = _dumped(piece.value, token)
    if framing is None or isinstance(framing, MessageFraming):
        return data
    if isinstance(framing, NdJsonFraming):
        return data + b"\n"
    if isinstance(framing, JsonArrayFraming):
        return b"," + data
    return (f"event: {piece.name}\n".encode() if piece.name else b"") + b"data: " + data + b"\n\n"


def numbers(value: Value, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where numbers stand in usage objects."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, (*path, key))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from numbers(inner, (*path, at))
    elif isinstance(value, int | Decimal) and not isinstance(value, bool) and _is_usage(path):
        yield path


def _is_usage(path: Iterable[Any]) -> bool:
    words = " ".join(str(step).lower() for step in path)
    return any(mark in words for mark in ("usage", "token", "count", "metrics", "duration", "seconds", "billed"))


def marked(value: Value, paths: Iterable[tuple[Any, ...]]) -> Value:
    """A copy whose numbers at these paths are marks."""
    made = copy.deepcopy(value)
    for path in paths:
        inner = made
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = _MARK
    return made


def spoiled(case: Case, piece: Piece, token: str) -> bytes:
    """The event with every number of usage replaced."""
    found = [*numbers(piece.value)]
    return assembled(case, replace(piece, value=marked(piece.value, found)), token) if found else piece.raw


# What must hold -----------------------------------------------------------------------------------------


def fresh(case: Case, **options: Any) -> Meter:
    line = case.line
    return meter_for(
        line["provider"],
        line["endpoint"],
        stream=line.get("stream", False),
        model=line.get("model") or "",
        request=line.get("request"),
        framing=line.get("framing"),
        **options,
    )


def read(meter: Meter, chunks: Iterable[bytes], status: int = 200) -> tuple[bytes, Reading]:
    """What went out, and what was read: the flow's own order."""
    passed = b"".join([meter.feed(chunk) for chunk in chunks])
    reading = meter.reading(status, {})
    return passed + meter.finish(None, 0), reading


def hold(reading: Reading, status: int = 200) -> None:
    """No count below zero, no number without an end, and a charge that can be made: never zero without a word."""
    for usage in (reading.usage, *(reading.per_model or {}).values()):
        if usage is not None:
            _sane(usage)
    assert reading.delivered_tokens >= 0
    assert len(reading.raw_usage) <= 16 * 1024
    outcome = Outcome(status=status, reading=reading)
    made = finished_record(INTENT, outcome, CALL, PLACE, BOUND, WHO)
    usage, estimated = billable_usage(outcome, CALL, BOUND)
    if made is None:
        assert usage is None
        return
    record, cost = made
    assert 0 <= record.charge_microcredits <= MAX_MICROCREDITS
    assert cost.usd >= 0
    if reading.usage is None:
        assert estimated
        assert record.charge_microcredits > 0


def _sane(usage: Usage) -> None:
    for field in fields(Usage):
        value = getattr(usage, field.name)
        if isinstance(value, int) and not isinstance(value, bool):
            assert 0 <= value <= 2**80, field.name
        elif isinstance(value, Decimal):
            assert value.is_finite(), field.name
            assert value >= 0, field.name


def silent(reading: Reading) -> bool:
    """Nothing is charged for a good answer, and nobody is told that this was guessed."""
    usage, estimated = billable_usage(Outcome(status=200, reading=reading), CALL, BOUND)
    if usage is None:
        return reading.billable and reading.error is None
    return not estimated and not any(
        getattr(usage, field.name) for field in fields(Usage) if field.name not in ("tool_use_billable", "requests")
    )


# Properties ---------------------------------------------------------------------------------------------


@given(st.data())
def spoiled_numbers(data: st.DataObject) -> None:
    """Any numbers of usage replaced by anything."""
    case = data.draw(st.sampled_from(cases()))
    token = data.draw(st.sampled_from(BAD + ODD))
    stream = []
    for piece in case.pieces:
        found = [*numbers(piece.value)]
        chosen = data.draw(st.lists(st.sampled_from(found), max_size=4, unique=True)) if found else []
        stream.append(
            assembled(case, replace(piece, value=marked(piece.value, chosen)), token) if chosen else piece.raw
        )
    _, reading = read(fresh(case), stream)
    hold(reading)


@given(st.data())
def unusable_usage(data: st.DataObject) -> None:
    """Every number of usage spoiled: what was delivered is estimated and flagged, never free in silence."""
    case = data.draw(st.sampled_from([case for case in cases() if _is_charged(case)]))
    token = data.draw(st.sampled_from(BAD))
    _, reading = read(fresh(case), [spoiled(case, piece, token) for piece in case.pieces])
    hold(reading)
    assert not silent(reading), (case.id, token, reading)


@cache
def _charged() -> frozenset[str]:
    """Vectors of good answers that cost something as they are."""
    found = set()
    for case in cases():
        _, reading = read(fresh(case), [piece.raw for piece in case.pieces], case.line.get("status", 200))
        if case.line.get("status", 200) < 400 and reading.usage is not None and not silent(reading):
            found.add(case.id)
    return frozenset(found)


def _is_charged(case: Case) -> bool:
    return case.id in _charged()


@given(st.data())
def shuffled_events(data: st.DataObject) -> None:
    """Events left out, repeated, out of order, with garbage between; cut anywhere; in any pieces."""
    case = data.draw(st.sampled_from(cases()))
    raws = [piece.raw for piece in case.pieces]
    blocks = data.draw(
        st.lists(st.one_of(st.sampled_from(raws), st.sampled_from(_GARBAGE), st.binary(max_size=40)), max_size=10)
    )
    at = data.draw(st.integers(0, len(raws)))
    _pieces_agree(case, [*raws[:at], *blocks, *raws[at:]] if data.draw(st.booleans()) else blocks, data)


@given(st.data())
def cut_and_flipped(data: st.DataObject) -> None:
    """A stream cut at any byte, with bytes changed."""
    case = data.draw(st.sampled_from(cases()))
    stream = bytearray(case.stream[: data.draw(st.integers(0, len(case.stream)))])
    for _ in range(data.draw(st.integers(0, 3)) if stream else 0):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    _pieces_agree(case, [bytes(stream)], data)


def _pieces_agree(case: Case, blocks: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(blocks)
    if not case.splittable:
        hold(read(fresh(case), blocks)[1])
        return
    one, other = fresh(case), fresh(case)
    chunks = cut(stream, data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    passed, reading = read(one, chunks)
    passed_whole, reading_whole = read(other, [stream])
    assert (passed, reading, one.events) == (passed_whole, reading_whole, other.events)
    assert stream.startswith(passed)
    status = data.draw(st.sampled_from((200, 400, 500)))
    hold(reading)
    hold(read(fresh(case), chunks, status)[1], status)


@cache
def _answers() -> st.SearchStrategy[Value]:
    """JSON of the names and words that answers have, in any arrangement."""
    words: set[str] = set()
    texts: set[str] = set()
    for case in cases():
        for piece in case.pieces:
            _collect(piece.value, words, texts)
    word, text = st.sampled_from(sorted(words)), st.sampled_from(sorted(text for text in texts if len(text) < 40))
    leaf = st.one_of(st.none(), st.booleans(), st.integers(-5, 2**65), st.floats(), text, text)
    return st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(word, inner, max_size=5), max_leaves=12
    )


def _collect(value: Value, words: set[str], texts: set[str]) -> None:
    if isinstance(value, dict):
        words.update(value)
        for inner in value.values():
            _collect(inner, words, texts)
    elif isinstance(value, list):
        for inner in value:
            _collect(inner, words, texts)
    elif isinstance(value, str):
        texts.add(value)


@given(st.data())
def any_shape(data: st.DataObject) -> None:
    """Known names and words in any arrangement, at every endpoint of every kind, whole or as a stream."""
    endpoint = data.draw(st.sampled_from([*registry._READERS, "api/chat", "api/embed", "rerank"]))
    kind, streams = data.draw(st.sampled_from(_KINDS)), data.draw(st.booleans())
    form = data.draw(st.sampled_from((None, None, "json-array", "binary")))
    reader = reader_for(source_for(kind, endpoint, stream=streams))
    framing = framing_for(reader, form if form != "binary" else None) if streams else None
    case = Case("", {}, b"", (), framing, True)
    names = st.sampled_from(
        ("", "error", "message_start", "message_delta", "chunk", "metadata", "!throttlingException")
    )
    events = data.draw(st.lists(st.tuples(names, _answers()), min_size=1, max_size=5 if streams else 1))
    chunks = []
    for name, value in events:
        headers = {":message-type": "exception" if name.startswith("!") else "event", ":event-type": name.strip("!")}
        chunks.append(assembled(case, Piece(name, headers, b"", value), ""))
    meter = meter_for(kind, normal_endpoint(endpoint), stream=streams, framing=form)
    hold(read(meter, chunks)[1])


@given(st.data())
def deep_or_long(data: st.DataObject) -> None:
    """Numbers alone, deep nesting and long ones: what JSON allows and no program likes."""
    case = data.draw(st.sampled_from(cases()))
    depth = data.draw(st.sampled_from((100, 5_000)))
    nested = data.draw(
        st.sampled_from((b"[" * depth + b"]" * depth, b'{"usage":' * depth + b"1" + b"}" * depth, b"9" * depth))
    )
    raw = nested if case.framing is None else b"data: " + nested + b"\n\n"
    hold(read(fresh(case), [raw, *[piece.raw for piece in case.pieces[:3]]])[1])


def checks() -> list[Callable[[], None]]:
    """Every property."""
    return [spoiled_numbers, unusable_usage, shuffled_events, cut_and_flipped, any_shape, deep_or_long]


def main(minutes: float) -> None:
    """Every property in turn, with new examples, until the time is over. A failure ends it."""
    many = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
    tried = [many(check) for check in checks()]
    end, rounds = time.monotonic() + minutes * 60, 0
    while time.monotonic() < end:
        for check in tried:
            check()
        rounds += 1
        print(f"round {rounds}: {len(tried)} properties hold", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
