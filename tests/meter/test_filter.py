"""The `faregate meter` filter against every vector, in every form it can be fed."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faregate.meter import meter_line
from tests.meter.support import b64, single_bytes, vectors

# README of the vectors: 0 and absence are equivalent for these.
_ZERO_IS_ABSENCE = {"cached_input_tokens", "cached_audio_input_tokens", "cache_write_tokens", "reasoning_tokens"}


def forms() -> Iterator[Any]:
    for vector in vectors():
        expect = vector.pop("expect")
        yield pytest.param(vector, expect, id=vector["id"])
        if "chunks_b64" in vector:
            whole = b"".join(map(base64.b64decode, vector["chunks_b64"]))
            yield pytest.param(
                {**vector, "chunks_b64": [*map(b64, single_bytes(whole))]}, expect, id=f"{vector['id']}-bytewise"
            )
            yield pytest.param({**vector, "chunks_b64": [b64(whole)]}, expect, id=f"{vector['id']}-one-read")
            if "events" in vector:
                events = {key: value for key, value in vector.items() if key != "chunks_b64"}
                yield pytest.param(events, expect, id=f"{vector['id']}-events")


def differences(expect: dict[str, Any], got: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for key, want in expect.items():
        have = got.get(key)
        if key in ("error", "per_model"):
            same = isinstance(have, dict) and all(have.get(k) == v for k, v in want.items())
        elif key in _ZERO_IS_ABSENCE:
            same = (have or 0) == (want or 0)
        else:
            same = have == want and type(have) is type(want)
        if not same:
            found[key] = (want, have)
    return found


@pytest.mark.parametrize(("vector", "expect"), list(forms()))
def test_vector(vector: dict[str, Any], expect: dict[str, Any]) -> None:
    got = meter_line(vector)
    assert got["id"] == vector["id"]
    assert differences(expect, got) == {}
    json.dumps(got, allow_nan=False)


def test_every_vector_is_here() -> None:
    assert len(vectors()) == 141


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"id": "x"},
        {"id": "x", "provider": "openai", "endpoint": "chat.completions"},
        {"id": "x", "provider": 3, "endpoint": None, "body": {}},
        {"id": "x", "provider": "openai", "endpoint": "chat.completions", "stream": True, "chunks_b64": ["%%"]},
        {"id": "x", "provider": "openai", "endpoint": "chat.completions", "stream": True, "chunks_b64": [7]},
        {"id": "x", "provider": "openai", "endpoint": "chat.completions", "stream": False, "events": []},
    ],
)
def test_malformed_lines_say_so(line: dict[str, Any]) -> None:
    got = meter_line(line)
    assert got.keys() == {"id", "error"}
    assert isinstance(got["error"], str)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(vectors()), st.data())
def test_mutated_vectors_never_crash(vector: dict[str, Any], data: st.DataObject) -> None:
    line = {key: value for key, value in vector.items() if key != "expect"}
    for key in data.draw(st.lists(st.sampled_from(sorted(line)), max_size=3)):
        line[key] = data.draw(JSON)
    got = meter_line(line)
    assert "id" in got
    for key in ("input_tokens", "output_tokens"):
        value = got.get(key)
        assert value is None or (isinstance(value, int) and value >= 0)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["openai", "xai", "gemini", "perplexity"]),
    st.dictionaries(
        st.sampled_from(
            [
                "prompt_tokens",
                "completion_tokens",
                "total_tokens",
                "prompt_tokens_details",
                "completion_tokens_details",
                "cost",
            ]
        ),
        JSON | st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens", "audio_tokens"]), JSON),
    ),
)
def test_any_usage_object_gives_counts_or_unknown(provider: str, usage: dict[str, Any]) -> None:
    got = meter_line({"id": 1, "provider": provider, "endpoint": "chat.completions", "body": {"usage": usage}})
    numbers = [value for key, value in got.items() if key.endswith("_tokens")]
    assert all(value is None or (type(value) is int and value >= 0) for value in numbers)
