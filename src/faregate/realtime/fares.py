"""The holds and the charges of one session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from faregate.core.call import Call, Candidate, Estimate, Principal, Record
from faregate.core.ids import uuid7_hex
from faregate.core.truth import Outcome, finished_record, progress_microcredits
from faregate.core.usage import Reading, Usage
from faregate.errors import BookUnavailable, InsufficientCredits, InvalidApiKey, StoreUnavailable
from faregate.flow import Flow
from faregate.held import Held
from faregate.owner import Owner
from faregate.ports import (
    Accounts,
    Ask,
    Book,
    Catalog,
    Clock,
    Estimator,
    Events,
    KeyChanged,
    Keys,
    Meter,
    Provider,
    Router,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What sessions are made of."""

    flow: Flow
    keys: Keys
    accounts: Accounts
    router: Router
    catalog: Catalog
    estimator: Estimator
    owner: Owner
    book: Book
    providers: Mapping[str, Provider]
    meter_for: Callable[[str], Meter]
    """A fresh reader of realtime events, by the provider's kind."""
    clock: Clock
    events: Events
    allow: Callable[[Principal], None]


@dataclass(slots=True, eq=False)
class Turn:
    """One response, from its hold to its charge."""

    call: Call
    estimate: Estimate
    held: Held
    began: float
    event_id: object = None
    """Of the client's event that asked for it."""
    sent: bool = False
    """The provider was asked for it."""
    fresh_before: int = 0
    text_tokens: int = 0
    audio_tokens: int = 0

    def reading(self) -> Reading:
        """What came of it, for want of a count."""
        came = self.text_tokens + self.audio_tokens
        if not came:
            return Reading()
        usage = Usage(input_tokens=self.call.prior_tokens, audio_output_tokens=self.audio_tokens or None)
        return Reading(usage=usage, output_is_placeholder=True, delivered_tokens=came)


class Fares:
    """Takes holds and ends them. `call` is what all responses of the session have in common."""

    def __init__(self, parts: Parts, principal: Principal, call: Call, candidate: Candidate) -> None:
        self.candidate = candidate
        self._parts = parts
        self._principal = principal
        self._call = call
        self._standby: Turn | None = None
        self.on_cut: Callable[[], None] = lambda: None
        """A hold was lost: nothing may go on."""

    async def begin(self) -> None:
        """The first hold, before there is a connection. Raises what a hold raises."""
        self._standby = await self.take(None, _FIRST_TOKENS)

    async def take(self, bound: int | None, tokens: int, *, whole: bool = False) -> Turn:
        """A hold for one response of at most `bound` output on so much input; `whole`: its worst case or nothing.

        Raises InsufficientCredits, LimitExceeded, InvalidApiKey, StoreUnavailable.
        """
        call = self._asked(bound, tokens)
        estimate = self._parts.estimator.estimate(call, (self.candidate,), self._principal)
        ready, self._standby = self._standby, None
        if ready is not None:
            if _covers(ready.held, estimate) or (not whole and self._is_what_there_is(ready, call, estimate)):
                return self._turn(call, estimate, ready.held)
            await self._parts.owner.release(ready.held)
        return self._turn(call, estimate, await self._reserve(call, estimate, whole=whole))

    async def guard(self, tokens: int) -> Turn:
        """A hold without a check, for a response that nobody could stop in time: what it costs is owed all the same."""
        call = self._asked(None, tokens)
        estimate = self._parts.estimator.estimate(call, (self.candidate,), self._principal)
        return self._turn(call, estimate, await self._force(call, estimate, estimate.input_microcredits))

    def cap(self, turn: Turn) -> int | None:
        """The bound to send; None: as it was asked. Raises InsufficientCredits."""
        hold = turn.held.hold
        cap = self._parts.estimator.output_cap(turn.call, (self.candidate,), self._principal, turn.estimate, hold)
        if cap == 0:
            raise InsufficientCredits(turn.estimate.floor_microcredits, hold.microcredits)
        return cap

    async def forward(self, turn: Turn) -> None:
        """Before the provider hears of it. Raises StoreUnavailable; the hold is ended then."""
        await self._parts.owner.forward(turn.held)
        turn.held.on_cut = self.on_cut
        turn.held.progress = lambda: progress_microcredits(
            turn.reading(), turn.call, self.candidate, turn.estimate, self._principal
        )
        if turn.held.lost:
            self.on_cut()

    async def charge(self, turn: Turn, outcome: Outcome) -> None:
        """What it came to; nothing, and the hold is released."""
        turn.held.progress = turn.held.on_cut = None
        duration_s = self._parts.clock.monotonic() - turn.began
        finished = finished_record(
            turn.held.intent,
            outcome,
            turn.call,
            self.candidate,
            turn.estimate,
            self._principal,
            duration_ms=int(duration_s * 1000),
        )
        if finished is None:
            await self.release(turn)
            return
        await self._parts.owner.settle(turn.held, finished[0])
        self._parts.events.call_ended(finished[0], duration_s)

    async def release(self, turn: Turn) -> None:
        """Nothing came of it."""
        turn.held.progress = turn.held.on_cut = None
        await self._parts.owner.release(turn.held)

    async def end(self) -> None:
        """The hold that no response has taken."""
        ready, self._standby = self._standby, None
        if ready is not None:
            await self._parts.owner.release(ready.held)

    def hears(self, model: str) -> Candidate | None:
        """The model that transcribes, with its own price; None: it has none."""
        own = self.candidate
        card = self._parts.catalog.card(
            provider=own.provider,
            kind=own.kind,
            model=model,
            organization_id=self._principal.organization_id,
            now_us=self._parts.clock.now_us(),
        )
        return None if card is None else replace(own, model=model, card=card)

    async def heard(self, reading: Reading, model: str | None) -> None:
        """A transcription, as a record of its own."""
        found = self.hears(model) if model is not None else None
        if found is None:
            self._parts.events.trouble("unpriced", f"transcription by {model}")
            found = self.candidate
        call = replace(self._asked(None, 0), model=found.model, endpoint="audio.transcriptions")
        intent = self._parts.flow.intent(call, self._principal, found, _KNOWN, self._parts.clock.now_us())
        outcome = Outcome(status=200, reading=reading)
        finished = finished_record(intent, outcome, call, found, _KNOWN, self._principal)
        if finished is None:
            return
        try:
            held = await self._force(call, _KNOWN, finished[0].charge_microcredits)
            await self._parts.owner.forward(held)
        except StoreUnavailable:
            await self._without_gate(finished[0])
            return
        record = replace(finished[0], limit_keys=held.intent.limit_keys)
        await self._parts.owner.settle(held, record)
        self._parts.events.call_ended(record, 0.0)

    def _is_what_there_is(self, ready: Turn, call: Call, estimate: Estimate) -> bool:
        """A hold that was lowered for want of credits, and still is worth a response: asking again gets no more."""
        if ready.held.lost or _covers(ready.held, ready.estimate):
            return False
        cap = self._parts.estimator.output_cap(call, (self.candidate,), self._principal, estimate, ready.held.hold)
        return cap is not None and cap >= estimate.floor_output_tokens

    # What they are made of ------------------------------------------------------------------------------

    async def _reserve(self, call: Call, estimate: Estimate, *, whole: bool) -> Held:
        parts = self._parts
        for _ in range(3):
            parts.allow(self._principal)
            now_us = parts.clock.now_us()
            expires_at = self._principal.expires_at
            if expires_at is not None and now_us >= expires_at * 1_000_000:
                self._principal = await parts.keys.refresh(self._principal)
            intent = parts.flow.intent(call, self._principal, self.candidate, estimate, now_us)
            ask = parts.flow.ask(call, self._principal, estimate, intent)
            try:
                return await parts.owner.take(_whole(ask) if whole else ask, intent)
            except KeyChanged:
                self._principal = await parts.keys.refresh(self._principal)
        raise InvalidApiKey("this API key is being changed, try again")

    async def _force(self, call: Call, estimate: Estimate, microcredits: int) -> Held:
        parts = self._parts
        intent = parts.flow.intent(call, self._principal, self.candidate, estimate, parts.clock.now_us())
        ask = replace(
            parts.flow.ask(call, self._principal, estimate, intent),
            principal=replace(self._principal, key_id=""),  # A revoked key owes what it has used.
            want_microcredits=microcredits,
            floor_microcredits=microcredits,
            forced=True,
        )
        return await parts.owner.take(ask, intent)

    async def _without_gate(self, record: Record) -> None:
        """Redis is away: the book alone takes it, and Redis is told with the next settle."""
        try:
            await self._parts.book.commit(record)
        except BookUnavailable as error:
            self._parts.events.trouble("parked", f"{record.hold_id}: {error.message}")

    def _asked(self, bound: int | None, tokens: int) -> Call:
        body = {} if bound is None else {"max_output_tokens": bound}
        return replace(self._call, id=f"call_{uuid7_hex()}", body=body, prior_tokens=tokens)

    def _turn(self, call: Call, estimate: Estimate, held: Held) -> Turn:
        return Turn(replace(call, id=held.hold.id), estimate, held, self._parts.clock.monotonic())


_FIRST_TOKENS = 512
"""What a first response may have as input without asking for another hold (which would count as another request)."""
_KNOWN = Estimate(
    input_tokens=0,
    output_tokens=0,
    choices=1,
    floor_output_tokens=0,
    want_microcredits=0,
    floor_microcredits=0,
    input_microcredits=0,
    cappable=False,
)
"""Nothing has to be guessed of what was counted already."""


def _covers(held: Held, estimate: Estimate) -> bool:
    tokens = held.hold.tokens
    enough = held.hold.microcredits >= estimate.want_microcredits
    return enough and not held.lost and (tokens is None or tokens >= estimate.want_tokens)


def _whole(ask: Ask) -> Ask:
    return replace(ask, floor_microcredits=ask.want_microcredits, floor_tokens=ask.want_tokens)
