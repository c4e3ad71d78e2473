"""The story of a call, top to bottom. Each step is one seam of `ports.py`; what a process holds open is `owner.py`.

    authenticate -> route -> estimate -> journal+hold -> forward -> meter -> journal+commit+close -> last byte

No call passes without a hold, no answer is finished before its charge is recorded.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from faregate.core.call import Call, Candidate, Committed, Estimate, Principal, Record
from faregate.core.codec import encode_record
from faregate.core.ids import uuid7
from faregate.core.limits import rate_limit_headers
from faregate.core.money import credits, plain
from faregate.core.price import Cost
from faregate.core.truth import Outcome, finished_record, progress_microcredits
from faregate.core.usage import Reading
from faregate.errors import FaregateError, InsufficientCredits, InvalidApiKey, StoreUnavailable, UpstreamError
from faregate.owner import Held, Owner
from faregate.ports import (
    Accounts,
    Answer,
    Ask,
    Clock,
    Dialect,
    Estimator,
    Events,
    Inbound,
    KeyChanged,
    Keys,
    Meter,
    Provider,
    Reply,
    Router,
)

_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_ELSEWHERE = frozenset({401, 402, 403, 404})
"""Refusals that are about this provider, not about the call: the next candidate may serve it."""
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
            client_gone=self.client_gone,
            cut=self.cut,
        )

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
        for chunk in ():
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What a finished call came to. `committed` is None while SQL is slow."""

    record: Record | None = None
    cost: Cost | None = None
    committed: Committed | None = None

    @property
    def charge_microcredits(self) -> int:
        if self.committed is not None:
            return self.committed.charge_microcredits
        return self.record.charge_microcredits if self.record else 0


class Flow:
    """Serves calls. One object per process."""

    def __init__(
        self,
        *,
        keys: Keys,
        accounts: Accounts,
        router: Router,
        estimator: Estimator,
        owner: Owner,
        providers: Mapping[str, Provider],
        clock: Clock,
        events: Events,
        share_permille: int = 250,
        cap_on_low_credit: bool = True,
        allow: Callable[[Principal], None],
    ) -> None:
        self._keys = keys
        self._accounts = accounts
        self._router = router
        self._estimator = estimator
        self._owner = owner
        self._providers = providers
        self._clock = clock
        self._events = events
        self._share_permille = share_permille
        self._cap = cap_on_low_credit
        self._allow = allow

    # The main path --------------------------------------------------------------------------------------

    async def serve(self, inbound: Inbound, dialect: Dialect, reply: Reply) -> None:
        """One call from its bytes to its last byte. Raises FaregateError when nothing was sent yet."""
        inside = await self._admit(inbound, dialect)
        try:
            attempt = await self._forward(inside, reply)
        except BaseException:
            await self._charge(inside)
            raise
        bill = await self._charge(inside)
        await self._last_byte(inside, attempt, bill, dialect, reply)

    async def _admit(self, inbound: Inbound, dialect: Dialect) -> Admission:
        """Authenticate, route, estimate, hold."""
        began = self._clock.monotonic()
        principal = await self._keys.authenticate(inbound.secret)
        for _ in range(3):
            self._allow(principal)
            account_id = await self._accounts.resolve(principal, inbound.headers.get("x-faregate-account"))
            call = dialect.read(inbound, principal, account_id, f"call_{uuid7().hex}")
            now_us = self._clock.now_us()
            candidates = self._router.candidates(call.model, endpoint=call.endpoint, principal=principal, now_us=now_us)
            estimate = self._estimator.estimate(call, candidates, principal)
            intent = self._intent(call, principal, candidates[0], estimate, now_us)
            try:
                held = await self._owner.take(self._ask(call, principal, estimate, intent), intent)
            except KeyChanged:
                principal = await self._keys.refresh(principal)
                continue
            return Admission(
                call=call,
                principal=principal,
                candidates=candidates,
                estimate=estimate,
                held=held,
                began=began,
            )
        raise InvalidApiKey("this API key is being changed, try again")

    async def _forward(self, inside: Admission, reply: Reply) -> Attempt:
        """Candidates in order, each with its retries, until one answers; only while nothing was delivered."""
        await self._owner.forward(inside.held)
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
        meter, answer, seen = attempt.meter, attempt.answer, 0
        self._watch(inside, attempt, reply)
        try:
            async for chunk in answer.chunks():
                out = meter.feed(chunk)
                if meter.events != seen:
                    seen = meter.events
                    answer.touch()
                if out and not attempt.client_gone:
                    if not reply.started:
                        await reply.start(answer.status, self._headers(inside, attempt))
                    await reply.send(out)
        except UpstreamError as error:
            if not attempt.cut:
                attempt.broke = error
        finally:
            reply.on_gone(None)
            inside.held.progress = inside.held.on_cut = None
            await answer.close()
            attempt.ended = attempt.reading()

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

    async def _charge(self, inside: Admission) -> Bill:
        """Price the usage, journal it, commit it, close the hold. Without a debt the hold is just released."""
        attempt = inside.attempt
        finished = attempt and finished_record(
            inside.held.intent,
            attempt.outcome(),
            inside.call,
            attempt.candidate,
            inside.estimate,
            inside.principal,
        )
        if not finished:
            await self._owner.release(inside.held)
            return Bill()
        duration_s = self._clock.monotonic() - inside.began
        record, cost = finished
        record = replace(record, duration_ms=int(duration_s * 1000))
        committed = await self._owner.settle(inside.held, record)
        self._events.call_ended(record, duration_s)
        return Bill(record=record, cost=cost, committed=committed)

    async def _last_byte(self, inside: Admission, attempt: Attempt, bill: Bill, dialect: Dialect, reply: Reply) -> None:
        """What was kept back, now that the charge is recorded."""
        if attempt.client_gone:
            return
        rest = attempt.meter.finish(bill.cost, bill.charge_microcredits)
        failed = attempt.broke or _unfinished(inside, attempt)
        if not reply.started:
            if failed is not None:
                raise failed
            headers = self._headers(inside, attempt) | _bill_headers(bill)
            if attempt.answer.status >= 400:
                rest = dialect.refusal(attempt.answer.status, _refusal_body(attempt, rest))
                headers["content-type"] = "application/json"
            await reply.start(attempt.answer.status, headers | {"content-length": str(len(rest))})
        await reply.finish(rest if failed is None else rest + dialect.error_event(failed))

    # What the steps are made of -------------------------------------------------------------------------

    def _intent(
        self, call: Call, principal: Principal, candidate: Candidate, estimate: Estimate, now_us: int
    ) -> Record:
        """The record as far as it is known before the call: who will be charged, at least for the input."""
        return Record(
            hold_id=call.id,
            hold_kind="call",
            kind="actual",
            organization_id=principal.organization_id,
            account_id=call.account_id,
            key_id=principal.key_id,
            request_id=call.request_id,
            occurred_at_us=now_us,
            charge_microcredits=estimate.input_microcredits,
            cost_usd=estimate.input_usd,
            endpoint=call.endpoint,
            public_model=call.model,
            provider=candidate.provider,
            provider_kind=candidate.kind,
            model=candidate.model,
            multiplier=call.multiplier,
            markup_percent=principal.markup_percent,
            credits_per_usd=principal.credits_per_usd,
            stream=call.stream,
            attribution=call.attribution,
        )

    def _ask(self, call: Call, principal: Principal, estimate: Estimate, intent: Record) -> Ask:
        floor = estimate.floor_microcredits if self._cap and estimate.cappable else estimate.want_microcredits
        return Ask(
            hold_id=call.id,
            kind="call",
            principal=principal,
            account_id=call.account_id,
            want_microcredits=estimate.want_microcredits,
            floor_microcredits=floor,
            want_tokens=estimate.want_tokens,
            floor_tokens=estimate.floor_tokens if self._cap and estimate.cappable else estimate.want_tokens,
            progress_microcredits=estimate.input_microcredits,
            meta=encode_record(intent),
            share_permille=self._share_permille,
        )

    def _tries(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        return [c for c in candidates for _ in range(1 + self._providers[c.provider].retries)]

    async def _attempt(self, inside: Admission, candidate: Candidate, reply: Reply) -> Attempt:
        provider = self._providers[candidate.provider]
        hold = replace(inside.held.hold, microcredits=inside.held.microcredits)
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
        """The answer's headers; given up (it may be billed all the same) when the client leaves and that is the policy."""
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

    def _headers(self, inside: Admission, attempt: Attempt) -> dict[str, str]:
        held = inside.held
        headers = attempt.provider.reply_headers(attempt.answer)
        headers["x-faregate-provider"] = attempt.candidate.provider
        headers["x-faregate-model"] = attempt.candidate.model
        headers["x-faregate-hold-credits"] = f"{credits(held.hold.microcredits):f}"
        if attempt.cap is not None:
            headers["x-faregate-output-cap"] = str(attempt.cap)
        return headers | rate_limit_headers(inside.principal, held.hold.rests, self._clock.now_us())


def _unfinished(inside: Admission, attempt: Attempt) -> FaregateError | None:
    """A stream that ended without its end must not look finished."""
    if attempt.cut:
        return StoreUnavailable("the hold of this call was lost")
    reading = attempt.reading()
    if inside.call.stream and attempt.answer.status < 400 and not reading.complete and reading.error is None:
        return UpstreamError("the provider's stream ended before it was complete")
    return None


def _refusal_body(attempt: Attempt, body: bytes) -> bytes:
    """The provider's own 4xx pass; its trouble with *our* credentials, and its 5xx, are ours to report."""
    status = attempt.answer.status
    if status in (401, 402, 403):
        raise UpstreamError("the provider refused the gateway's own account for this model")
    if status >= 500:
        raise UpstreamError(f"the provider failed with status {status}")
    return attempt.provider.redact(body)


def _bill_headers(bill: Bill) -> dict[str, str]:
    headers = {
        "x-faregate-cost-usd": f"{plain(bill.cost.usd if bill.cost else Decimal(0)):f}",
        "x-faregate-credits-charged": f"{credits(bill.charge_microcredits):f}",
    }
    if bill.committed is not None:
        headers["x-faregate-credits-remaining"] = f"{credits(bill.committed.snapshot.posted):f}"
        headers["x-faregate-usage-id"] = bill.committed.usage_id
    return headers


def _backoff_s(failed: Attempt | UpstreamError) -> float:
    """Jittered; a provider that names a short wait gets it."""
    asked = failed.answer.headers.get("retry-after", "") if isinstance(failed, Attempt) else ""
    short = len(asked) <= 4 and asked.isdecimal() and int(asked) <= _BACKOFF_MOST_S
    wait_s = float(asked) if short else _BACKOFF_S
    return wait_s + random.uniform(0, _BACKOFF_S)  # noqa: S311  # jitter, not a secret
