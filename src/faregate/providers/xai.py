"""Kind `xai`: OpenAI's wire, with errors of its own shape and a 400 where others say 401.

Reasoning stands beside completion_tokens in chat (inside output_tokens in responses), and `cost_in_usd_ticks` is what
xAI itself charges: both are the meter's to know. Errors are {"code": sentence, "error": text}; the dialect that
answers the client turns them into its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from faregate.core.call import Call, Candidate
from faregate.ports import Answer
from faregate.providers.blame import reword
from faregate.providers.openai import PATHS, OpenAIProvider

_SERVED = ("chat.completions", "completions", "embeddings", "responses", "images.generations")
_KEY_REFUSED = b"Incorrect API key"


class XAIProvider(OpenAIProvider):
    """ports.Provider for xAI."""

    URL: ClassVar[str] = "https://api.x.ai/v1"
    PATHS: ClassVar[Mapping[str, str]] = {endpoint: PATHS[endpoint] for endpoint in _SERVED if endpoint in PATHS}

    async def send(self, call: Call, candidate: Candidate, output_cap: int | None) -> Answer:
        """Send the call. Raises UpstreamError or UpstreamTimeout when no response began."""
        return await reword(await super().send(call, candidate, output_cap), _KEY_REFUSED)
