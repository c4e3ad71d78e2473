"""The most tokens a second of sound in the input is billed as, by model family."""

from __future__ import annotations

import re
from functools import lru_cache

_FAMILIES = (
    (re.compile(r"transcribe"), 17),  # as their price by the minute has it: 1000 tokens
    (re.compile(r"gpt|realtime|whisper"), 10),  # one for 100 ms
    (re.compile(r"gemini"), 32),
    (re.compile(r"voxtral"), 13),
)


@lru_cache(maxsize=1024)
def tokens_per_second(model: str, unknown: int) -> int:
    """The bound; `unknown` for a model of no known family."""
    name = model.lower()
    return next((tokens for family, tokens in _FAMILIES if family.search(name)), unknown)
