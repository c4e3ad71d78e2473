"""Kind `litellm`: every provider that LiteLLM's library speaks, called through the library itself.

It opens its own connections, so what the one HTTP client does elsewhere is done here: time-outs, giving up, errors in
our words. It is kept from everything else it could do: it neither retries nor logs, calls no callbacks, and of a body
it sees only OpenAI's fields, since many of its other arguments say where to send the key. What it yields has OpenAI's
shape and is metered as that; counts of its own making (zeros, a tokenizer's guess) are left out.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final, cast

import httpx
import orjson

from faregate.core.call import Call, Candidate
from faregate.errors import ConfigError, FaregateError, InvalidRequest, UpstreamTimeout
from faregate.ports import Answer, Meter
from faregate.providers.crossing.library import is_installed, load
from faregate.providers.crossing.params import chosen
from faregate.providers.crossing.schemas import check_schemas
from faregate.providers.library_answer import LibraryAnswer, plain, refusal, streamed
from faregate.providers.openai import MeterFactory, ProviderOptions, Secret, meter_of, passed_down
from faregate.providers.upstream import Upstream

CHAT_FIELDS: Final = frozenset(
    {
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "reasoning_effort",
        "response_format",
        "seed",
        "service_tier",
        "stop",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    }
)
EMBEDDING_FIELDS: Final = frozenset({"dimensions", "encoding_format", "input", "user"})
_TOOLS: Final = frozenset({"function", "custom"})
"""Other types make the library itself go somewhere."""
_SECRETS: Final = re.compile(rb"\b(?:sk-|gsk_|xai-|AIza|AKIA|ASIA|hf_|r8_|pplx-|org-)[A-Za-z0-9_*-]{4,}")
_REDACTED: Final = b"[redacted]"


class LiteLLMProvider:
    """ports.Provider over `litellm.acompletion` and `litellm.aembedding`."""

    def __init__(self, options: ProviderOptions, upstream: Upstream, meter_for: MeterFactory) -> None:
        if not is_installed():
            need = "kind litellm needs LiteLLM's library: pip install 'faregate[litellm]'"
            raise ConfigError(f"providers.{options.name}: {need}")
        self.name = options.name
        self.kind = options.kind
        self.on_disconnect = options.on_disconnect
        self.retries = options.retries
        self._options = options
        self._meter_for = meter_for
        self._vendors = cast(tuple[str, ...], options.own.get("vendors", ()))
        given = cast(Mapping[str, Secret], options.own.get("params", {}))
        self._params = {name: value.get_secret_value() for name, value in given.items()}
        self._secrets = [text.encode() for text in (options.api_key, *self._params.values()) if text and len(text) > 5]

    def serves(self, endpoint: str, model: str) -> bool:
        """Chat completions and embeddings of the vendors that are allowed; a name must not say where to go."""
        vendor, slash, _ = model.partition("/")
        allowed = not self._vendors or (bool(slash) and vendor in self._vendors)
        return endpoint in ("chat.completions", "embeddings") and allowed and "://" not in model

    async def send(self, call: Call, candidate: Candidate, output_cap: int | None) -> Answer:
        """Call the library. Raises UpstreamError or UpstreamTimeout when no response began, InvalidRequest before."""
        litellm = await asyncio.to_thread(load)
        ask = self._asked(call, candidate, output_cap)
        begun = asyncio.get_running_loop().time()
        import_module("litellm._internal_context").is_internal_call.set(True)  # of this call's task: no logging
        ask_it = litellm.aembedding if call.endpoint == "embeddings" else litellm.acompletion
        try:
            async with asyncio.timeout(self._options.timeouts.first_byte_s):
                answer = await ask_it(**ask)
        except TimeoutError:
            failure: FaregateError = UpstreamTimeout("the provider did not answer in time")
        except Exception as error:  # noqa: BLE001  # a library's: it may raise anything
            refused = refusal(litellm, error)
            if isinstance(refused, LibraryAnswer):
                return refused
            failure = refused
        else:
            if call.stream:
                return streamed(answer, self._options.timeouts, begun)
            return plain(answer)
        raise failure

    def meter(self, call: Call, answer: Answer) -> Meter:
        """Reads this answer's usage."""
        return meter_of(self._meter_for, self.kind, call, answer)

    def reply_headers(self, answer: Answer) -> dict[str, str]:
        """What there is of headers."""
        return passed_down(answer.headers)

    def redact(self, body: bytes) -> bytes:
        """An error body without the configured secrets, and without what looks like a vendor's key."""
        for secret in self._secrets:
            body = body.replace(secret, _REDACTED)
        return _SECRETS.sub(_REDACTED, body)

    # ----------------------------------------------------------------------------------------------------

    def _asked(self, call: Call, candidate: Candidate, output_cap: int | None) -> dict[str, Any]:
        """The library's arguments: the operator's, then the client's fields, then what must not be otherwise."""
        body = orjson.loads(call.raw_body)  # a copy: LiteLLM changes what it is given
        if call.endpoint == "embeddings":
            asked = chosen(body, EMBEDDING_FIELDS, frozenset())
        else:
            asked = {"messages": _messages(body), **chosen(body, CHAT_FIELDS, frozenset())}
            asked |= self._bounds(body, candidate, output_cap)
            _check_tools(asked.get("tools"))
            check_schemas(asked)
            if call.stream:
                asked |= {"stream": True, "stream_options": {"include_usage": True}}
        times = self._options.timeouts
        fixed = {
            "model": candidate.model,
            "api_key": self._options.api_key,
            "api_base": self._options.base_url,
            "timeout": httpx.Timeout(max(times.first_byte_s, times.idle_s), connect=times.connect_s),
            "num_retries": 0,
            "max_retries": 0,
            "caching": False,
        }
        return {**self._params, **asked, **{name: value for name, value in fixed.items() if value is not None}}

    def _bounds(self, body: Mapping[str, Any], candidate: Candidate, output_cap: int | None) -> dict[str, int]:
        """The bound in the fields the client used, else, when it was lowered, as `max_tokens`."""
        names = ("max_completion_tokens", "max_tokens")
        asked = {name: value for name in names if isinstance(value := body.get(name), int)}
        if output_cap is None:
            return asked
        if asked:
            return {name: min(value, output_cap) for name, value in asked.items()}
        return {"max_tokens": min(output_cap, candidate.card.max_output_tokens or output_cap)}


def _messages(body: Mapping[str, Any]) -> list[Any]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise InvalidRequest("messages must be a list of at least one message", param="messages")
    return messages


def _check_tools(tools: object) -> None:
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind not in _TOOLS:
            raise InvalidRequest(f"tools[{index}].type must be function or custom", param=f"tools[{index}].type")
