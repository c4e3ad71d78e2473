"""Kind `anthropic`: Anthropic's messages, as they come from its own SDK or crossed over from a chat completion.

Of a native body only three things are ever changed: the model's name, `max_tokens` when the hold is less than the
worst case, and then a `thinking.budget_tokens` that would not fit below it. All else goes out byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import orjson

from faregate.core.call import Call, Candidate
from faregate.errors import ConfigError, InvalidRequest, UpstreamError
from faregate.ports import Answer, Meter
from faregate.providers.crossing import CrossedAnswer
from faregate.providers.crossing.anthropic import AnthropicCrossing, within
from faregate.providers.openai import MeterFactory, ProviderOptions, as_read
from faregate.providers.upstream import Target, Upstream, prepare

ANTHROPIC_URL = "https://api.anthropic.com"
VERSION = "2023-06-01"
"""Sent when the client names none."""

MESSAGES = "messages"
PATHS: Mapping[str, str] = {MESSAGES: "/v1/messages", "messages.count_tokens": "/v1/messages/count_tokens"}

REQUEST_HEADERS = frozenset({"anthropic-version", "anthropic-beta", "idempotency-key"})
"""What of the client's headers goes upstream."""

_SECRETS = re.compile(rb"\bsk-ant-[A-Za-z0-9_*.-]{4,}")
_REDACTED = b"[redacted]"
_KEPT = frozenset({"content-type", "request-id", "retry-after", "x-should-retry"})


class AnthropicProvider:
    """ports.Provider for one base_url that speaks Anthropic's API."""

    def __init__(self, options: ProviderOptions, upstream: Upstream, meter_for: MeterFactory) -> None:
        self.name = options.name
        self.kind = options.kind
        self.on_disconnect = options.on_disconnect
        self.retries = options.retries
        self._timeouts = options.timeouts
        self._upstream = upstream
        self._meter_for = meter_for
        self._secret = (options.api_key or "").encode()
        self._crossing = AnthropicCrossing()
        self._targets = _targets(options)

    def serves(self, endpoint: str, model: str) -> bool:
        """Its own endpoints, and chat completions by translation."""
        return endpoint in PATHS or endpoint == "chat.completions"

    async def send(self, call: Call, candidate: Candidate, output_cap: int | None) -> Answer:
        """Send the call. Raises UpstreamError or UpstreamTimeout when no response began, InvalidRequest."""
        if call.endpoint in PATHS:
            return await self._post(call, call.endpoint, passed_up(call), rewrite(call, candidate, output_cap))
        if call.endpoint != "chat.completions":
            raise UpstreamError(f"the provider {self.name!r} does not serve {call.endpoint}")
        crossed = await self._crossing.request(call, candidate, output_cap)
        headers = {**passed_up(call), **{k: v for k, v in crossed.headers.items() if k in REQUEST_HEADERS}}
        return CrossedAnswer(await self._post(call, MESSAGES, headers, orjson.dumps(crossed.body)), crossed)

    def meter(self, call: Call, answer: Answer) -> Meter:
        """Anthropic's own bytes are read, whatever language the client is answered in."""
        stream = is_stream(call, answer)
        if isinstance(answer, CrossedAnswer):
            translator = self._crossing.translator(call, answer, self.redact)
            return self._meter_for(self.kind, MESSAGES, stream=stream, translator=translator)
        return self._meter_for(self.kind, call.endpoint, stream=stream, wants_cost=call.wants_cost)

    def reply_headers(self, answer: Answer) -> dict[str, str]:
        """The provider's headers that may reach the client: not its rate limits, not the operator's organization."""
        kept = {name: value for name, value in answer.headers.items() if name in _KEPT}
        if request_id := answer.headers.get("request-id"):
            kept["x-upstream-request-id"] = request_id
        return kept

    def redact(self, body: bytes) -> bytes:
        """An error body without the operator's key, whole or in part."""
        if self._secret:
            body = body.replace(self._secret, _REDACTED)
        return _SECRETS.sub(_REDACTED, body)

    async def _post(self, call: Call, endpoint: str, headers: Mapping[str, str], body: bytes) -> Answer:
        target = self._targets[endpoint, call.query.get("beta") == "true"]
        return await self._upstream.post(target, headers, body, self._timeouts)


def is_stream(call: Call, answer: Answer) -> bool:
    """By what really came: an error answers a stream's request with plain JSON."""
    named = answer.headers.get("content-type", "").lower().startswith("text/event-stream")
    return answer.status < 400 and (call.stream or named)


def rewrite(call: Call, candidate: Candidate, output_cap: int | None) -> bytes:
    """The native body to send. Raises InvalidRequest when thinking does not fit under the cap."""
    body = call.body
    changes: dict[str, object] = {}
    if body.get("model") != candidate.model:
        changes["model"] = candidate.model
    if output_cap is not None:
        changes.update(capped(body, output_cap))
    return orjson.dumps({**body, **changes}) if changes else as_read(call.raw_body, body)


def capped(body: Mapping[str, object], output_cap: int) -> dict[str, object]:
    """The fields of a native body that a lower bound changes. Raises InvalidRequest when thinking does not fit."""
    asked = body.get("max_tokens")
    most = min(asked, output_cap) if isinstance(asked, int) else output_cap
    if "thinking" not in body:
        return {"max_tokens": most}
    thinking = within(body["thinking"], most)
    if thinking is None:
        raise InvalidRequest(f"{most} tokens of output leave no room for thinking", param="thinking")
    return {"max_tokens": most, "thinking": thinking}


def passed_up(call: Call) -> dict[str, str]:
    """The client's headers that go upstream."""
    headers = {name: value for name, value in call.forward_headers.items() if name in REQUEST_HEADERS}
    headers.setdefault("anthropic-version", VERSION)
    if call.idempotency_key is not None:
        headers["idempotency-key"] = call.idempotency_key
    return headers


def _targets(options: ProviderOptions) -> dict[tuple[str, bool], Target]:
    """By endpoint, and by whether `?beta=true` goes along."""
    base_url = (options.base_url or ANTHROPIC_URL).rstrip("/").removesuffix("/v1")
    if not base_url.startswith(("http://", "https://")):
        raise ConfigError(f"providers.{options.name}.base_url must be an http or https URL")
    headers = {"content-type": "application/json", "accept": "*/*", "user-agent": "faregate"}
    if options.api_key:
        headers["x-api-key"] = options.api_key
    return {
        (endpoint, beta): prepare(f"{base_url}{path}{'?beta=true' if beta else ''}", headers)
        for endpoint, path in PATHS.items()
        for beta in (False, True)
    }
