"""How many pages a document in a request has at most: counted where it shows them, else by its size."""

from __future__ import annotations

import re
from base64 import b64decode

MOST_PAGES = 1000
"""Of one document: Gemini's limit, the highest there is."""
_BYTES_PER_PAGE = 3_000
"""A page rarely takes less, however well it is packed."""
_SHOWN_BYTES_PER_PAGE = 500_000
"""Pages that are shown may not be all: a large file has a few more."""
_MOST_READ = 4 << 20
"""Characters of base64 that are worth being looked into."""

_PDF = "JVBERi"
"""%PDF in base64."""
_PAGE = re.compile(rb"/Type\s*/Page(?![A-Za-z])")
_COUNT = re.compile(rb"/Count\s+([0-9]{1,4})(?![0-9])")


def pages_of(data: str | None) -> int:
    """The pages of a document in base64 (with or without a `data:` in front); None: it is somewhere else."""
    if data is None:
        return MOST_PAGES
    size = len(data) * 3 // 4
    shown = _shown(data) if len(data) <= _MOST_READ else 0
    by_size = size // _SHOWN_BYTES_PER_PAGE if shown else 1 + size // _BYTES_PER_PAGE
    return min(MOST_PAGES, shown + by_size)


def _shown(data: str) -> int:
    """Page objects and page counts of a PDF that keeps them in the open; 0 for one that does not, or for no PDF."""
    start = data.find(_PDF, 0, 256)
    if start < 0:
        return 0
    try:
        raw = b64decode(data[start : start + (len(data) - start) // 4 * 4])
    except ValueError:
        return 0
    return max(len(_PAGE.findall(raw)), max(map(int, _COUNT.findall(raw)), default=0))
