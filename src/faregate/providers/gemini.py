"""Kind `gemini`: Google's own API.

native      generatecontent, counttokens, embedcontent, batchembedcontents: byte for byte
compat      chat.completions           Google's OpenAI endpoint, where that loses nothing (`crossing/gemini_compat.py`)
            embeddings
crossed     chat.completions           Gemini's own wire, translated (`crossing/gemini.py`)

Three things of a native body are ever changed: `model` is taken out (the path names it), `maxOutputTokens` is lowered
when the hold is less than the worst case, and a doubled key is sent once. Everything else goes out byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import quote, urlsplit

import orjson

from faregate.core.asks.gemini import config_of, name_in
from faregate.core.call import Call, Candidate
from faregate.errors import ConfigError, InvalidRequest
from faregate.ports import Answer, Meter, Translator
from faregate.providers.blame import reword
from faregate.providers.crossing import CrossedAnswer
from faregate.providers.crossing import gemini_compat as compat
from faregate.providers.crossing.gemini import GeminiCrossing
from faregate.providers.openai import MeterFactory, ProviderOptions, as_read, passed_down
from faregate.providers.upstream import Target, Upstream, prepare

GEMINI_URL = "https://generativelanguage.googleapis.com"

METHODS: Mapping[str, str] = {
    "generatecontent": "generateContent",
    "counttokens": "countTokens",
    "embedcontent": "embedContent",
    "batchembedcontents": "batchEmbedContents",
}
"""Google's own, by endpoint."""
SERVED = frozenset({*METHODS, "chat.completions", "embeddings"})
_KEY_REFUSED = b"API_KEY_INVALID"
_SECRETS = re.compile(rb"\b(?:AIza[A-Za-z0-9_*-]{4,}|projects/[A-Za-z0-9-]+|project_number:\d+)")
"""Keys, and the names of the operator's project, which refusals quote."""
_REDACTED = b"[redacted]"
_KEPT = frozenset({"x-gemini-service-tier", "server-timing"})
_MOST_TARGETS = 1024


class GeminiProvider:
    """ports.Provider for Google's Gemini API."""

    def __init__(self, options: ProviderOptions, upstream: Upstream, meter_for: MeterFactory) -> None:
        self.name = options.name
        self.kind = options.kind
        self.on_disconnect: Literal["drain", "cancel"] = options.on_disconnect
        self.retries = options.retries
        self._timeouts = options.timeouts
        self._upstream = upstream
        self._meter_for = meter_for
        self._secret = (options.api_key or "").encode()
        self._base_url = _base_url(options)
        self._key = {"x-goog-api-key": options.api_key} if options.api_key else {}
        self._bearer = {"authorization": f"Bearer {options.api_key}"} if options.api_key else {}
        """Google's OpenAI endpoint takes it so; both at once are refused."""
        self._targets: dict[str, Target] = {}
        self._crossing = GeminiCrossing()
        self._target("models/any:generateContent")  # What is wrong with the key or the URL shows at the start.

    def serves(self, endpoint: str, model: str) -> bool:
        """Google's own wire, and OpenAI's chat completions and embeddings in front of it."""
        return endpoint in SERVED

    async def send(self, call: Call, candidate: Candidate, output_cap: int | None) -> Answer:
        """Send the call. Raises UpstreamError or UpstreamTimeout when no response began, InvalidRequest before."""
        crossed = None
        if call.endpoint == "embeddings":
            place, body = _EMBEDDINGS, compat.embeddings_body(call, candidate)
        elif call.endpoint in METHODS:
            place, body = _place(call, candidate, events="alt" in call.query), rewrite(call, candidate, output_cap)
        elif compat.loses_nothing(call, candidate):
            place, body = _CHAT, compat.chat_body(call, candidate, output_cap)
        else:
            crossed = await self._crossing.request(call, candidate, output_cap)
            place, body = _place(call, candidate, events=True), orjson.dumps(crossed.body)
        sent = await self._upstream.post(self._target(place), _NO_HEADERS, body, self._timeouts)
        answer = await reword(sent, _KEY_REFUSED)
        return CrossedAnswer(answer, crossed) if crossed is not None else answer

    def meter(self, call: Call, answer: Answer) -> Meter:
        """Reads Google's own bytes; what the client gets is said in its dialect."""
        stream = call.stream and answer.status < 400
        if call.endpoint in METHODS:
            framing = "json-array" if stream and "alt" not in call.query else None
            return self._meter_for(
                self.kind,
                call.endpoint,
                stream=stream,
                wants_cost=call.wants_cost,
                request=call.body,
                framing=framing,
            )
        if isinstance(answer, CrossedAnswer):
            translator: Translator = self._crossing.translator(call, answer, self.redact)
            return self._meter_for(self.kind, "generatecontent", stream=stream, translator=translator)
        translator = compat.CompatTranslator(call, answer.status, self.redact)
        return self._meter_for(self.kind, call.endpoint, stream=stream, translator=translator)

    def reply_headers(self, answer: Answer) -> dict[str, str]:
        """The provider's headers that may reach the client."""
        own = {name: value for name, value in answer.headers.items() if name in _KEPT}
        return passed_down(answer.headers) | own

    def redact(self, body: bytes) -> bytes:
        """An error body without the operator's key and project."""
        if self._secret:
            body = body.replace(self._secret, _REDACTED)
        return _SECRETS.sub(_REDACTED, body)

    def _target(self, place: str) -> Target:
        """Kept, up to a bound: models have any name, and clients may make them up."""
        found = self._targets.get(place)
        if found is None:
            if len(self._targets) >= _MOST_TARGETS:
                self._targets.clear()
            key = self._bearer if place.startswith("openai/") else self._key
            found = self._targets[place] = prepare(f"{self._base_url}/v1beta/{place}", {**_HEADERS, **key})
        return found


_HEADERS = {"content-type": "application/json", "accept": "*/*", "user-agent": "faregate"}
_NO_HEADERS: Mapping[str, str] = {}
_CHAT = "openai/chat/completions"
_EMBEDDINGS = "openai/embeddings"


def _place(call: Call, candidate: Candidate, *, events: bool) -> str:
    """`models/<name>:<method>`; the name as one segment of the path, so that it stays one."""
    verb = "streamGenerateContent" if call.stream else METHODS.get(call.endpoint, "generateContent")
    query = "?alt=sse" if call.stream and events else ""
    return f"models/{quote(candidate.model, safe='')}:{verb}{query}"


def rewrite(call: Call, candidate: Candidate, output_cap: int | None) -> bytes:
    """The body to send; `output_cap` is the number to send, already divided by candidateCount."""
    body = dict(call.body)
    body.pop("model", None)
    if call.endpoint == "batchembedcontents":
        body["requests"] = [_named(request, candidate) for request in _requests(body)]
    inner = body.get(name_in(body, "generateContentRequest"))
    if call.endpoint == "counttokens" and isinstance(inner, dict):
        body[name_in(body, "generateContentRequest")] = _named(inner, candidate)
    if output_cap is not None:
        body[name_in(body, "generationConfig")] = _capped(config_of(body), candidate, output_cap)
    return orjson.dumps(body) if body != call.body else as_read(call.raw_body, body)


def _requests(body: Mapping[str, object]) -> list[object]:
    """A batch's requests. Raises InvalidRequest."""
    requests = body.get("requests")
    if not isinstance(requests, list):
        raise InvalidRequest("requests must be a list", param="requests")
    return requests


def _named(request: object, candidate: Candidate) -> object:
    """With the model that the path names, which each request of a batch repeats."""
    return {**request, "model": f"models/{candidate.model}"} if isinstance(request, dict) else request


def _capped(config: Mapping[str, object], candidate: Candidate, output_cap: int) -> dict[str, object]:
    name = name_in(config, "maxOutputTokens")
    asked = config.get(name)
    # A bound above the model's own maximum would be refused.
    most = asked if isinstance(asked, int) else candidate.card.max_output_tokens or output_cap
    return {**config, name: min(most, output_cap)}


def _base_url(options: ProviderOptions) -> str:
    base_url = (options.base_url or GEMINI_URL).rstrip("/").removesuffix("/v1beta")
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"providers.{options.name}.base_url must be an http or https URL")
    return base_url
