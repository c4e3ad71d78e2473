"""Bedrock's own operations, asked for at Bedrock's own front door: bytes pass, only the output bound is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from faregate.core.asks.bedrock import CONVERSE_BOUNDS, INVOKE_BOUNDS, bounds_in
from faregate.core.call import Call, Candidate
from faregate.errors import InvalidRequest
from faregate.providers.crossing.anthropic import within
from faregate.providers.openai import as_read

OPERATIONS: Mapping[tuple[str, bool], str] = {
    ("converse", False): "converse",
    ("converse", True): "converse-stream",
    ("invoke", False): "invoke",
    ("invoke", True): "invoke-with-response-stream",
}
"""The end of the path, by endpoint and whether it streams."""
_BOUNDS = {"converse": CONVERSE_BOUNDS, "invoke": INVOKE_BOUNDS}


def body_of(call: Call, candidate: Candidate, output_cap: int | None) -> bytes:
    """The body to send: as it came, or with every bound in it lowered to `output_cap`.

    Raises InvalidRequest when thinking does not fit under it.
    """
    if output_cap is None:
        return as_read(call.raw_body, call.body)
    bounds = bounds_in(call.body, _BOUNDS[call.endpoint])
    if not bounds:  # Converse's, unset; above the model's own maximum it would be refused
        bounds = {CONVERSE_BOUNDS[0]: candidate.card.max_output_tokens or output_cap}
    body = orjson.loads(call.raw_body)
    for path, value in bounds.items():
        holder = body
        for name in path[:-1]:
            holder[name] = holder.get(name) or {}
            holder = holder[name]
        holder[path[-1]] = min(value, output_cap)
    _fit_thinking(body, output_cap)
    _fit_thinking(body.get("additionalModelRequestFields"), output_cap)
    return orjson.dumps(body)


def _fit_thinking(fields: Any, output_cap: int) -> None:
    """A thinking budget must be below the bound. Raises InvalidRequest when there is no room for one."""
    if not isinstance(fields, dict) or "thinking" not in fields:
        return
    fields["thinking"] = within(fields["thinking"], output_cap)
    if fields["thinking"] is None:
        raise InvalidRequest(f"{output_cap} tokens of output leave no room for thinking", param="thinking")


def headers_of(call: Call) -> dict[str, str]:
    """The client's headers that go along: tier, guardrail, trace, accept."""
    return dict(call.forward_headers)
