"""Kind `openai`: OpenAI itself and every server that speaks its wire.

Only three things of a body are ever changed: the model's name, the output bound (when the hold is less than
the worst case) and `stream_options.include_usage`. A body that needs none of them goes out byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol
from urllib.parse import quote, urlencode, urlsplit

import orjson

from faregate.core.call import Call, Candidate, Form
from faregate.errors import ConfigError, UpstreamError
from faregate.ports import Answer, KeptVerb, Meter, Socket, Timeouts, Translator
from faregate.providers.sockets import connect
from faregate.providers.upstream import Target, Upstream, prepare

OPENAI_URL = "https://api.openai.com/v1"

PATHS: Mapping[str, str] = {
    "chat.completions": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "responses": "/responses",
    "moderations": "/moderations",
    "audio.transcriptions": "/audio/transcriptions",
    "audio.translations": "/audio/translations",
    "audio.speech": "/audio/speech",
    "images.generations": "/images/generations",
    "images.edits": "/images/edits",
}

KEPT: Mapping[KeptVerb, tuple[str, str]] = {
    "get": ("GET", ""),
    "input_items": ("GET", "/input_items"),
    "cancel": ("POST", "/cancel"),
    "delete": ("DELETE", ""),
}
"""What can be asked of a response that is kept: method, and path after its id."""

_TAKES_STREAM_OPTIONS = frozenset({"chat.completions", "completions"})
_SAYS_WHETHER_STREAM = frozenset({"audio.transcriptions", "audio.translations", "audio.speech"})
"""Endpoints with models that do not stream even when asked to: the content type tells."""

REQUEST_HEADERS = frozenset({"content-type", "accept", "openai-beta", "idempotency-key"})
"""What of the client's headers goes upstream: not organization and project, which belong to the operator's key."""

_SECRETS = re.compile(rb"\b(?:sk-|org-|proj_|xai-|AIza)[A-Za-z0-9_*-]{4,}")
"""OpenAI's 401 quotes the ends of a key, its 429 names the organization; xAI's and Google's keys begin otherwise."""
_REDACTED = b"[redacted]"

_KEPT = frozenset({"content-type", "retry-after", "retry-after-ms", "x-should-retry"})
_OPERATORS_OWN = frozenset({"openai-organization", "openai-project"})


class MeterFactory(Protocol):
    """`faregate.meter.meter_for`: injected, since stages do not import one another."""

    def __call__(
        self,
        kind: str,
        endpoint: str,
        *,
        stream: bool,
        drop_usage_chunk: bool = False,
        wants_cost: bool = False,
        model: str = "",
        request: Mapping[str, object] | None = None,
        framing: str | None = None,
        translator: Translator | None = None,
    ) -> Meter: ...


class Secret(Protocol):
    """A value that does not print itself (pydantic.SecretStr)."""

    def get_secret_value(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderOptions:
    """What every kind is configured with."""

    name: str
    kind: str
    base_url: str | None = None
    api_key: str | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    retries: int = 2
    on_disconnect: Literal["drain", "cancel"] = "drain"
    own: Mapping[str, object] = field(default_factory=dict)
    """The keys that only this kind has."""


class OpenAIProvider:
    """ports.Provider for one OpenAI-compatible base_url. Kinds that speak the same wire say what is theirs."""

    URL: ClassVar[str] = OPENAI_URL
    """Where the API begins unless the configuration says otherwise."""
    PATHS: ClassVar[Mapping[str, str]] = PATHS
    """What is served, and where beneath the base_url."""

    def __init__(self, options: ProviderOptions, upstream: Upstream, meter_for: MeterFactory) -> None:
        self.name = options.name
        self.kind = options.kind
        self.on_disconnect = options.on_disconnect
        self.retries = options.retries
        self._timeouts = options.timeouts
        self._upstream = upstream
        self._meter_for = meter_for
        self._secret = (options.api_key or "").encode()
        base_url = self._base_url = (options.base_url or self.URL).rstrip("/")
        self._headers = _headers(options)
        self._cap_field = _cap_field(options.name, base_url)
        self._targets = {path: prepare(base_url + path, self._headers) for path in self.PATHS.values()}

    def serves(self, endpoint: str, model: str) -> bool:
        """Whatever it is asked for, as far as there is a path for it."""
        return endpoint in self.PATHS or (endpoint == "realtime" and self.kind == "openai")

    async def send(self, call: Call, candidate: Candidate, output_cap: int | None) -> Answer:
        """Send the call. Raises UpstreamError or UpstreamTimeout when no response began."""
        body = rewrite(call, candidate, output_cap, self._cap_field)
        return await self._upstream.post(self._target(call.endpoint), passed_up(call), body, self._timeouts)

    async def kept(self, verb: KeptVerb, response_id: str, model: str, query: str) -> Answer:
        """Ask for a response that OpenAI keeps. Raises UpstreamError or UpstreamTimeout when no answer began."""
        method, path = kept_path(verb, response_id, query)
        target = prepare(self._base_url + path, self._headers)
        return await self._upstream.request(method, target, {}, None, self._timeouts)

    async def talk(self, model: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Socket:
        """Open a realtime session. Raises UpstreamError, UpstreamTimeout."""
        target = prepare(f"{self._base_url}/realtime?{urlencode({**query, 'model': model})}", self._headers)
        return await connect(self._upstream, target, headers, self._timeouts)

    def meter(self, call: Call, answer: Answer) -> Meter:
        """Reads this answer's usage."""
        return meter_of(self._meter_for, self.kind, call, answer)

    def reply_headers(self, answer: Answer) -> dict[str, str]:
        """The provider's headers that may reach the client."""
        return passed_down(answer.headers)

    def redact(self, body: bytes) -> bytes:
        """An error body without the operator's key, whole or half masked, and without organization ids."""
        return without_secrets(body, self._secret)

    def _target(self, endpoint: str) -> Target:
        path = self.PATHS.get(endpoint)
        if path is None:
            raise UpstreamError(f"the provider {self.name!r} does not serve {endpoint}")
        return self._targets[path]


def without_secrets(body: bytes, *secrets: bytes) -> bytes:
    """A body without these, and without what looks like a key or an organization's id."""
    for secret in secrets:
        if secret:
            body = body.replace(secret, _REDACTED)
    return _SECRETS.sub(_REDACTED, body)


def kept_path(verb: KeptVerb, response_id: str, query: str) -> tuple[str, str]:
    """Method and path (with its query) of a question about a response that is kept."""
    method, tail = KEPT[verb]
    return method, f"/responses/{quote(response_id, safe='')}{tail}" + (f"?{query}" if query else "")


def meter_of(meter_for: MeterFactory, kind: str, call: Call, answer: Answer) -> Meter:
    """A meter by what really came: an error answers a stream's request with plain JSON.

    Not every server names its stream `text/event-stream`; the stream's meter knows JSON when it sees it.
    The usage chunk that we asked for in the client's stead is taken out again.
    """
    kind_of_body = answer.headers.get("content-type", "").lower()
    named = kind_of_body.startswith("text/event-stream")
    stream = answer.status < 400 and (named or (call.stream and call.endpoint not in _SAYS_WHETHER_STREAM))
    sound = answer.status < 400 and call.endpoint == "audio.speech" and not kind_of_body.startswith("application/json")
    return meter_for(
        kind,
        call.endpoint,
        stream=stream,
        drop_usage_chunk=stream and not call.wants_usage,
        wants_cost=call.wants_cost,
        request=call.body,
        framing="binary" if sound and not stream else None,
    )


def rewrite(
    call: Call,
    candidate: Candidate,
    output_cap: int | None,
    cap_field: str = "max_tokens",
    *,
    ask_usage: bool = True,
) -> bytes:
    """The body to send; `output_cap` is the number to send, already divided by n or best_of."""
    body = call.body
    if call.form is not None:
        return _renamed(call.raw_body, call.form, candidate.model)
    changes: dict[str, object] = {}
    if body.get("model") != candidate.model:
        changes["model"] = candidate.model
    if output_cap is not None:
        changes.update(_capped(call, candidate, output_cap, cap_field))
    if ask_usage and call.stream and not call.wants_usage and call.endpoint in _TAKES_STREAM_OPTIONS:
        changes["stream_options"] = _with_usage(body.get("stream_options"))
    if changes:
        return orjson.dumps({**body, **changes})
    return as_read(call.raw_body, body)


def as_read(raw: bytes, body: Mapping[str, object]) -> bytes:
    """The bytes as they came, unless a key is doubled in them: we read the last one, the provider may read the first.

    Every name has two quotes, so whatever was dropped when `raw` was read shows in their number.
    """
    once = orjson.dumps(body)
    return raw if raw.count(b'"') + raw.count(b"\\u0022") == once.count(b'"') else once


_CAP_FIELDS = {"chat.completions": ("max_completion_tokens", "max_tokens"), "responses": ("max_output_tokens",)}


def _renamed(raw: bytes, form: Form, model: str) -> bytes:
    """A form with the provider's name for the model in it, and all else as it came."""
    start, end = form.model_at
    name = model.encode()
    return raw if raw[start:end] == name else raw[:start] + name + raw[end:]


def _capped(call: Call, candidate: Candidate, output_cap: int, cap_field: str) -> dict[str, object]:
    """The bound in the field the client used (old servers know only `max_tokens`), else the provider's own."""
    chat = call.endpoint == "chat.completions"
    names = _CAP_FIELDS.get(call.endpoint, ("max_tokens",))
    asked = {name: value for name in names if isinstance(value := call.body.get(name), int)}
    if asked:
        return {name: min(value, output_cap) for name, value in asked.items()}
    # A bound above the model's own maximum would be refused.
    return {cap_field if chat else names[0]: min(output_cap, candidate.card.max_output_tokens or output_cap)}


def _with_usage(options: object) -> dict[str, object]:
    kept = options if isinstance(options, dict) else {}
    return {**kept, "include_usage": True}


def passed_up(call: Call) -> Mapping[str, str]:
    """The client's headers that go upstream. What is no form is JSON, whatever the client called it."""
    headers = {name: value for name, value in call.forward_headers.items() if name in REQUEST_HEADERS}
    if call.idempotency_key is not None:
        headers["idempotency-key"] = call.idempotency_key
    headers["content-type"] = call.content_type
    return headers


def passed_down(headers: Mapping[str, str]) -> dict[str, str]:
    """The provider's headers the client may see: not its rate limits (not ours), not the operator's names."""
    kept = {name: value for name, value in headers.items() if name in _KEPT or _is_openais(name)}
    request_id = headers.get("x-request-id")
    if request_id is not None:
        kept["x-upstream-request-id"] = request_id
    return kept


def _is_openais(name: str) -> bool:
    return name.startswith("openai-") and name not in _OPERATORS_OWN


def _headers(options: ProviderOptions) -> dict[str, str]:
    headers = {"content-type": "application/json", "accept": "*/*", "user-agent": "faregate"}
    if options.api_key:
        headers["authorization"] = f"Bearer {options.api_key}"
    return headers


def _cap_field(name: str, base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"providers.{name}.base_url must be an http or https URL")
    is_openai = parts.hostname == "api.openai.com" or parts.hostname.endswith(".api.openai.com")
    return "max_completion_tokens" if is_openai else "max_tokens"
