"""How limits and their windows are named: `<owner>.<kind>.<window>`, and a window of it with `:<start in s>` more."""

from __future__ import annotations

from functools import lru_cache

KINDS = ("credits", "tokens", "requests", "concurrency")


@lru_cache(maxsize=8_192)
def kind_of(limit_id: str) -> str | None:
    """What a limit counts: the last or last but one segment of its id. None: it is no limit's."""
    return next((part for part in limit_id.split(".")[-2:] if part in KINDS), None)


def kind_of_key(limit_key: str) -> str | None:
    """The same of one of its windows."""
    return kind_of(limit_key.rpartition(":")[0])
