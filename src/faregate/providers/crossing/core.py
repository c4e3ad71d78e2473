"""A request crosses: from a chat completion to what one provider wants, by LiteLLM's class for it, in a thread."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import orjson

from faregate.core.call import Call, Candidate
from faregate.errors import FaregateError, InvalidRequest
from faregate.ports import Answer
from faregate.providers.crossing.answers import ChatTranslator
from faregate.providers.crossing.library import chat_config
from faregate.providers.crossing.params import check_fields, chosen, field_in, in_plain_words, messages_of
from faregate.providers.crossing.schemas import check_schemas

_CANNOT = "the request cannot be translated for this model's provider"
_ITS_OWN = re.compile(r"litellm\.\w+: |,? ?(To drop |Either provide one, or set |Received Messages).*")
"""LiteLLM's names for things, and its advice to those who set it up."""

Parser = Callable[[str, Any], Any]

DEFAULT_MAX_TOKENS = 4096
"""The output bound for providers that must have one, when neither client nor price card names any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossed:
    """A request in the provider's words."""

    body: dict[str, Any]
    headers: Mapping[str, str]
    """What LiteLLM wants sent beside it (betas): for the provider to pick from."""
    config: Any
    """LiteLLM's transformation object; with what follows, it reads the answer, too."""
    model: str
    messages: list[Any]
    optional_params: dict[str, Any] = field(default_factory=dict)
    litellm_params: dict[str, Any] = field(default_factory=dict)

    @property
    def json_mode(self) -> bool:
        """A schema was asked for that the provider is given as a tool."""
        return self.optional_params.get("json_mode") is True


class CrossedAnswer:
    """ports.Answer that remembers how its request was said."""

    def __init__(self, answer: Answer, crossed: Crossed) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.crossed = crossed
        self._answer = answer

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        return self._answer.chunks()

    def touch(self) -> None:
        """A real event has passed."""
        self._answer.touch()

    def abort(self) -> None:
        """Stop now."""
        self._answer.abort()

    async def close(self) -> None:
        """Give the connection back."""
        await self._answer.close()


class Crossing:
    """One provider's language. A subclass says what LiteLLM's class for it leaves open."""

    library_name = ""
    """LiteLLM's name of the provider."""
    extras: frozenset[str] = frozenset()
    """Fields of the provider's own that clients may send beside OpenAI's."""
    parts: frozenset[str] | None = None
    """The types of content that the provider has words for; others LiteLLM might leave out. None: any."""

    async def request(self, call: Call, candidate: Candidate, output_cap: int | None) -> Crossed:
        """The call in the provider's words. Raises InvalidRequest naming the field that cannot be said."""
        return await asyncio.to_thread(self._request, call, candidate, output_cap)

    def translator(self, call: Call, answer: CrossedAnswer, redact: Callable[[bytes], bytes]) -> ChatTranslator:
        """For this answer's way back."""
        return ChatTranslator(self, call, answer.crossed, answer.status, redact)

    # What a provider may say otherwise ------------------------------------------------------------------

    def config(self, model: str) -> Any:
        """LiteLLM's transformation class for a model. Blocking."""
        return chat_config(self.library_name, model)

    def bound(self, call: Call, candidate: Candidate, output_cap: int | None) -> int | None:
        """The output bound to send; None: none."""
        names = ("max_completion_tokens", "max_tokens")
        asked = [value for name in names if isinstance(value := call.body.get(name), int)]
        own = max(asked, default=candidate.card.max_output_tokens)
        return own if output_cap is None else min(output_cap, own or output_cap)

    def library_params(self, call: Call) -> dict[str, Any]:
        """What LiteLLM's class wants to know beside the request (a region)."""
        return {}

    def finished(self, body: dict[str, Any], call: Call) -> dict[str, Any]:
        """The body as LiteLLM made it, ready to be sent."""
        return body

    def parser(self, crossed: Crossed) -> Parser:
        """For one answer: (event's name, its JSON) to LiteLLM's chunk, or None for what says nothing."""
        iterator = crossed.config.get_model_response_iterator(
            streaming_response=iter(()), sync_stream=True, json_mode=crossed.json_mode
        )
        return lambda _, value: iterator.chunk_parser(value)

    def cleaned(self, answer: Any) -> Any:
        """A whole answer without what LiteLLM would trip over."""
        return answer

    def error(self, value: Any) -> tuple[str, str | None] | None:
        """(message, type) when an event or body is the provider's error."""
        said = value.get("error") if isinstance(value, dict) else None
        if not said:
            return None
        if not isinstance(said, dict):
            return str(said), None
        kind = said.get("type") or said.get("status") or said.get("code")
        return str(said.get("message") or "the provider failed"), str(kind) if kind is not None else None

    def whole(self, crossed: Crossed, data: bytes) -> Any:
        """Reads a whole answer into LiteLLM's. `data` has been through `cleaned`."""
        httpx, litellm = import_module("httpx"), import_module("litellm")
        return crossed.config.transform_response(
            model=crossed.model,
            raw_response=httpx.Response(200, content=data, request=httpx.Request("POST", "http://provider.invalid")),
            model_response=litellm.ModelResponse(),
            logging_obj=_NoLog(),
            request_data=crossed.body,
            messages=crossed.messages,
            optional_params=crossed.optional_params,
            litellm_params=crossed.litellm_params,
            encoding=None,
            json_mode=crossed.json_mode,
        )

    # ----------------------------------------------------------------------------------------------------

    def _request(self, call: Call, candidate: Candidate, output_cap: int | None) -> Crossed:
        body = orjson.loads(call.raw_body)  # a copy: LiteLLM changes what it is given
        messages = in_plain_words(messages_of(body, self.parts))
        check_fields(body)
        check_schemas(body)
        config = self.config(candidate.model)
        with _OwnWords(body.keys()):
            supported = frozenset(config.get_supported_openai_params(model=candidate.model))
            params = chosen(body, supported, self.extras)
            extras = {name: params.pop(name) for name in self.extras - supported if name in params}
            if (most := self.bound(call, candidate, output_cap)) is not None:
                params["max_tokens"] = most
            optional = config.map_openai_params(
                non_default_params=params, optional_params={}, model=candidate.model, drop_params=False
            )
            optional.update(extras)
            library_params = self.library_params(call)
            headers: dict[str, str] = {}
            made = config.transform_request(
                model=candidate.model,
                messages=messages,
                optional_params={name: value for name, value in optional.items() if name != "json_mode"},
                litellm_params=library_params,
                headers=headers,
            )
        crossed = Crossed(
            body=self.finished(made, call),
            headers=headers,
            config=config,
            model=candidate.model,
            messages=messages,
            optional_params=optional,
            litellm_params=library_params,
        )
        if call.stream:
            self.parser(crossed)  # what reading the answer needs is loaded here, in the thread
        return crossed


class _NoLog:
    """LiteLLM's logging object, without a log: bodies are nobody's business."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class _OwnWords:
    """Whatever LiteLLM raises for what it does not understand, in our words: its own speak of its settings."""

    def __init__(self, fields: Iterable[str]) -> None:
        self._fields = fields

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None or isinstance(error, FaregateError) or not isinstance(error, Exception):
            return
        if isinstance(error, LookupError | TypeError | AttributeError):  # it tripped: its words would tell nobody
            raise InvalidRequest(f"{_CANNOT}: something in it has not the shape that the API asks for") from None
        said = _ITS_OWN.sub("", str(error).strip().partition("\n")[0])[:300].strip()
        raise InvalidRequest(f"{_CANNOT}: {said}", param=field_in(said, self._fields)) from None
