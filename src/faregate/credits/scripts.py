"""The Lua scripts as they are sent: the shared head in front of each, known by its SHA-1."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files

NAMES = (
    "reserve",
    "extend",
    "reassert",
    "release",
    "settle",
    "claim",
    "rebuild",
    "due",
    "epoch",
    "keyrev",
    "fold",
    "unfold",
)


@dataclass(frozen=True, slots=True)
class Script:
    """One verb."""

    name: str
    source: bytes
    sha: bytes


def load() -> dict[str, Script]:
    """Every script by name."""
    folder = files("faregate.credits").joinpath("lua")
    head = folder.joinpath("lib.lua").read_bytes()
    scripts = {}
    for name in NAMES:
        source = head + b"\n" + folder.joinpath(f"{name}.lua").read_bytes()
        scripts[name] = Script(name, source, sha1(source, usedforsecurity=False).hexdigest().encode())
    return scripts
