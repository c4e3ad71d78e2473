"""`faregate meter`: one usage vector in (tests/vectors/README.md), its normalised usage out. Answers "why so much?"."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from decimal import Decimal

from faregate.core.money import plain
from faregate.core.usage import ProviderError, Reading, Usage
from faregate.meter.aws import encode_frame
from faregate.meter.dialects.openai_realtime import RealtimeReader
from faregate.meter.framing import Framing, NdJsonFraming, SseFraming
from faregate.meter.plain import PlainMeter
from faregate.meter.reader import Reader
from faregate.meter.registry import framing_for, native_meter, source_for
from faregate.meter.stream import StreamMeter
from faregate.meter.values import text


class MalformedLineError(ValueError):
    """The line is no usage vector."""


def meter_line(line: Mapping[str, object]) -> dict[str, object]:
    """The normalised usage of one vector; `{"id", "error": "<text>"}` when it is none. Never raises."""
    if not isinstance(line, Mapping):
        return {"id": None, "error": "not an object"}  # type: ignore[unreachable]  # JSON promises nothing
    identity = line.get("id")
    try:
        return {"id": identity, **_metered(line)}
    except MalformedLineError as error:
        return {"id": identity, "error": str(error)}


def _metered(line: Mapping[str, object]) -> dict[str, object]:
    meter = _meter(line)
    for chunk in _chunks(line, meter):
        meter.feed(chunk)
    status, headers = _status(line), _headers(line)
    meter.finish(None, 0)
    reading = meter.reading(status, headers)
    return _fields(reading, meter.reader)


def _meter(line: Mapping[str, object]) -> StreamMeter | PlainMeter:
    provider, endpoint, stream = line.get("provider"), line.get("endpoint"), line.get("stream", False)
    if not isinstance(provider, str) or not isinstance(endpoint, str) or not isinstance(stream, bool):
        raise MalformedLineError("provider and endpoint must be strings, stream a boolean")
    request = line.get("request")
    source = source_for(
        provider,
        endpoint,
        stream=stream,
        model=text(line.get("model")) or "",
        request=request if isinstance(request, dict) else None,
    )
    return native_meter(source, text(line.get("framing")))


def _status(line: Mapping[str, object]) -> int:
    status = line.get("status", 200)
    return status if isinstance(status, int) else 200


def _headers(line: Mapping[str, object]) -> dict[str, str]:
    headers = line.get("headers")
    if not isinstance(headers, dict):
        return {}
    return {str(name).lower(): value for name, value in headers.items() if isinstance(value, str)}


# What to feed -------------------------------------------------------------------------------------------


def _chunks(line: Mapping[str, object], meter: StreamMeter | PlainMeter) -> Iterator[bytes]:
    """Raw chunks if there are any, else the body, else the events framed as the wire would."""
    if isinstance(chunks := line.get("chunks_b64"), list):
        yield from map(_from_base64, chunks)
    elif isinstance(events := line.get("events"), list):
        if isinstance(meter, PlainMeter):
            raise MalformedLineError("events without stream")
        framing = framing_for(meter.reader, text(line.get("framing")))
        for event in events:
            yield _framed(event, framing)
    elif "body" in line:
        yield _body(line["body"])
    else:
        raise MalformedLineError("no body, events or chunks_b64")


def _from_base64(chunk: object) -> bytes:
    try:
        return base64.b64decode(chunk, validate=True) if isinstance(chunk, str) else _malformed("chunks_b64")
    except (binascii.Error, ValueError):
        return _malformed("chunks_b64")


def _malformed(what: str) -> bytes:
    raise MalformedLineError(f"{what} is malformed")


def _body(body: object) -> bytes:
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else _json(body)


def _json(value: object) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_number).encode("utf-8", "replace")
    except (ValueError, RecursionError, TypeError):
        raise MalformedLineError("not JSON") from None


def _number(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError


def _framed(event: object, framing: Framing) -> bytes:
    if isinstance(event, dict) and "payload" in event:
        return _aws_frame(event)
    name = text(event.get("event")) if isinstance(event, dict) else None
    data = event.get("data") if isinstance(event, dict) and "data" in event else event
    raw = data.encode("utf-8", "replace") if isinstance(data, str) else _json(data)
    if not isinstance(framing, SseFraming):
        return raw + (b"\n" if isinstance(framing, NdJsonFraming) else b"")
    head = f"event: {name}\n".encode("utf-8", "replace") if name else b""
    return head + b"data: " + b"\ndata: ".join(raw.splitlines() or [b""]) + b"\n\n"


_AWS_HEADERS = (":message-type", ":event-type", ":exception-type", ":error-code")


def _aws_frame(event: Mapping[str, object]) -> bytes:
    headers = {name: str(event[name])[:255] for name in _AWS_HEADERS if name in event}
    payload = _json(event["payload"])
    inner = event["payload"]
    if headers.get(":event-type") == "chunk" and not (isinstance(inner, dict) and "bytes" in inner):
        payload = _json({"bytes": base64.b64encode(payload).decode()})
    return encode_frame({":message-type": "event", **headers}, payload)


# What comes out -----------------------------------------------------------------------------------------

_STATE = ("anomaly", "service_tier", "speed", "inference_geo", "provider_cost_usd", "upstream_cost_usd")
_FLAGS = ("pending", "output_is_placeholder")


def _fields(reading: Reading, reader: Reader) -> dict[str, object]:
    usage = reading.usage or Usage()
    out: dict[str, object] = {"usage_present": reader.usage_present}
    out |= {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    out |= _usage_fields(usage)
    if reader.source.stream:
        out["complete"] = reading.complete
    out["billable"] = reading.billable
    out |= {name: True for name in _FLAGS if getattr(reading, name)}
    out |= {name: _plain(value) for name in _STATE if (value := getattr(reading, name)) is not None}
    if reading.error is not None:
        out |= {"error": _error(reading.error), "retryable": reader.retryable}
    if isinstance(reader, RealtimeReader) and reader.billed_model:
        out["billed_model"] = reader.billed_model
    if reading.per_model is not None:
        out["per_model"] = {model: _usage_fields(one) for model, one in reading.per_model.items()}
    return out


def _usage_fields(usage: Usage) -> dict[str, object]:
    """Only what is known; `tool_use_billable` only when there is tool use."""
    found = {
        field.name: _plain(value)
        for field in fields(Usage)
        if field.name != "custom" and (value := getattr(usage, field.name)) is not None
    }
    if usage.tool_use_input_tokens is None:
        del found["tool_use_billable"]
    return found


def _plain(value: object) -> object:
    return f"{plain(value):f}" if isinstance(value, Decimal) else value


def _error(error: ProviderError) -> dict[str, object]:
    pairs = {"status": error.status, "type": error.type, "code": error.code, "message": error.message}
    return {key: value for key, value in pairs.items() if value is not None}
