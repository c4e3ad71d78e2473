from __future__ import annotations

import time
from typing import Any

import pytest

from faregate.errors import InvalidRequest
from faregate.providers.crossing.schemas import MOST_DEEP, check_schemas


def ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


def schema(definitions: dict[str, Any], root: str) -> dict[str, Any]:
    return {"type": "object", "$defs": definitions, "properties": {"r": ref(root)}}


def doubling(levels: int) -> dict[str, Any]:
    """Each level names the next one twice."""
    pairs = {f"d{n}": {"properties": {"a": ref(f"d{n + 1}"), "b": ref(f"d{n + 1}")}} for n in range(levels)}
    return schema({**pairs, f"d{levels}": {"type": "string"}}, "d0")


def knot(size: int) -> dict[str, Any]:
    """Everyone names everyone."""
    everyone = [ref(f"d{n}") for n in range(size)]
    return schema({f"d{n}": {"anyOf": everyone} for n in range(size)}, "d0")


def chain(length: int) -> dict[str, Any]:
    links = {f"d{n}": {"items": ref(f"d{n + 1}")} for n in range(length)}
    return schema({**links, f"d{length}": {"type": "string"}}, "d0")


def tool(parameters: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}]}


@pytest.mark.parametrize("bomb", [doubling(40), knot(12), chain(5000), {"anyOf": [{"type": "string"}] * 30_000}])
@pytest.mark.parametrize("where", ["tools[0]", "functions[0]", "response_format"])
def test_what_grows_without_end_is_refused_at_once_and_by_name(bomb: dict[str, Any], where: str) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "tools[0]": tool(bomb),
        "functions[0]": {"functions": [{"name": "f", "parameters": bomb}]},
        "response_format": {"response_format": {"type": "json_schema", "json_schema": {"schema": bomb}}},
    }
    began = time.thread_time()
    with pytest.raises(InvalidRequest) as caught:
        check_schemas(bodies[where])
    assert caught.value.param == where
    assert time.thread_time() - began < 1


@pytest.mark.parametrize(
    "good",
    [
        doubling(6),
        knot(3),
        chain(MOST_DEEP - 1),
        schema({"tree": {"properties": {"left": ref("tree"), "right": ref("tree")}}}, "tree"),
        {"$ref": "#"},
        {"$ref": 7, "$defs": 7, "properties": ref("nowhere")},
        None,
        "schema",
    ],
)
def test_what_people_write_passes(good: Any) -> None:
    check_schemas(tool(good))


@pytest.mark.parametrize("tools", [None, {}, "x", [None], [{}], [{"function": 1}]])
def test_what_is_no_tool_is_judged_elsewhere(tools: Any) -> None:
    check_schemas({"tools": tools, "functions": tools})
