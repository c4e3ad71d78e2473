"""Forwarding: candidates in order, each with its retries, until one answers; bytes pass through, the meter reads along.

Only while nothing was delivered may a call be tried again. Stopping early is always an abort of the answer: by the
heartbeat (the hold was lost) or by the client's leaving (policy `cancel`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from faregate.core.call import Call, Candidate, Estimate, Principal
from faregate.core.limits import rate_limit_headers
from faregate.core.money import credits
from faregate.core.truth import Outcome, progress_microcredits
from faregate.core.usage import Reading
from faregate.errors import InsufficientCredits, StoreUnavailable, UpstreamError
from faregate.held import Held
from faregate.ports import Answer, Clock, Estimator, Meter, Provider, Reply

_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_ELSEWHERE = frozenset({401, 402, 403, 404})
"""Refusals that are about this provider, not about the call: the next candidate may serve it."""
_MOST_WAITING = 64 * 1024
"""Bytes of comments that wait for the first event: until it is there, another provider may give the answer."""
_BACKOFF_S = 0.25
_BACKOFF_MOST_S = 4.0


@dataclass(slots=True, kw_only=True)
class Attempt:
    """The answer of one provider, as far as it has come."""

    candidate: Candidate
    provider: Provider
    answer: Answer
    meter: Meter
    cap: int | None
    client_gone: bool = False
    cut: bool = False
    """We stopped reading: the client left (policy `cancel`), or the hold was lost."""
    broke: UpstreamError | None = None
    unseen: bool = False
    """It broke before anything of it went to the client."""
    ended: Reading | None = None
    """What the meter said once the body had ended."""

    def reading(self) -> Reading:
        """What is known of it now."""
        return self.ended or self.meter.reading(self.answer.status, self.answer.headers)

    def outcome(self) -> Outcome:
        """How it stands."""
        return Outcome(
            status=self.answer.status,
            reading=self.reading(),
            broke=self.broke is not None,
            unseen=self.unseen,
            client_gone=self.client_gone,
            cut=self.cut,
        )

    def runs_on(self, call: Call) -> bool:
        """A background response whose end was not seen, if the provider has said its id."""
        if not call.background or self.answer.status >= 400:
            return False
        reading = self.reading()
        return reading.response_id is not None and not reading.complete

    def final(self) -> bool:
        """Not to be repeated: it succeeded, it is the call's own fault, or the provider counted something."""
        if self.cut or (self.broke is None and self.answer.status not in _RETRYABLE | _ELSEWHERE):
            return True
        usage = self.reading().usage
        return usage is not None and bool(usage.input_tokens or usage.output_tokens)


class _GivenUp:
    """The answer of a provider that we stopped waiting for: the request was sent, so its input counts."""

    status = 200
    headers: Mapping[str, str] = {}

    async def chunks(self) -> AsyncIterator[bytes]:
        nothing: tuple[bytes, ...] = ()
        for chunk in nothing:
            yield chunk

    def touch(self) -> None: ...

    def abort(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class Admission:
    """A call that is inside: what the later steps need to know of the earlier ones."""

    call: Call
    principal: Principal
    candidates: tuple[Candidate, ...]
    estimate: Estimate
    held: Held
    began: float
    attempt: Attempt | None = None
    """The attempt that may have to be charged."""


class Forwarder:
    """Sends admitted calls to their providers."""

    def __init__(self, *, providers: Mapping[str, Provider], estimator: Estimator, clock: Clock) -> None:
        self._providers = providers
        self._estimator = estimator
        self._clock = clock

    async def forward(self, inside: Admission, reply: Reply) -> Attempt:
        """Candidates in order, each with its retries, until one answers; only while nothing was delivered."""
        tries = self._tries(inside.candidates)
        while True:
            if inside.held.lost:
                raise StoreUnavailable("the hold of this call was lost", retry_after_s=1)
            candidate = tries.pop(0)
            result = await self._try(inside, candidate, reply)
            if isinstance(result, Attempt):
                if reply.started or result.final():
                    return result
                if result.answer.status in _ELSEWHERE:
                    tries = [later for later in tries if later is not candidate]
                if not tries and result.broke is None:
                    return result
            if not tries:
                raise result if isinstance(result, UpstreamError) else result.broke or UpstreamError("no answer")
            inside.attempt = None
            if tries[0] is candidate:
                await asyncio.sleep(_backoff_s(result))

    async def _try(self, inside: Admission, candidate: Candidate, reply: Reply) -> Attempt | UpstreamError:
        try:
            attempt = inside.attempt = await self._attempt(inside, candidate, reply)
        except UpstreamError as error:
            return error
        await self._relay(inside, attempt, reply)
        return attempt

    async def _relay(self, inside: Admission, attempt: Attempt, reply: Reply) -> None:
        """Bytes pass through as they come; the meter reads along and keeps the last ones back."""
        meter, answer, seen, waiting = attempt.meter, attempt.answer, 0, b""
        self._watch(inside, attempt, reply)
        try:
            async for chunk in answer.chunks():
                waiting += meter.feed(chunk)
                if meter.events != seen:
                    seen = meter.events
                    answer.touch()
                if seen or len(waiting) > _MOST_WAITING:
                    await self._pass_on(inside, attempt, reply, waiting)
                    waiting = b""
            if _is_empty(inside.call, attempt):
                raise UpstreamError("the provider's stream was empty")
            await self._pass_on(inside, attempt, reply, waiting)
        except UpstreamError as error:
            if not attempt.cut:
                attempt.broke = error
                attempt.unseen = not (reply.started or attempt.client_gone)
        finally:
            reply.on_gone(None)
            inside.held.progress = inside.held.on_cut = None
            await answer.close()
            attempt.ended = attempt.reading()

    async def _pass_on(self, inside: Admission, attempt: Attempt, reply: Reply, out: bytes) -> None:
        if out and not attempt.client_gone:
            if not reply.started:
                await reply.start(attempt.answer.status, self.headers(inside, attempt))
            await reply.send(out)

    def _watch(self, inside: Admission, attempt: Attempt, reply: Reply) -> None:
        """While the answer comes: the heartbeat asks for its worth, and it may have to be stopped."""
        call, candidate = inside.call, attempt.candidate

        def cut() -> None:
            attempt.cut = True
            attempt.answer.abort()

        def gone() -> None:
            attempt.client_gone = True
            if attempt.provider.on_disconnect == "cancel":
                cut()

        if inside.held.lost:
            cut()
        inside.held.on_cut = cut
        inside.held.progress = lambda: progress_microcredits(
            attempt.reading(), call, candidate, inside.estimate, inside.principal
        )
        if call.stream or attempt.provider.on_disconnect == "cancel":
            reply.on_gone(gone)

    def headers(self, inside: Admission, attempt: Attempt) -> dict[str, str]:
        """What is known of the call before its answer is complete, beside the provider's own headers."""
        held = inside.held
        headers = attempt.provider.reply_headers(attempt.answer)
        headers["x-faregate-provider"] = attempt.candidate.provider
        headers["x-faregate-model"] = attempt.candidate.model
        headers["x-faregate-hold-credits"] = f"{credits(held.hold.microcredits):f}"
        if attempt.cap is not None:
            headers["x-faregate-output-cap"] = str(attempt.cap)
        return headers | rate_limit_headers(inside.principal, held.hold.rests, self._clock.now_us())

    def _tries(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        return [c for c in candidates for _ in range(1 + self._providers[c.provider].retries)]

    async def _attempt(self, inside: Admission, candidate: Candidate, reply: Reply) -> Attempt:
        provider = self._providers[candidate.provider]
        hold = inside.held.hold
        cap = self._estimator.output_cap(inside.call, (candidate,), inside.principal, inside.estimate, hold)
        if cap == 0:
            raise InsufficientCredits(inside.estimate.floor_microcredits, hold.microcredits)
        answer = await self._send(inside, provider, candidate, cap, reply)
        meter = provider.meter(inside.call, answer)
        gone = isinstance(answer, _GivenUp)
        return Attempt(
            candidate=candidate, provider=provider, answer=answer, meter=meter, cap=cap, client_gone=gone, cut=gone
        )

    async def _send(
        self, inside: Admission, provider: Provider, candidate: Candidate, cap: int | None, reply: Reply
    ) -> Answer:
        """The answer's headers; given up (yet maybe billed) when the client leaves and that is the policy."""
        if provider.on_disconnect != "cancel":
            return await provider.send(inside.call, candidate, cap)
        sending = asyncio.ensure_future(provider.send(inside.call, candidate, cap))
        reply.on_gone(sending.cancel)
        try:
            return await sending
        except asyncio.CancelledError:
            if not sending.cancelled():
                raise
            return _GivenUp()
        finally:
            reply.on_gone(None)
            sending.cancel()  # Nobody waits for it any more, should we be cancelled ourselves.


def _is_empty(call: Call, attempt: Attempt) -> bool:
    """A stream that said nothing at all is a failure like any other: nobody has seen it, another may answer."""
    return call.stream and attempt.answer.status < 400 and not attempt.meter.events and not attempt.cut


def _backoff_s(failed: Attempt | UpstreamError) -> float:
    """Jittered; a provider that names a short wait gets it."""
    headers = failed.answer.headers if isinstance(failed, Attempt) else {}
    asked, exact = headers.get("retry-after", ""), headers.get("retry-after-ms", "")
    wait_s = float(asked) if len(asked) <= 4 and asked.isdecimal() else _BACKOFF_S
    if len(exact) <= 6 and exact.isdecimal():
        wait_s = int(exact) / 1000
    wait_s = wait_s if wait_s <= _BACKOFF_MOST_S else _BACKOFF_S
    return wait_s + random.uniform(0, _BACKOFF_S)  # noqa: S311  # jitter, not a secret
