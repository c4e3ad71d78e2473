"""The most tokens a picture in the input is billed as, by model family and detail.

Tiles (OpenAI until gpt-5): scaled into 2048 x 2048, then to a short side of 768, so 8 tiles of 512 at most. Patches
(32 x 32): a budget times a factor. Published numbers and measured ones differ; the higher one is taken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class _Family:
    names: re.Pattern[str]
    low: int
    high: int
    most: int
    """Where `detail` is auto, original, or not sent."""


def _tiles(names: str, base: int, tile: int) -> _Family:
    return _Family(re.compile(names), base, base + 8 * tile, base + 8 * tile)


def _flat(names: str, tokens: int, most: int | None = None) -> _Family:
    """Families that `detail` does not make cheaper."""
    return _Family(re.compile(names), tokens, tokens, most or tokens)


_FAMILIES = (
    _tiles(r"gpt-4o-mini", 2833, 5667),
    _flat(r"gpt-image-1", 7_337),  # 65 + 8 x 129 and, with input_fidelity high, 6240
    _flat(r"gpt-image", 16_384),
    _flat(r"(gpt-[5-9]|gpt-4\.1).*-nano", 6_150),  # 2500 patches x 2.46
    _flat(r"(gpt-[5-9]|gpt-4\.1|o[1-9]|codex).*-mini", 4_300),  # 2500 x 1.72
    _flat(r"gpt-([6-9]|5\.)", 3_000, 12_000),  # 2500 (original: 10,000) x 1.2
    _tiles(r"gpt-5", 70, 140),
    _tiles(r"(chatgpt-4o|gpt-4)", 85, 182),  # 8 x 170, or 1536 patches
    _tiles(r"(\b|/)o[1-9](\b|-)", 75, 150),
    _tiles(r"computer-use", 65, 129),
    _flat(r"claude", 4_784),
    _flat(r"gemini", 6_450),  # 24 tiles and the whole, 258 each
    _flat(r"grok", 1_792),
    _flat(r"llama", 6_404),
)


def tokens(model: str, detail: object, unknown: int) -> int:
    """The bound for one picture; `unknown` for a model of no known family."""
    family = _family(model)
    if family is None:
        return unknown
    return {"low": family.low, "high": family.high}.get(detail if isinstance(detail, str) else "", family.most)


@lru_cache(maxsize=1024)
def _family(model: str) -> _Family | None:
    name = model.lower()
    return next((family for family in _FAMILIES if family.names.search(name)), None)
