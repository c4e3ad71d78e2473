"""Schemas that refer to themselves: LiteLLM writes every reference out, and a few lines can mean a billion of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faregate.errors import InvalidRequest

MOST_NODES = 20_000
"""Of one schema with its references written out: far more than any model follows."""
MOST_DEEP = 32
"""References within one another."""
_DEFINED = ("$defs", "definitions")


def check_schemas(body: Mapping[str, Any]) -> None:
    """The schemas of functions and of the answer. Raises InvalidRequest naming the one that is too large."""
    tools = body.get("tools")
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        function = tool.get("function") if isinstance(tool, dict) else None
        _check(function, f"tools[{index}]")
    functions = body.get("functions")
    for index, function in enumerate(functions if isinstance(functions, list) else ()):
        _check(function, f"functions[{index}]")
    _check(body.get("response_format"), "response_format")


def _check(value: object, where: str) -> None:
    if _size(value, _definitions(value)) > MOST_NODES:
        raise InvalidRequest(
            f"the schema of {where} is too large: {MOST_NODES} parts at most, references written out, {MOST_DEEP} deep",
            param=where,
        )


def _definitions(value: object) -> dict[str, object]:
    """All that can be referred to, by its last name, wherever it is defined."""
    found: dict[str, object] = {}
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            for name in _DEFINED:
                if isinstance(node.get(name), dict):
                    found |= node[name]
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return found


def _size(value: object, definitions: Mapping[str, object]) -> int:
    """How many parts a schema has once its references are written out, each until it leads back to itself.

    Counted as LiteLLM writes, without its writing, and only up to the bound: what branches without end ends here.
    """
    total, waiting = 0, [(value, frozenset[str]())]
    while waiting and total <= MOST_NODES:
        node, path = waiting.pop()
        total += 1
        if isinstance(node, list):
            waiting += [(item, path) for item in node]
        elif isinstance(node, dict):
            waiting += [(item, path) for name, item in node.items() if name not in _DEFINED]
            name = _name(node.get("$ref"))
            if name in definitions and name not in path:
                if len(path) >= MOST_DEEP:
                    return MOST_NODES + 1
                waiting.append((definitions[name], path | {name}))
    return total


def _name(reference: object) -> str:
    """What a reference calls its definition, wherever that stands."""
    return reference.rpartition("/")[2] if isinstance(reference, str) else ""
