"""The story of a call, top to bottom. Each step is one seam of `ports.py`; what a process holds open is `owner.py`.

    authenticate -> route -> estimate -> journal+hold -> forward -> meter -> journal+commit+close -> last byte

No call passes without a hold, no answer is finished before its charge is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from faregate.background import Background
from faregate.core.call import Call, Candidate, Committed, Estimate, Principal, Record
from faregate.core.codec import encode_record
from faregate.core.ids import uuid7_hex
from faregate.core.money import credits, plain
from faregate.core.price import Cost
from faregate.core.truth import finished_record, running_record
from faregate.errors import FaregateError, InvalidApiKey, InvalidRequest, StoreUnavailable, UpstreamError
from faregate.forwarding import Admission, Attempt, Forwarder
from faregate.owner import Owner
from faregate.ports import (
    Accounts,
    Ask,
    Clock,
    Dialect,
    Estimator,
    Events,
    Inbound,
    KeyChanged,
    Keys,
    Reply,
    Router,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What a finished call came to. `committed` is None while SQL is slow."""

    record: Record | None = None
    cost: Cost | None = None
    committed: Committed | None = None
    running: bool = False
    """It has not finished yet: a background response."""

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
        forwarder: Forwarder,
        background: Background,
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
        self._forwarder = forwarder
        self._background = background
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
            await self._owner.forward(inside.held)
            attempt = await self._forwarder.forward(inside, reply)
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
            call = dialect.read(inbound, principal, account_id, f"call_{uuid7_hex()}")
            now_us = self._clock.now_us()
            call, keeper = await self._background.continued(call, principal)
            candidates = self._router.candidates(call.model, endpoint=call.endpoint, principal=principal, now_us=now_us)
            candidates = _at(keeper, candidates)
            estimate = self._estimator.estimate(call, candidates, principal)
            intent = self.intent(call, principal, candidates[0], estimate, now_us)
            try:
                held = await self._owner.take(self.ask(call, principal, estimate, intent), intent)
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

    async def _charge(self, inside: Admission) -> Bill:
        """Price the usage, journal it, commit it, close the hold. Without a debt the hold is just released."""
        attempt = inside.attempt
        if attempt is not None and attempt.runs_on(inside.call):
            await self._keep_running(inside, attempt)
            return Bill(running=True)
        duration_s = self._clock.monotonic() - inside.began
        finished = attempt and finished_record(
            inside.held.intent,
            attempt.outcome(),
            inside.call,
            self._with_models(inside, attempt),
            inside.estimate,
            inside.principal,
            duration_ms=int(duration_s * 1000),
        )
        if not finished:
            await self._owner.release(inside.held)
            return Bill()
        record, cost = finished
        committed = await self._owner.settle(inside.held, record)
        self._events.call_ended(record, duration_s)
        return Bill(record=record, cost=cost, committed=committed)

    async def _keep_running(self, inside: Admission, attempt: Attempt) -> None:
        """The provider has answered at once and works on: the hold stays, the bill comes when it has ended."""
        intent = inside.held.intent
        record = running_record(intent, attempt.reading(), inside.call, attempt.candidate, inside.estimate)
        await self._background.adopt(inside.held, record)

    async def _last_byte(self, inside: Admission, attempt: Attempt, bill: Bill, dialect: Dialect, reply: Reply) -> None:
        """What was kept back, now that the charge is recorded."""
        if attempt.client_gone:
            return
        failed = attempt.broke or _unfinished(inside, attempt)
        if failed is not None and not reply.started:
            raise failed
        rest = attempt.meter.finish(bill.cost, bill.charge_microcredits)
        if not reply.started:
            headers = self._forwarder.headers(inside, attempt) | _bill_headers(bill)
            if attempt.answer.status >= 400:
                rest = dialect.refusal(attempt.answer.status, _refusal_body(attempt, rest))
                self._events.call_refused("upstream_refused")
                headers["content-type"] = "application/json"
            await reply.start(attempt.answer.status, headers | {"content-length": str(len(rest))})
        await reply.finish(rest if failed is None else rest + dialect.error_event(failed))

    def _with_models(self, inside: Admission, attempt: Attempt) -> Candidate:
        """Who is to be paid: with the prices of when the call came."""
        used = attempt.reading().per_model
        if not used:
            return attempt.candidate
        admitted_us = inside.held.intent.occurred_at_us
        return self._router.with_models(attempt.candidate, used, inside.principal, admitted_us)

    # What the steps are made of -------------------------------------------------------------------------

    def intent(self, call: Call, principal: Principal, candidate: Candidate, estimate: Estimate, now_us: int) -> Record:
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

    def ask(self, call: Call, principal: Principal, estimate: Estimate, intent: Record) -> Ask:
        """What the gate is asked for."""
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


def _at(keeper: str | None, candidates: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """What goes on from an earlier response can only go where that is kept."""
    if keeper is None:
        return candidates
    found = tuple([one for one in candidates if one.provider == keeper])
    if not found:
        message = "the earlier response is kept by another provider than this model's"
        raise InvalidRequest(message, param="previous_response_id")
    return found


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
    if bill.running:
        return {}
    headers = {
        "x-faregate-cost-usd": f"{plain(bill.cost.usd if bill.cost else Decimal(0)):f}",
        "x-faregate-credits-charged": f"{credits(bill.charge_microcredits):f}",
    }
    if bill.committed is not None:
        headers["x-faregate-credits-remaining"] = f"{credits(bill.committed.snapshot.posted):f}"
        headers["x-faregate-usage-id"] = bill.committed.usage_id
    return headers
