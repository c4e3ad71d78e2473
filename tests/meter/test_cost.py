"""A cost is written into the usage object and nowhere else."""

from __future__ import annotations

from decimal import Decimal

from faregate.meter.cost import with_cost


def test_only_the_top_level_usage_gets_it() -> None:
    event = b'data: {"x_groq":{"usage":{"a":1}},"note":"\\"usage\\":{}","usage" : {"a":{"b":1}},"usage_":{}}\n\n'
    assert with_cost(event, Decimal("1E-9"), 1) == event.replace(
        b'{"b":1}}', b'{"b":1},"cost_usd":0.000000001,"credits":0.000001}'
    )


def test_an_empty_usage_needs_no_comma() -> None:
    assert with_cost(b'data: {"usage":{}}', Decimal(2), 0) == b'data: {"usage":{"cost_usd":2,"credits":0}}'


def test_without_usage_nothing_changes() -> None:
    for event in (b'data: {"usage":null}', b'data: {"a":["usage",{}]}', b"data: [DONE]", b""):
        assert with_cost(event, Decimal(1), 1) == event


def test_in_a_response_it_is_the_responses_own() -> None:
    said = b'{"response":{"output":[{"usage":{"x":1}}],"usage":{"a":{"b":1}},"c":[]},"z":{}}'
    event = b"event: response.completed\ndata: " + said + b"\n\n"
    assert with_cost(event, Decimal(1), 0) == event.replace(b'{"a":{"b":1}}', b'{"a":{"b":1},"cost_usd":1,"credits":0}')


def test_usage_elsewhere_is_none() -> None:
    event = b'data: {"response":{"x":{"usage":{}}},"y":{"usage":{}}}'
    assert with_cost(event, Decimal(1), 1) == event
