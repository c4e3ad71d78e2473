"""The data plane's front doors: which path is which endpoint in which dialect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from faregate.gateway.openai import OpenAIDialect
from faregate.ports import Dialect

_OPENAI = OpenAIDialect()


@dataclass(frozen=True, slots=True)
class Door:
    """An endpoint and the language it is asked in."""

    endpoint: str
    dialect: Dialect


DOORS: Mapping[str, Door] = {
    "/v1/chat/completions": Door("chat.completions", _OPENAI),
    "/v1/completions": Door("completions", _OPENAI),
    "/v1/embeddings": Door("embeddings", _OPENAI),
}
"""By exact path; all of them are POST."""
