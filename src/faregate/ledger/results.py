"""Results of transactions as JSON, and back: what a step of a request leaves in its claim (claims.py).

Plain values, tuples, sets, mappings, decimals, bytes and this package's dataclasses; anything else is a TypeError.
A class is only ever looked up in modules of ours that are loaded, and must be a dataclass.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from typing import Any

_PACKAGE = __name__.partition(".")[0] + "."
_SCALARS: Mapping[str, Callable[[str], object]] = {
    "decimal": Decimal,
    "bytes": bytes.fromhex,
    "float": float.fromhex,
}


def encode(value: object) -> object:
    """As JSON can hold it. Raises TypeError for what is no result."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list):
        return [encode(item) for item in value]
    return _tagged(value)


def _tagged(value: object) -> dict[str, object]:
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, set | frozenset):
        return {"set": [encode(item) for item in sorted(value)]}
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, Mapping):
        return {"map": [[encode(name), encode(item)] for name, item in value.items()]}
    if is_dataclass(value) and type(value).__module__.startswith(_PACKAGE):
        kind = type(value)
        found = {field.name: encode(getattr(value, field.name)) for field in fields(value)}
        return {"class": f"{kind.__module__}:{kind.__qualname__}", "fields": found}
    raise TypeError(f"a {type(value).__name__} cannot be kept as a transaction's result")


def decode(stored: Any) -> Any:
    """What `encode` was given; sets come back frozen. Raises TypeError when a class has changed since."""
    if isinstance(stored, list):
        return [decode(item) for item in stored]
    if not isinstance(stored, dict):
        return stored
    if "class" in stored:
        return _class(stored["class"])(**{name: decode(item) for name, item in stored["fields"].items()})
    ((tag, value),) = stored.items()
    if tag == "map":
        return {decode(name): decode(item) for name, item in value}
    if tag in ("tuple", "set"):
        return (tuple if tag == "tuple" else frozenset)(decode(item) for item in value)
    return _SCALARS[tag](value)


def _class(name: str) -> Any:
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module) if module.startswith(_PACKAGE) else None
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type) or not is_dataclass(found):
        raise TypeError(f"{name} is not a result's class any more")
    return found
