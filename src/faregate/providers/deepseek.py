"""Kind `deepseek`: OpenAI's wire with another name for the output bound, and keep-alives before an answer.

While a request waits (up to ten minutes) a plain answer begins with blank lines, a stream with comments. Neither is
an event: the meter counts none, the first-byte time goes on, and nothing of it reaches a client that could still be
served elsewhere. Usage stands on the finish chunk. (api-docs.deepseek.com/quick_start/rate_limit)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import orjson

from faregate.core.call import Call, Candidate
from faregate.ports import Answer
from faregate.providers.openai import MeterFactory, OpenAIProvider, ProviderOptions
from faregate.providers.upstream import Upstream

_BOUNDS = ("max_completion_tokens", "max_tokens")


class DeepSeekProvider(OpenAIProvider):
    """ports.Provider for DeepSeek."""

    URL: ClassVar[str] = "https://api.deepseek.com"
    PATHS: ClassVar[Mapping[str, str]] = {"chat.completions": "/chat/completions", "completions": "/beta/completions"}

    def __init__(self, options: ProviderOptions, upstream: Upstream, meter_for: MeterFactory) -> None:
        """A base_url with the version that OpenAI's SDK is told means the same place."""
        base_url = (options.base_url or self.URL).rstrip("/").removesuffix("/v1").removesuffix("/beta")
        super().__init__(replace(options, base_url=base_url), upstream, meter_for)

    async def send(self, call: Call, candidate: Candidate, output_cap: int | None) -> Answer:
        """Send the call. Raises UpstreamError or UpstreamTimeout when no response began."""
        return await super().send(in_its_words(call), candidate, output_cap)


def in_its_words(call: Call) -> Call:
    """The bound as `max_tokens`: DeepSeek does not know the newer name, which would bound nothing."""
    if call.body.get("max_completion_tokens") is None:
        return call
    bound = min(value for name in _BOUNDS if isinstance(value := call.body.get(name), int))
    body = {name: value for name, value in call.body.items() if name != "max_completion_tokens"}
    body["max_tokens"] = bound
    return replace(call, body=body, raw_body=orjson.dumps(body))
