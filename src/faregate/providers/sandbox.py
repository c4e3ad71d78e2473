"""Kind `sandbox`: a pretend model inside the process, for demos, test keys and CI. Free of any network.

It speaks OpenAI's wire, Anthropic's messages and Gemini's own, with honest usage and is a pure function of the request:
the same body, the same bytes.
"Write 200 words" in the prompt gives 200 tokens (one word is one token); else the request's hash decides. Model
names with an effect: `sandbox-slow`, `sandbox-error-500`, `sandbox-error-429`, `sandbox-cut` (breaks off).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from typing import Literal

import orjson

from faregate.core.call import Call, Candidate
from faregate.core.price import PriceCard
from faregate.errors import UpstreamError
from faregate.ports import Answer, KeptVerb, Meter
from faregate.providers.anthropic import rewrite as rewrite_message
from faregate.providers.openai import PATHS, MeterFactory, ProviderOptions, meter_of, rewrite
from faregate.providers.pretend import pretend
from faregate.providers.pretend_gemini import ENDPOINTS as GEMINI
from faregate.providers.pretend_gemini import pretend_gemini
from faregate.providers.pretend_media import pretend_media
from faregate.providers.pretend_messages import ENDPOINTS as MESSAGES
from faregate.providers.pretend_messages import pretend_message
from faregate.providers.pretend_responses import pretend_kept, pretend_response
from faregate.providers.upstream import Upstream

KIND = "sandbox"

OPTIONS = ProviderOptions(name="sandbox", kind=KIND, retries=0)
"""The provider of test keys when the operator has configured none."""

CARD = PriceCard(
    id="sandbox",
    provider=KIND,
    model="*",
    rates={
        "input": Decimal("0.15").scaleb(-6),
        "cached_input": Decimal("0.075").scaleb(-6),
        "output": Decimal("0.60").scaleb(-6),
        "second": Decimal("0.0001"),
        "character": Decimal("0.000015"),
    },
    source="sandbox",
    display_name="Sandbox",
    context_window=1_000_000,
    max_output_tokens=16_384,
)
"""What the pretend model costs when no layer of the catalog says otherwise: gpt-4o-mini's rates of 2024."""

_FIRST_S = 0.2
_EACH_S = 0.02


class SandboxProvider:
    """ports.Provider without a network."""

    def __init__(self, options: ProviderOptions, upstream: Upstream, meter_for: MeterFactory) -> None:
        """`upstream` stays unused: nothing leaves the process."""
        self.name = options.name
        self.kind = KIND
        self.on_disconnect: Literal["drain", "cancel"] = options.on_disconnect
        self.retries = options.retries
        self._meter_for = meter_for

    def serves(self, endpoint: str, model: str) -> bool:
        """What there is a pretence for."""
        return endpoint in PATHS or endpoint in MESSAGES or endpoint in GEMINI

    async def send(self, call: Call, candidate: Candidate, output_cap: int | None) -> Answer:
        """Answer as its provider would, from the very body that would go upstream."""
        error = _asked_error(candidate.model)
        if error is not None:
            return error
        slow = candidate.model == "sandbox-slow"
        await asyncio.sleep(_FIRST_S if slow else 0)
        content_type, pieces = _answer(call, candidate, output_cap)
        return SandboxAnswer(
            200,
            {"content-type": content_type},
            pieces,
            each_s=_EACH_S if slow else 0.0,
            cut=candidate.model == "sandbox-cut",
        )

    async def kept(self, verb: KeptVerb, response_id: str, model: str, query: str) -> Answer:
        """A response that was made before; background ones are ready at once."""
        said = pretend_kept(verb, response_id, model)
        if said is None:
            return _error(404, "not_found", "no such response", {})
        return SandboxAnswer(200, _content_type(False), [said])

    def meter(self, call: Call, answer: Answer) -> Meter:
        """By the endpoint's own wire."""
        if call.endpoint in GEMINI:
            stream = call.stream and answer.status < 400
            framing = "json-array" if stream and "alt" not in call.query else None
            return self._meter_for(KIND, call.endpoint, stream=stream, wants_cost=call.wants_cost, framing=framing)
        return meter_of(self._meter_for, KIND, call, answer)

    def reply_headers(self, answer: Answer) -> dict[str, str]:
        """All of them: there is nobody's secret in here."""
        return dict(answer.headers)

    def redact(self, body: bytes) -> bytes:
        """Nothing to take out."""
        return body


class SandboxAnswer:
    """ports.Answer over pieces that are already there."""

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        pieces: list[bytes],
        *,
        each_s: float = 0.0,
        cut: bool = False,
    ) -> None:
        self.status = status
        self.headers = headers
        self._pieces = _half(pieces) if cut else pieces
        self._each_s = each_s
        self._cut = cut
        self._aborted = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """The pieces one by one; `sandbox-cut` raises UpstreamError half-way."""
        for piece in self._pieces:
            if self._each_s:
                await asyncio.sleep(self._each_s)
            if self._aborted:
                raise UpstreamError("the call was given up")
            yield piece
        if self._cut:
            raise UpstreamError("the provider's answer broke off")

    def abort(self) -> None:
        """The next piece is not given any more."""
        self._aborted = True

    def touch(self) -> None:
        """Nothing here falls silent."""

    async def close(self) -> None:
        """Nothing is open."""


def _answer(call: Call, candidate: Candidate, output_cap: int | None) -> tuple[str, list[bytes]]:
    """From the very body that would go upstream; of a form from its fields."""
    if call.endpoint in MESSAGES:
        asked = orjson.loads(rewrite_message(call, candidate, output_cap))
        return _content_type(call.stream)["content-type"], pretend_message(call.endpoint, asked)
    if call.endpoint in GEMINI:
        return pretend_gemini(call, candidate.model, output_cap)
    sent = call.body if call.form is not None else orjson.loads(rewrite(call, candidate, output_cap))
    media = pretend_media(call.endpoint, sent, call.form)
    if media is not None:
        return media.content_type, media.pieces
    pieces = pretend_response(sent) if call.endpoint == "responses" else pretend(call.endpoint, sent)
    return _content_type(call.stream)["content-type"], pieces


def _half(pieces: list[bytes]) -> list[bytes]:
    if len(pieces) == 1:
        return [pieces[0][: len(pieces[0]) // 2]]
    return pieces[: len(pieces) // 2]


def _content_type(stream: bool) -> dict[str, str]:
    return {"content-type": "text/event-stream; charset=utf-8" if stream else "application/json"}


def _error(status: int, code: str, message: str, headers: Mapping[str, str]) -> SandboxAnswer:
    error = {"message": message, "type": code, "param": None, "code": code}
    return SandboxAnswer(status, {**_content_type(False), **headers}, [orjson.dumps({"error": error})])


def _asked_error(model: str) -> SandboxAnswer | None:
    if model == "sandbox-error-500":
        return _error(500, "server_error", "the sandbox failed, as asked", {})
    if model == "sandbox-error-429":
        return _error(429, "rate_limit_exceeded", "the sandbox is busy, as asked", {"retry-after": "1"})
    return None
