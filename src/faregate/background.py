"""Responses that providers keep: whose they are, and the ones that run on after their answer.

A background response is answered at once, before anybody knows what it costs. Its hold stays open, kept alive by the
heartbeat and in the journal, and it is polled until it has ended; then it is priced and settled like any call. Whoever
looks at it first when it has ended (the poll, a client's GET or cancel) settles it: the book takes one record a hold.

    the process dies        its hold ends as every hold does (`unconfirmed`, by policy); another process finds the row
                            unattended and polls on: the truth then corrects the record by an adjustment
    the provider lost it,   no truth will come: an `unconfirmed` record, by policy
    or it never ends
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from faregate.core.call import Call, Principal, Record, bucket_of
from faregate.core.truth import Outcome, UnconfirmedPolicy, ended_record, polled_call, unconfirmed_record, zero_record
from faregate.core.usage import Reading
from faregate.errors import BookUnavailable, FaregateError, NotFound, StoreUnavailable, UpstreamError
from faregate.held import Held
from faregate.owner import Owner
from faregate.ports import Answer, Book, Clock, Events, Gate, Keeper, Kept, KeptStore, KeptVerb, Provider

log = logging.getLogger("faregate")

MOST_AGE_S = 86_400
"""A response that has not ended by then never will."""
MOST_RUNNING = 10_000
"""Polled by one process."""
_POLLS_AT_ONCE = 32
_TAKEN_AT_ONCE = 500
_MOST_GONE = 3
"""How often a provider must say that it has no such response."""
_PURGE_S = 600.0
_PURGED_AT_ONCE = 1_000


@dataclass(slots=True, eq=False)
class Running:
    """One response that has not ended yet."""

    kept: Kept
    record: Record
    """As far as it is known: who pays, on which card, at least for the input."""
    held: Held | None = None
    """None: its hold was another process's."""
    noted: bool = True
    """The book has its row."""
    ended: bool = False
    gone: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Background:
    """Keeps track of responses for one process. `heartbeat_s` gives the clockwork: polls from a fifth of it to six."""

    def __init__(
        self,
        *,
        owner: Owner,
        book: Book,
        gate: Gate,
        store: KeptStore,
        providers: Mapping[str, Provider],
        clock: Clock,
        events: Events,
        policy: UnconfirmedPolicy = "progress",
        heartbeat_s: float = 5.0,
    ) -> None:
        self._owner = owner
        self._book = book
        self._gate = gate
        self._store = store
        self._providers = providers
        self._clock = clock
        self._events = events
        self._policy = policy
        self._heartbeat_s = heartbeat_s
        self._running: dict[str, Running] = {}
        """By hold id."""
        self._polls: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_POLLS_AT_ONCE)

    # Whose they are -------------------------------------------------------------------------------------

    async def find(self, principal: Principal, response_id: str) -> Kept:
        """The response, if it is the caller's: the key's own, or its account's when it is bound to one.

        Raises NotFound for anybody else's as for none, BookUnavailable.
        """
        kept = await self._store.find(principal.organization_id, response_id)
        if kept is None or (kept.key_id != principal.key_id and kept.account_id != principal.account_id):
            raise NotFound("no such response")
        return kept

    async def continued(self, call: Call, principal: Principal) -> tuple[Call, str | None]:
        """The call with what it goes on from, and the provider that keeps that. Raises NotFound, StoreUnavailable."""
        if call.background and len(self._running) >= MOST_RUNNING:
            raise StoreUnavailable("too many background responses are running", retry_after_s=30)
        previous = call.body.get("previous_response_id") if call.endpoint == "responses" else None
        if not isinstance(previous, str):
            return call, None
        try:
            kept = await self.find(principal, previous)
        except NotFound:
            raise NotFound("no such response", param="previous_response_id") from None
        return replace(call, prior_tokens=kept.tokens), kept.provider

    # Running on -----------------------------------------------------------------------------------------

    async def adopt(self, held: Held, record: Record) -> None:
        """The provider has taken it and works on: poll it from now on."""
        assert record.upstream_id is not None
        kept = Kept(
            id=record.upstream_id,
            organization_id=record.organization_id,
            account_id=record.account_id,
            key_id=record.key_id,
            hold_id=record.hold_id,
            provider=record.provider,
            model=record.model,
            tokens=0,
            created_us=record.occurred_at_us,
            running=record,
        )
        one = Running(kept, record, held, noted=False)
        self._follow(one)
        try:
            await self._note(one)
        except BookUnavailable as error:
            log.warning("the book does not know the background response of hold %s yet: %s", record.hold_id, error)

    async def look(self, kept: Kept) -> None:
        """Ask the provider how it stands now; if it has ended, it is charged when this returns.

        Raises UpstreamError, BookUnavailable.
        """
        if kept.running is not None:
            await self._look(self._running.get(kept.hold_id) or Running(kept, kept.running))

    async def learn(self, kept: Kept, reading: Reading) -> None:
        """Somebody has seen how it stands; if it has ended, it is charged when this returns. Raises BookUnavailable."""
        if kept.running is not None and reading.complete and reading.response_id == kept.id:
            await self._end(self._running.get(kept.hold_id) or Running(kept, kept.running), reading)

    async def forget(self, kept: Kept) -> None:
        """It was deleted. Raises BookUnavailable."""
        await self._store.drop(kept)

    async def ask(self, kept: Kept, verb: KeptVerb, query: str = "") -> tuple[Provider, Answer]:
        """Ask its provider for it. Raises UpstreamError."""
        provider = self._providers.get(kept.provider)
        if provider is None or not isinstance(provider, Keeper):
            raise UpstreamError(f"the provider {kept.provider!r} keeps no responses")
        answer = await provider.kept(verb, kept.id, kept.model, query)
        return provider, answer

    # Polling --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For the life of the process: answer for what we poll, take over what nobody polls, forget what is old."""
        purge_at = self._clock.monotonic() + _PURGE_S
        while True:
            await asyncio.sleep(2 * self._heartbeat_s)
            try:
                await self._attend()
                due = self._clock.monotonic() >= purge_at
                if due and await self._store.purge(_PURGED_AT_ONCE) < _PURGED_AT_ONCE:
                    purge_at = self._clock.monotonic() + _PURGE_S  # Else there is more, at the next pass.
            except BookUnavailable as error:
                log.info("background responses are not attended to: %s", error)

    async def stop(self) -> None:
        """Poll no more. What runs stays in the journal and in the book, for the next process."""
        for poll in set(self._polls):
            poll.cancel()
        await asyncio.gather(*self._polls, return_exceptions=True)

    async def _attend(self) -> None:
        if self._running:
            await self._store.renew(self._lease_us())
        room = min(_TAKEN_AT_ONCE, MOST_RUNNING - len(self._running))
        for kept in await self._store.claim(self._lease_us(), room) if room > 0 else ():
            if kept.running is not None and kept.hold_id not in self._running:
                self._follow(Running(kept, kept.running))

    def _lease_us(self) -> int:
        """Until when what we poll is ours."""
        return self._clock.now_us() + int(6 * self._heartbeat_s * 1_000_000)

    def _follow(self, one: Running) -> None:
        self._running[one.kept.hold_id] = one
        poll = asyncio.create_task(self._poll(one))
        self._polls.add(poll)
        poll.add_done_callback(self._polls.discard)

    async def _poll(self, one: Running) -> None:
        wait_s = self._heartbeat_s / 5
        while not one.ended:
            await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))  # noqa: S311  # jitter, not a secret
            wait_s = min(1.5 * wait_s, 6 * self._heartbeat_s)
            try:
                async with self._slots:
                    await self._step(one)
            except FaregateError as error:
                log.info("the background response of hold %s: %s", one.kept.hold_id, error.message)
            except Exception:  # the process edge of what nobody awaits: a charge must not be lost with it
                log.exception("the poll of hold %s failed", one.kept.hold_id)

    async def _step(self, one: Running) -> None:
        """One poll. A response that is lost, or too old, ends without a truth."""
        if not one.noted and not one.ended:
            await self._note(one)
        too_old = self._clock.now_us() - one.kept.created_us > MOST_AGE_S * 1_000_000
        if not too_old:
            await self._look(one)
        if too_old or one.gone >= _MOST_GONE:
            self._events.trouble("background", one.kept.hold_id)
            async with one.lock:
                await self._close(one, self._unknown(one))

    async def _note(self, one: Running) -> None:
        async with one.lock:
            if not one.ended and not one.noted:
                await self._store.begin(one.record, self._lease_us())
                one.noted = True

    async def _look(self, one: Running) -> None:
        provider, answer = await self.ask(one.kept, "get")
        meter = provider.meter(polled_call(one.record), answer)
        try:
            async for chunk in answer.chunks():
                meter.feed(chunk)
        finally:
            await answer.close()
        one.gone = one.gone + 1 if answer.status == 404 else 0
        reading = meter.reading(answer.status, answer.headers)
        if answer.status < 400 and reading.complete and reading.response_id == one.kept.id:
            await self._end(one, reading)

    # Ending ---------------------------------------------------------------------------------------------

    async def _end(self, one: Running, reading: Reading) -> None:
        async with one.lock:
            if not one.ended:
                finished = ended_record(one.record, Outcome(status=200, reading=reading))
                await self._close(one, finished[0] if finished else None)

    async def _close(self, one: Running, record: Record | None) -> None:
        """Charge it; None: nothing is owed. Raises BookUnavailable, and is to be tried again then."""
        duration_s = max(0.0, (self._clock.now_us() - one.kept.created_us) / 1e6)
        if record is not None:
            record = replace(record, duration_ms=int(duration_s * 1000))
        if one.held is None:
            await self._book_late(one, record or zero_record(one.record))
        elif record is None:
            await self._owner.release(one.held)
            await self._store.end(one.kept)
        else:
            await self._owner.settle(one.held, record)
        one.ended = True
        if self._running.get(one.kept.hold_id) is one:
            del self._running[one.kept.hold_id]
        if record is not None:
            self._events.call_ended(record, duration_s)

    async def _book_late(self, one: Running, record: Record) -> None:
        """The truth about a hold that is not ours to close: its owner or a sweeper does that, and the book knows."""
        committed = await self._book.commit(record)
        await self._gate.settle(None, committed.snapshot, bucket_of(record.organization_id))
        if not committed.new:
            await self._store.end(one.kept)

    def _unknown(self, one: Running) -> Record:
        granted = one.held.microcredits if one.held else one.record.charge_microcredits
        record = unconfirmed_record(one.record, one.record.charge_microcredits, granted, self._policy)
        return replace(record, usage={})
