"""Write a cost into a usage chunk without touching any other byte of it."""

from __future__ import annotations

import re
from decimal import Decimal

from faregate.core.money import credits, plain

_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\]]', re.DOTALL)
_USAGE = (b'"usage"', b'"usageMetadata"')
_KEYS = (*_USAGE, b'"response"')
_OBJECT_VALUE = re.compile(rb"\s*:\s*\{")


def with_cost(event: bytes, cost_usd: Decimal, charge_microcredits: int) -> bytes:
    """The event with `cost_usd` and `credits` at the end of its usage object, its own or its `response`'s."""
    span = _usage_span(event)
    if span is None:
        return event
    start, end = span
    comma = "," if event[start:end].strip() else ""
    fields = f'{comma}"cost_usd":{plain(cost_usd):f},"credits":{credits(charge_microcredits):f}'
    return event[:end] + fields.encode() + event[end:]


def _usage_span(event: bytes) -> tuple[int, int] | None:
    """Where the inside of the usage object begins and ends: at the top, or at the top of "response"."""
    depth, start, at = 0, None, 1
    for token in _TOKEN.finditer(event, max(0, event.find(b"{"))):
        sign = token[0][:1]
        if sign in b"{[":
            depth += 1
        elif sign in b"}]":
            if start is not None and depth == at + 1:
                return start, token.start()
            depth -= 1
            at = min(at, max(1, depth))
        elif start is None and depth == at and token[0] in _KEYS:
            value = _OBJECT_VALUE.match(event, token.end())
            if value is not None and token[0] in _USAGE:
                start = value.end()
            elif value is not None and depth == 1:
                at = 2
    return None
