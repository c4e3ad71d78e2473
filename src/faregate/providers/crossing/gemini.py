"""Gemini's own wire behind a chat completion: what its OpenAI endpoint would lose (`crossing/gemini_compat.py`).

What LiteLLM leaves open, and is closed here: its request is made without its own HTTP client and caches; media come as
data only; one choice at a time in streams; signatures of thoughts travel in the ids of tool calls; usage is never
taken from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import orjson

from faregate.core.call import Call, Candidate
from faregate.errors import InvalidRequest
from faregate.providers.crossing.core import Crossed, Crossing, Parser
from faregate.providers.crossing.library import chat_config, load

_NO_USAGE = {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0}
_TRANSFORMATION = "litellm.llms.vertex_ai.gemini.transformation"
_HANDLER = "litellm.llms.vertex_ai.gemini.vertex_and_google_ai_studio_gemini"
_PARTS = frozenset({"text", "image_url", "input_audio", "file", "refusal", "thinking"})
_BASE64 = r"[A-Za-z0-9+/_=\s-]+"
_DATA = re.compile(rf"data:[\w.+-]+/[\w.+-]+(;[\w=.+-]+)*;base64,{_BASE64}")
_SOUND = re.compile(_BASE64)
_MIME = re.compile(r"[\w.+-]{1,64}(/[\w.+-]{1,64})?")
_FORMAT = re.compile(r"(audio/)?[\w.+-]{1,32}")
"""LiteLLM looks for addresses anywhere in media, and asks Google about what it takes for one."""


class GeminiCrossing(Crossing):
    """Kind `gemini`."""

    library_name = "gemini"
    extras = frozenset({"thinking", "safety_settings", "top_k"})

    async def request(self, call: Call, candidate: Candidate, output_cap: int | None) -> Crossed:
        """As all do, after a look at what LiteLLM would fetch or mix up."""
        _check_messages(call.body.get("messages"))
        if call.stream and call.body.get("n") not in (None, 1):
            raise InvalidRequest("n must be 1 in a stream with these fields on this model's provider", param="n")
        return await super().request(call, candidate, output_cap)

    def config(self, model: str) -> Any:
        """LiteLLM's class, whose request is made by a function beside it."""
        return _Config(chat_config(self.library_name, model))

    def bound(self, call: Call, candidate: Candidate, output_cap: int | None) -> int | None:
        """Unset is the model's own maximum."""
        asked = [value for name in ("max_completion_tokens", "max_tokens") if (value := call.body.get(name))]
        return super().bound(call, candidate, output_cap) if asked or output_cap is not None else None

    def finished(self, body: dict[str, Any], call: Call) -> dict[str, Any]:
        """As LiteLLM made it, in plain types."""
        plain: dict[str, Any] = orjson.loads(orjson.dumps(body))
        return plain

    def parser(self, crossed: Crossed) -> Parser:
        """Over LiteLLM's iterator; usage comes from the meter."""
        iterator = import_module(_HANDLER).ModelResponseIterator(
            streaming_response=iter(()), sync_stream=True, logging_obj=_Log(crossed)
        )
        return lambda _, event: iterator.chunk_parser(_without_usage(event))

    def cleaned(self, answer: Any) -> Any:
        """Without usage, which is ours to read."""
        return {**answer, "usageMetadata": _NO_USAGE} if isinstance(answer, dict) else answer

    def whole(self, crossed: Crossed, data: bytes) -> Any:
        """Reads a whole answer into LiteLLM's."""
        httpx, litellm = import_module("httpx"), import_module("litellm")
        return crossed.config.transform_response(
            model=crossed.model,
            raw_response=httpx.Response(200, content=data, request=httpx.Request("POST", "http://provider.invalid")),
            model_response=litellm.ModelResponse(),
            logging_obj=_Log(crossed),
            request_data=crossed.body,
            messages=crossed.messages,
            optional_params=crossed.optional_params,
            litellm_params=crossed.litellm_params,
            encoding=None,
        )

    def error(self, value: Any) -> tuple[str, str | None] | None:
        """Google's Status, alone or in an array."""
        return super().error(value[0] if isinstance(value, list) and value else value)


class _Config:
    """LiteLLM's class with the request that it leaves to others."""

    def __init__(self, config: Any) -> None:
        self._config = config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)

    def transform_request(
        self,
        *,
        model: str,
        messages: list[Any],
        optional_params: dict[str, Any],
        litellm_params: dict[str, Any],
        headers: Mapping[str, str],
    ) -> dict[str, Any]:
        load()
        made: dict[str, Any] = import_module(_TRANSFORMATION).transform_request_body(
            messages=messages,
            model=model,
            optional_params=optional_params,
            custom_llm_provider="gemini",
            litellm_params=litellm_params,
            cached_content=None,
        )
        return made


class _Log:
    """LiteLLM's logging object, without a log: its readers look into the parameters of the call."""

    def __init__(self, crossed: Crossed) -> None:
        self.optional_params = crossed.optional_params
        self.litellm_params = crossed.litellm_params
        self.model_call_details: dict[str, Any] = {"optional_params": crossed.optional_params}
        self.litellm_call_id = ""

    def post_call(self, *_: object, **__: object) -> None:
        """Nothing: bodies are nobody's business."""


def _without_usage(event: Any) -> Any:
    return (
        {name: value for name, value in event.items() if name != "usageMetadata"} if isinstance(event, dict) else event
    )


def _check_messages(messages: object) -> None:
    """Of the parts, those that are data: LiteLLM would fetch what is named by an address."""
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict):
                _check_part(part, f"messages[{index}].content")


def _check_part(part: Mapping[str, Any], where: str) -> None:
    kind = part.get("type")
    if kind not in _PARTS:
        allowed = ", ".join(sorted(_PARTS))
        raise InvalidRequest(f"{where}: parts of this model's provider are of type {allowed}", param=where)
    value = part.get(kind)
    if kind == "image_url" and not _is_data(value.get("url") if isinstance(value, dict) else value):
        raise InvalidRequest(f"{where}: with these fields pictures must be data: URLs", param=where)
    if kind == "input_audio" and not _is_sound(value):
        raise InvalidRequest(f"{where}: input_audio must have data (base64) and a format", param=where)
    if kind == "file" and (not isinstance(value, dict) or not _is_data(value.get("file_data")) or "file_id" in value):
        raise InvalidRequest(f"{where}: this model's provider takes files as file_data, a data: URL, only", param=where)
    given = value.get("format") if isinstance(value, dict) else None
    if given is not None and not (isinstance(given, str) and _MIME.fullmatch(given)):
        raise InvalidRequest(f"{where}: format must be a MIME type", param=where)


def _is_data(url: object) -> bool:
    return isinstance(url, str) and _DATA.fullmatch(url) is not None


def _is_sound(value: object) -> bool:
    data, kind = (value.get("data"), value.get("format")) if isinstance(value, dict) else (None, None)
    is_data = isinstance(data, str) and _SOUND.fullmatch(data) is not None
    return is_data and isinstance(kind, str) and _FORMAT.fullmatch(kind) is not None
