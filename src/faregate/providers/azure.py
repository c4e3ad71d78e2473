"""Kind `azure`: one Azure OpenAI resource.

A deployment's name stands in the URL (`/openai/deployments/<name>/…?api-version=…`) or, at v1, in the body's model;
it says nothing about the model, so the configuration maps one to the other. The wire is OpenAI's, errors included
(a filtered prompt is a 400 with code content_filter and passes as it is).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import quote, urlencode

from faregate.core.call import Call, Candidate
from faregate.ports import Answer, KeptVerb, Meter, Socket
from faregate.providers.entra import EntraTokens, default_credential
from faregate.providers.openai import (
    PATHS,
    MeterFactory,
    ProviderOptions,
    kept_path,
    meter_of,
    passed_down,
    passed_up,
    rewrite,
    without_secrets,
)
from faregate.providers.sockets import connect
from faregate.providers.upstream import Target, Upstream, prepare

_NOT_SERVED = frozenset({"moderations"})
_ALWAYS_V1 = frozenset({"responses"})
"""Paths that never had a deployment in them; at v1 they need no dated version."""
_USAGE_SINCE = "2024-09-01"
"""Older versions refuse `stream_options`, so nothing is asked for and a stream is charged as counted here."""
_REASONING = re.compile(r"(o[1-9](\b|-)|gpt-[5-9]|codex)")
"""Models that refuse `max_tokens`; the others know it in every version."""
_MOST_TARGETS = 1024


class AzureProvider:
    """ports.Provider for one Azure OpenAI resource."""

    def __init__(self, options: ProviderOptions, upstream: Upstream, meter_for: MeterFactory) -> None:
        """Raises ConfigError when Entra is configured without its library."""
        own = options.own
        self.name = options.name
        self.kind = options.kind
        self.on_disconnect = options.on_disconnect
        self.retries = options.retries
        self._timeouts = options.timeouts
        self._upstream = upstream
        self._meter_for = meter_for
        base_url = (options.base_url or "").rstrip("/")
        version = str(own["api_version"])
        self._version = "v1" if base_url.endswith("/openai/v1") else version
        self._base_url = base_url.removesuffix("/v1").removesuffix("/openai")
        self._deployments = _texts(own["deployments"])
        self._headers = {"accept": "*/*", "user-agent": "faregate"}
        self._secrets = [secret for secret in (options.api_key, _secret(own["entra_token"])) if secret]
        if options.api_key:
            self._headers["api-key"] = options.api_key
        elif self._secrets:
            self._headers["authorization"] = f"Bearer {self._secrets[0]}"
        self._entra: EntraTokens | None = None
        if own["entra"]:
            self._entra = EntraTokens(default_credential(options.name), str(own["entra_scope"]))
        self._targets: dict[tuple[str, str], Target] = {}
        self._target("chat.completions", "check")

    def serves(self, endpoint: str, model: str) -> bool:
        """What a resource can have; a deployment that would change the path is none."""
        return (
            (endpoint in PATHS or endpoint == "realtime")
            and endpoint not in _NOT_SERVED
            and bool(self._deployment(model).strip("."))
        )

    async def send(self, call: Call, candidate: Candidate, output_cap: int | None) -> Answer:
        """Send the call. Raises UpstreamError or UpstreamTimeout when no response began."""
        deployment = self._deployment(candidate.model)
        body = rewrite(
            call,
            replace(candidate, model=deployment),
            output_cap,
            "max_completion_tokens" if _REASONING.match(candidate.model) else "max_tokens",
            ask_usage=self._tells_usage(call),
        )
        headers = dict(passed_up(call))
        if self._entra is not None:
            headers["authorization"] = f"Bearer {await self._entra.get()}"
        answer = await self._upstream.post(self._target(call.endpoint, deployment), headers, body, self._timeouts)
        if answer.status == 401 and self._entra is not None:
            self._entra.refused()
        return answer

    async def kept(self, verb: KeptVerb, response_id: str, model: str, query: str) -> Answer:
        """Ask for a response that Azure keeps. Raises UpstreamError or UpstreamTimeout when no answer began."""
        method, path = kept_path(verb, response_id, query)
        headers = {}
        if self._entra is not None:
            headers["authorization"] = f"Bearer {await self._entra.get()}"
        target = prepare(f"{self._base_url}/openai/v1{path}", self._headers)
        return await self._upstream.request(method, target, headers, None, self._timeouts)

    async def talk(self, model: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Socket:
        """Open a realtime session, at the v1 URL. Raises UpstreamError, UpstreamTimeout."""
        asked = urlencode({**query, "model": self._deployment(model)})
        sent = dict(headers)
        if self._entra is not None:
            sent["authorization"] = f"Bearer {await self._entra.get()}"
        target = prepare(f"{self._base_url}/openai/v1/realtime?{asked}", self._headers)
        return await connect(self._upstream, target, sent, self._timeouts)

    def meter(self, call: Call, answer: Answer) -> Meter:
        """Reads this answer's usage."""
        return meter_of(self._meter_for, self.kind, call, answer)

    def reply_headers(self, answer: Answer) -> dict[str, str]:
        """The provider's headers that may reach the client."""
        headers = passed_down(answer.headers)
        gateways = answer.headers.get("apim-request-id")
        return headers if gateways is None else {**headers, "x-upstream-request-id": gateways}

    def redact(self, body: bytes) -> bytes:
        """An error body without the operator's key or token."""
        sent = self._entra.current if self._entra is not None else ""
        return without_secrets(body, sent.encode(), *(secret.encode() for secret in self._secrets))

    def _deployment(self, model: str) -> str:
        return self._deployments.get(model, model)

    def _tells_usage(self, call: Call) -> bool:
        """Whether a stream may be asked for its usage: not of old versions, nor with the operator's own data."""
        return self._version >= _USAGE_SINCE and "data_sources" not in call.body

    def _target(self, endpoint: str, deployment: str) -> Target:
        target = self._targets.get((endpoint, deployment))
        if target is None:
            if len(self._targets) >= _MOST_TARGETS:
                self._targets.clear()
            target = prepare(self._base_url + self._path(endpoint, deployment), self._headers)
            self._targets[endpoint, deployment] = target
        return target

    def _path(self, endpoint: str, deployment: str) -> str:
        if self._version == "v1" or endpoint in _ALWAYS_V1:
            return f"/openai/v1{PATHS[endpoint]}"
        return f"/openai/deployments/{quote(deployment, safe='')}{PATHS[endpoint]}?api-version={self._version}"


def _texts(value: object) -> Mapping[str, str]:
    assert isinstance(value, Mapping)
    return value


def _secret(value: object) -> str | None:
    if value is None:
        return None
    shown = getattr(value, "get_secret_value", None)
    assert shown is not None
    text: str = shown()
    return text
