"""Kind `bedrock`: Amazon Bedrock's runtime in one region.

way       asked at            goes to
converse  chat.completions    /model/{id}/converse, -stream: translated (`crossing/converse.py`)
openai    chat.completions    /openai/v1/chat/completions, as it came: the models of the family openai.*
invoke    messages            /model/{id}/invoke, -with-response-stream: Claude's own words (`bedrock_invoke.py`)

count     (count_tokens)      /model/{id}/count-tokens
native    converse, invoke    the same operation, as it came (`bedrock_native.py`)

Requests carry a Bedrock API key, or are signed (`aws_signing.py`). What is charged is always read from AWS's bytes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from importlib import import_module
from typing import Any, Final, Literal, Protocol, cast
from urllib.parse import quote

import orjson

from faregate.core.call import Call, Candidate
from faregate.errors import UpstreamError
from faregate.ports import Answer, Meter, Translator
from faregate.providers import bedrock_errors as errors
from faregate.providers import bedrock_invoke as invoke
from faregate.providers import bedrock_native as native
from faregate.providers.crossing import Crossed
from faregate.providers.crossing.converse import ConverseCrossing
from faregate.providers.openai import MeterFactory, ProviderOptions, Secret, meter_of, rewrite
from faregate.providers.upstream import Upstream, prepare

Way = Literal["converse", "openai", "invoke", "count", "native"]

_OPENAI: Final = re.compile(r"(?:^|[./])openai\.")
"""`openai.gpt-oss-120b-1:0`, `us.openai.…`, or the ARN of one."""
_CLAUDE: Final = re.compile(r"anthropic|claude|application-inference-profile/")
"""An application's own profile does not name its model: whoever asks at /v1/messages knows it."""
_ANTHROPICS: Final[Mapping[str, Way]] = {"messages": "invoke", "messages.count_tokens": "count"}
_STREAMS: Final = "application/vnd.amazon.eventstream"
_EVENTS: Final = "text/event-stream; charset=utf-8"
_OPENAI_PATH: Final = "/openai/v1/chat/completions"
_KEPT: Final = frozenset({"content-type", "retry-after"})
_REDACTED: Final = b"[redacted]"


class Signer(Protocol):
    """`aws_signing.Signer`, whose module loads botocore."""

    async def headers(self, url: str, headers: Mapping[str, str], body: bytes) -> dict[str, str]: ...

    def secrets(self) -> tuple[str, ...]: ...


class BedrockAnswer:
    """ports.Answer that remembers its request; its status is what the error amounts to."""

    def __init__(self, answer: Answer, way: Way, model: str, crossed: Crossed | None) -> None:
        self.status = errors.status_of(answer.status, answer.headers)
        self.headers: Mapping[str, str] = answer.headers
        self.way: Way = way
        self.model = model
        self.crossed = crossed
        self.touch = answer.touch
        self.abort = answer.abort
        self.close = answer.close
        self._answer = answer

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        return self._answer.chunks()


class BedrockProvider:
    """ports.Provider for one region, or for whoever speaks like it at `base_url`."""

    def __init__(self, options: ProviderOptions, upstream: Upstream, meter_for: MeterFactory) -> None:
        self.name = options.name
        self.kind = options.kind
        self.on_disconnect = options.on_disconnect
        self.retries = options.retries
        self._options = options
        self._upstream = upstream
        self._meter_for = meter_for
        self._region = str(options.own.get("region") or "us-east-1")
        self._chat = options.own.get("chat", "auto")
        self._base_url = (options.base_url or _url_of(self._region)).rstrip("/")
        self._crossing = ConverseCrossing(self._region)
        self._signer: Signer | None = None
        prepare(self._base_url, self._key())  # a key that no header can carry is told now

    def serves(self, endpoint: str, model: str) -> bool:
        """Chat completions and Bedrock's own operations of every model, Anthropic's messages of Claude."""
        return self._way(endpoint, model) is not None

    async def send(self, call: Call, candidate: Candidate, output_cap: int | None) -> Answer:
        """Send the call. Raises UpstreamError or UpstreamTimeout when no response began, InvalidRequest before."""
        way = self._way(call.endpoint, candidate.model)
        if way is None:
            raise UpstreamError(f"the provider {self.name!r} does not serve {call.endpoint}")
        crossed = await self._crossing.request(call, candidate, output_cap) if way == "converse" else None
        if crossed is not None:
            operation, body = "converse", orjson.dumps(crossed.body)
        elif way == "native":
            operation, body = call.endpoint, native.body_of(call, candidate, output_cap)
        elif way == "invoke":
            operation, body = "invoke", invoke.body_of(call, output_cap)
        elif way == "count":
            operation, body = "count-tokens", invoke.count_body_of(call)
        else:
            operation, body = "", rewrite(call, candidate, output_cap, "max_completion_tokens")
        url = self._base_url + (_path(candidate.model, operation, call.stream) if operation else _OPENAI_PATH)
        headers = native.headers_of(call) if way == "native" else {}
        return BedrockAnswer(await self._post(url, headers, body), way, candidate.model, crossed)

    def meter(self, call: Call, answer: Answer) -> Meter:
        """Reads AWS's own bytes; what the client gets is said in its dialect."""
        if not isinstance(answer, BedrockAnswer) or answer.way == "openai":
            return meter_of(self._meter_for, self.kind, call, answer)
        return self._meter_for(
            self.kind,
            call.endpoint if answer.way in ("native", "count") else answer.way,
            stream=call.stream and answer.status < 400,
            model=answer.model,
            translator=self._translator(call, answer),
        )

    def reply_headers(self, answer: Answer) -> dict[str, str]:
        """The provider's headers that may reach the client."""
        if isinstance(answer, BedrockAnswer) and answer.way == "native":
            return {
                name: value for name, value in answer.headers.items() if name in _KEPT or name.startswith("x-amzn-")
            }
        kept = {name: value for name, value in answer.headers.items() if name in _KEPT}
        if kept.get("content-type", "").startswith(_STREAMS):
            kept["content-type"] = _EVENTS
        request_id = answer.headers.get("x-amzn-requestid")
        if request_id is not None:
            kept["x-upstream-request-id"] = request_id
            if isinstance(answer, BedrockAnswer) and answer.way in ("invoke", "count"):
                kept["request-id"] = request_id
        return kept

    def redact(self, body: bytes) -> bytes:
        """An error body without keys and account numbers."""
        secrets = self._signer.secrets() if self._signer is not None else ()
        for secret in (self._options.api_key, *secrets):
            if secret:
                body = body.replace(secret.encode(), _REDACTED)
        return errors.redact(body)

    # ----------------------------------------------------------------------------------------------------

    def _way(self, endpoint: str, model: str) -> Way | None:
        if endpoint in _ANTHROPICS:
            return _ANTHROPICS[endpoint] if _CLAUDE.search(model) else None
        if endpoint in ("converse", "invoke"):
            return "native"
        if endpoint != "chat.completions":
            return None
        if self._chat == "auto":
            return "openai" if _OPENAI.search(model) else "converse"
        return "openai" if self._chat == "openai" else "converse"

    def _translator(self, call: Call, answer: BedrockAnswer) -> Translator | None:
        if answer.way == "native":
            return None
        if answer.crossed is not None:
            return self._crossing.translated(call, answer.crossed, answer.status, answer.headers)
        say = invoke.CountTranslator if answer.way == "count" else invoke.MessagesTranslator
        return say(answer.status, answer.headers, wants_cost=call.wants_cost)

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        key = self._key()
        sent = {**headers, **key} if key else await (await self._signed()).headers(url, headers, body)
        return await self._upstream.post(prepare(url, _HEADERS), sent, body, self._options.timeouts)

    def _key(self) -> dict[str, str]:
        key = self._options.api_key
        return {"authorization": f"Bearer {key}"} if key else {}

    async def _signed(self) -> Signer:
        """The signer; the first call loads botocore."""
        signer = self._signer
        if signer is None:
            module = await asyncio.to_thread(import_module, "faregate.providers.aws_signing")
            if (signer := self._signer) is None:
                signer = self._signer = cast(Signer, module.Signer(self._region, _keys(module, self._options.own)))
        return signer


_HEADERS: Final = {"content-type": "application/json", "accept": "*/*", "user-agent": "faregate"}


def _path(model: str, operation: str, stream: bool) -> str:
    """The model's id or ARN is one segment: its colons and slashes are encoded."""
    return f"/model/{quote(model, safe='-._~')}/{native.OPERATIONS.get((operation, stream), operation)}"


def _url_of(region: str) -> str:
    return f"https://bedrock-runtime.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


def _keys(module: Any, own: Mapping[str, object]) -> Any:
    """`AwsKeys` of the configuration."""
    names = ("access_key_id", "secret_access_key", "session_token")
    found = {name: cast(Secret, own[name]).get_secret_value() for name in names if own.get(name) is not None}
    return module.AwsKeys(profile=own.get("profile"), **found)
