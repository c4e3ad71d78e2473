"""The events of one session: what passes, what is looked at, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import orjson

from faregate.core.conversation import Conversation, Event, bound_of, hearing_of, inner, read_event
from faregate.core.ids import new_id
from faregate.core.truth import Outcome
from faregate.core.usage import Reading
from faregate.errors import FaregateError, InvalidRequest, ModelNotPriced, StoreUnavailable
from faregate.ports import ClientGone, Provider, Socket
from faregate.realtime.fares import Fares, Parts, Turn

log = logging.getLogger("faregate")

MOST_SESSION_S = 3_600.0
"""OpenAI ends a session after an hour, too."""
MOST_TURNS = 8
"""Responses of one session at a time."""
LAST_WORDS_S = 5.0
"""How long a provider may take to say what a cancelled response has cost."""
_TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
_UPDATES = frozenset({"session.update", "transcription_session.update"})
_GO_ON = frozenset({400, 403, 404, 429})
"""Refusals of one event: the session goes on."""
_BOUNDS = ("max_output_tokens", "max_response_output_tokens")


class Session:
    """Between a client and a provider, whose connection is open; `run` ends with everything charged and closed."""

    def __init__(
        self,
        parts: Parts,
        fares: Fares,
        provider: Provider,
        upstream: Socket,
        public_model: str,
        closed: Callable[[], None],
    ) -> None:
        """`closed` is called when all is over."""
        self._parts = parts
        self._fares = fares
        self._provider = provider
        self._upstream = upstream
        self._public_model = public_model
        self._closed = closed
        self._talk = Conversation(fares.candidate.model)
        self._pending: list[Turn] = []
        """Asked for, and not begun."""
        self._turns: dict[str, Turn] = {}
        """By the id of the response."""
        self._ended: deque[str] = deque(maxlen=64)
        self._client: Socket | None = None
        self._refused: FaregateError | None = None
        """Why the session is closed once its last response is charged."""
        self._lost = asyncio.Event()
        self._charges: set[asyncio.Task[None]] = set()
        fares.on_cut = self._lost.set

    async def run(self, client: Socket) -> None:
        """Until either side leaves, or something forbids to go on."""
        self._client = client
        code, reason, error = 1000, "", None
        try:
            async with asyncio.timeout(MOST_SESSION_S):
                code, reason = await self._converse(client)
        except TimeoutError:
            reason = "the session has lasted its longest"
        except FaregateError as failure:
            self._parts.events.call_refused(failure.code)
            code, reason, error = 1008 if failure.status < 500 else 1011, failure.code, failure
        finally:
            try:
                await self._end(client, error, code, reason)
            finally:
                self._closed()

    async def _converse(self, client: Socket) -> tuple[int, str]:
        hearing = asyncio.create_task(self._hear(client))
        speaking = asyncio.create_task(self._speak())
        lost = asyncio.create_task(self._lost.wait())
        tasks = (hearing, speaking, lost)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if lost in done:
                raise StoreUnavailable("the hold of this session was lost")
            if speaking not in done and hearing.exception() is None:
                await self._last_words(speaking)
                return 1000, ""
            for side in (speaking, hearing):
                if side in done:
                    side.result()
            return 1011 if self._turns else 1000, "the provider has ended the session"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _last_words(self, speaking: asyncio.Task[None]) -> None:
        """The client has left: what is under way is cancelled, and told what it cost."""
        self._client = None
        for response_id in list(self._turns):
            await self._cancel(response_id)
        if self._turns or self._pending:
            await asyncio.wait({speaking}, timeout=LAST_WORDS_S)

    async def _end(self, client: Socket, error: FaregateError | None, code: int, reason: str) -> None:
        """Charge what is left by what came of it, give back what is held, close both sides."""
        gone = self._client is None
        for turn in self._turns.values():
            outcome = Outcome(status=200, reading=turn.reading(), broke=not gone, client_gone=gone)
            self._own(self._fares.charge(turn, outcome))
        for turn in self._pending:
            self._own(self._fares.release(turn))
        self._turns.clear()
        self._pending.clear()
        await asyncio.gather(*self._charges, return_exceptions=True)
        await self._fares.end()
        await self._upstream.close(1000, "")
        if not gone:
            try:
                if error is not None:
                    await client.send(error_event(error))
                await client.close(code, reason)
            except ClientGone:
                log.debug("the client of a realtime session has left before its end was said")

    # From the client ------------------------------------------------------------------------------------

    async def _hear(self, client: Socket) -> None:
        while (text := await client.receive()) is not None:
            event = read_event(text)
            try:
                text = await self._on_client(event, text)
            except FaregateError as error:
                if error.status not in _GO_ON:
                    raise
                self._parts.events.call_refused(error.code)
                await self._tell(error_event(error, (event or {}).get("event_id")))
                continue
            await self._upstream.send(text)

    async def _on_client(self, event: Event | None, text: str) -> str:
        """The frame to send on: as it came, unless something in it must change."""
        if event is None:
            raise InvalidRequest("an event must be a JSON object with a type")
        changed = self._configured(event) if event["type"] in _UPDATES else event
        self._talk.said(event, len(text))
        if event["type"] == "response.create":
            changed = await self._ask(event)
        return text if changed is event and _once(event, text) else orjson.dumps(changed).decode()

    async def _ask(self, event: Event) -> Event:
        """The client asks for a response: held before it is sent, bounded by what is held."""
        if len(self._pending) + len(self._turns) >= MOST_TURNS:
            raise InvalidRequest(f"at most {MOST_TURNS} responses at a time")
        response = inner(event, "response")
        turn = await self._fares.take(self._bound(response), self._talk.tokens)
        turn.event_id = event.get("event_id")
        self._pending.append(turn)  # From here on it is ended with the session, whatever interrupts us.
        try:
            cap = self._fares.cap(turn)
            await self._fares.forward(turn)
        except FaregateError:
            self._pending.remove(turn)
            await self._fares.release(turn)
            raise
        turn.sent = True
        if cap is None:
            return event
        name = next((name for name in _BOUNDS if name in response), self._talk.bound_name)
        return {**event, "response": {**response, name: cap}}

    def _bound(self, response: Event) -> int | None:
        named = [name for name in _BOUNDS if response.get(name) is not None]
        for name in named:
            value = response[name]
            if value != "inf" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InvalidRequest(f'{name} must be a whole number above 0, or "inf"', param=f"response.{name}")
        return bound_of(response) if named else self._talk.most_output

    def _configured(self, event: Event) -> Event:
        """A new configuration: the model stays, and what transcribes must have a price."""
        session = inner(event, "session")
        hears = hearing_of(session)
        if hears is not None and self._fares.hears(hears) is None:
            raise ModelNotPriced(f"the model {hears!r} has no price", param="session.audio.input.transcription.model")
        self._talk.wanted(session)
        model = session.get("model")
        if model is None or model == self._fares.candidate.model:
            return event
        if model != self._public_model:
            raise InvalidRequest("the model of a session cannot be changed", param="session.model")
        return {**event, "session": {**session, "model": self._fares.candidate.model}}

    # From the provider ----------------------------------------------------------------------------------

    async def _speak(self) -> None:
        while (text := await self._next()) is not None:
            event = read_event(text)
            if event is not None:
                text = await self._on_provider(event, text)
            await self._tell(text)
            if not (self._turns or self._pending) and (self._refused is not None or self._client is None):
                break
        if self._refused is not None:
            raise self._refused

    async def _next(self) -> str | None:
        """The provider's next event; one that was told to stop has not for ever."""
        try:
            async with asyncio.timeout(LAST_WORDS_S if self._refused else None):
                return await self._upstream.receive()
        except TimeoutError:
            return None

    async def _tell(self, text: str) -> None:
        """To the client, as long as there is one and nothing speaks against it."""
        if self._refused is None and self._client is not None:
            try:
                await self._client.send(text)
            except ClientGone:
                self._client = None

    async def _on_provider(self, event: Event, text: str) -> str:
        kind = event["type"]
        if kind.endswith(".delta"):
            self._count(event)
        elif kind == "response.created":
            await self._created(str(inner(event, "response").get("id")))
        elif kind == "response.done":
            await self._done(inner(event, "response"), text)
        elif kind == _TRANSCRIBED:
            reading = self._read(text)
            if reading.usage is not None:
                await self._safely(self._fares.heard(reading, self._talk.hears))
        elif kind in ("session.created", "session.updated", "transcription_session.updated"):
            self._talk.configured(inner(event, "session"))
        elif kind == "error":
            await self._not_begun(inner(event, "error").get("event_id"))
            return self._provider.redact(text.encode()).decode("utf-8", "replace")
        return text

    def _count(self, event: Event) -> None:
        turn, delta = self._turns.get(str(event.get("response_id"))), event.get("delta")
        if turn is None or not isinstance(delta, str):
            return
        if event["type"].endswith("audio.delta"):
            turn.audio_tokens += self._talk.spoken(delta)
        else:
            turn.text_tokens += max(1, len(delta) // 4)

    async def _created(self, response_id: str) -> None:
        """A response begins: one that was asked for, or the server's own idea."""
        asked = next((turn for turn in self._pending if turn.sent), None)
        if asked is not None:
            self._pending.remove(asked)
        turn = asked or await self._unasked(response_id)
        turn.fresh_before = self._talk.fresh
        self._turns[response_id] = turn
        if asked is None:
            await self._fares.forward(turn)
        if self._client is None:
            await self._cancel(response_id)

    async def _unasked(self, response_id: str) -> Turn:
        """Nothing can bound it any more: held for its worst case, or cancelled (and what it cost until then, owed)."""
        try:
            turn = await self._fares.take(self._talk.most_output, self._talk.tokens, whole=True)
        except FaregateError as error:
            self._refused = error
            await self._cancel(response_id)
            turn = await self._fares.guard(self._talk.tokens)
        return turn

    async def _done(self, response: Event, text: str) -> None:
        """The charge is recorded before the client hears that it is done."""
        response_id = str(response.get("id"))
        if response_id in self._ended:
            return
        if response_id not in self._turns:
            turn = self._turns[response_id] = await self._fares.guard(self._talk.tokens)
            await self._fares.forward(turn)
        turn = self._turns.pop(response_id)
        self._ended.append(response_id)
        reading = replace(self._read(text), delivered_tokens=turn.text_tokens + turn.audio_tokens)
        self._talk.done(inner(response, "usage"), turn.fresh_before)
        await self._safely(self._fares.charge(turn, Outcome(status=200, reading=reading)))

    async def _not_begun(self, event_id: object) -> None:
        """An event was refused: if it was one that asked for a response, none will come."""
        for turn in self._pending:
            if turn.sent and (turn.event_id == event_id or turn.event_id is None):
                self._pending.remove(turn)
                await self._fares.release(turn)
                return

    def _read(self, text: str) -> Reading:
        meter = self._parts.meter_for(self._fares.candidate.kind)
        meter.feed(text.encode())
        return meter.reading(200, {})

    async def _cancel(self, response_id: str) -> None:
        await self._upstream.send(orjson.dumps({"type": "response.cancel", "response_id": response_id}).decode())

    # Charges that nothing interrupts --------------------------------------------------------------------

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._charges.add(task)
        task.add_done_callback(self._charges.discard)
        return task

    async def _safely(self, work: Coroutine[Any, Any, None]) -> None:
        await asyncio.shield(self._own(work))


def _once(event: Event, text: str) -> bool:
    """Whether a frame says no more than its event: of a doubled key we read the last, the provider may read the first.

    Every name has two quotes, so whatever was dropped when it was read shows in their number.
    """
    once = orjson.dumps(event)
    return text.count('"') + text.count("\\u0022") == once.count(b'"')


def error_event(error: FaregateError, event_id: object = None) -> str:
    """An error of ours as the session's own kind of event."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    inner_error = {
        "type": "insufficient_credits" if error.status == 402 else kind,
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "event_id": event_id if isinstance(event_id, str) else None,
    }
    return orjson.dumps({"type": "error", "event_id": new_id("event"), "error": inner_error}).decode()
