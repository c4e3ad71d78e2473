"""What this process has inside the gate: it takes holds, keeps them alive, and ends each exactly once.

The states of a hold are in held.py. Ends happen in tasks that this object owns and that nothing cancels: a client that
leaves, or a handler that is cancelled, takes no charge with it. What dies with the process is in its journal.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from random import random
from typing import Any, TypeVar

from faregate.arrears import Arrears
from faregate.backlog import Backlog
from faregate.core.call import Committed, Hold, Record, Snapshot
from faregate.core.truth import zero_record
from faregate.errors import (
    BookRefused,
    BookUnavailable,
    FaregateError,
    InProgress,
    JournalUnavailable,
    StoreUnavailable,
    StoreUnreached,
)
from faregate.held import KEPT, Held
from faregate.ports import Ask, Beat, Book, Clock, Events, Gate, Journal, KeyChanged, SweptHold
from faregate.slices import in_slices

T = TypeVar("T")

_RETRY_S = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
_RETRIES_AT_ONCE = 64
"""How many ends knock again at the same time: when Redis is back, it must not meet all of them in one moment."""
_RECENT_MOST = 200_000
_LONG_S = 60.0
"""A hold that is open for longer must not keep a whole file of the journal from being deleted."""
_CARRIED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class _Closed:
    """A close of the last deadline, to be sent again if Redis turns out to have lost its tail."""

    at: float
    hold: Hold
    snapshot: Snapshot | None
    released: Held | None = None
    """Set when it ended without a record."""


class Owner:
    """Holds of one process. `deadline_s` is three heartbeats; `settle_wait_s` how long an answer waits for SQL."""

    def __init__(
        self,
        *,
        journal: Journal,
        gate: Gate,
        book: Book,
        clock: Clock,
        events: Events,
        name: str,
        heartbeat_s: float = 5.0,
        settle_wait_s: float = 0.25,
    ) -> None:
        self._journal = journal
        self._gate = gate
        self._backlog = Backlog(book)
        self._clock = clock
        self._events = events
        self._heartbeat_s = heartbeat_s
        self._settle_wait_s = settle_wait_s
        self._live: dict[str, Held] = {}
        self._ends: set[asyncio.Task[Any]] = set()
        self._recent: deque[_Closed] = deque(maxlen=_RECENT_MOST)
        self._arrears = Arrears(gate, name, heartbeat_s)
        self._epochs: dict[int, str] = {}
        self._saying: set[int] = set()
        """Buckets whose closes are being said again."""
        self._knocks = asyncio.Semaphore(_RETRIES_AT_ONCE)
        self._stopping = False
        self.late_closes = 0
        """Ends that Redis has not heard of yet, though they were sent."""
        self.parked = 0
        """Records that the book refused."""

    @property
    def open_holds(self) -> int:
        """Holds this process has not ended yet."""
        return len(self._live)

    @property
    def backlog(self) -> int:
        """Records that wait for the book."""
        return len(self._backlog)

    # Taking ---------------------------------------------------------------------------------------------

    async def take(self, ask: Ask, intent: Record) -> Held:
        """Journal the intent, then reserve. Raises what the gate raises; nothing is held then."""
        if self._backlog.full:
            raise BookUnavailable("the book has been out of reach for too long", retry_after_s=5)
        await self._know(ask.principal.bucket)
        if ask.hold_id in self._live:
            raise InProgress("an earlier request of this key has not ended yet, ask again")
        self._journal.open(ask.hold_id, intent)
        now = self._clock.monotonic()
        stub = Hold(
            id=ask.hold_id,
            kind=ask.kind,
            organization_id=ask.principal.organization_id,
            account_id=ask.account_id,
            bucket=ask.principal.bucket,
            microcredits=0,
            tokens=None,
            limit_keys=(),
        )
        held = Held(
            stub,
            intent,
            ask.meta,
            now,
            0,
            state="asking",
            last_progress=ask.progress_microcredits,
            last_ok=now,
        )
        self._live[ask.hold_id] = held
        try:
            held.hold = await self._gate.reserve(ask)
        except StoreUnavailable as error:
            if isinstance(error, BookUnavailable | StoreUnreached):
                self.forget(held)  # Answered (a cold account that the book cannot warm), or never sent.
            else:
                held.state = "doubtful"  # It may have been applied: released until it is surely gone.
            raise
        except (FaregateError, KeyChanged):
            self.forget(held)
            raise
        except BaseException:
            held.state = "doubtful"
            raise
        held.state = "held"
        held.last_ok = held.hold.asked_at or now  # It may have sat out a grace before it was granted.
        held.microcredits = held.hold.microcredits
        if counted := held.hold.counted:
            held.intent = replace(intent, limit_keys=counted)
        return held

    async def forward(self, held: Held) -> None:
        """The last step before the first upstream byte. Raises StoreUnavailable; the hold is ended then."""
        try:
            if self._clock.monotonic() - held.last_ok > self._heartbeat_s:
                await self._confirm(held)
            self._journal.forward(held.hold.id, held.hold)
        except StoreUnavailable:
            await self.release(held)
            raise
        held.state = "forwarded"

    async def _confirm(self, held: Held) -> None:
        """We were stopped between hold and forward: is it still ours? Past its deadline no answer can be trusted."""
        if self._overdue(held):
            raise StoreUnavailable("the hold of this call has expired, try again", retry_after_s=1)
        answer = await self._gate.extend(self._beat_of(held))
        if answer == "no_hold":
            (answer,) = await self._gate.reassert([self._lost(held)])
        if answer != "ok":
            raise StoreUnavailable("the hold of this call has expired, try again", retry_after_s=1)
        held.last_ok = self._clock.monotonic()

    # Ending ---------------------------------------------------------------------------------------------

    async def settle(self, held: Held, record: Record) -> Committed | None:
        """Journal the truth, commit it, close the hold. None: SQL is slow, but the journal is on the platter."""
        if record.charge_microcredits > held.microcredits:
            await self._overrun(held, record.charge_microcredits)
        held.state, held.owed = "learned", record
        held.owed_at = self._clock.monotonic()
        journaled = self._learn(held, record)
        end = self._own(self._close(held, record))
        if journaled:
            await asyncio.wait({end}, timeout=self._settle_wait_s)
            if not end.done() and not await self._synced():
                journaled = False
        if not journaled:
            await asyncio.wait({end})
        return end.result() if end.done() else None

    def _learn(self, held: Held, record: Record) -> bool:
        try:
            self._journal.learned(record)
        except JournalUnavailable as error:
            self._events.trouble("journal", error.message)
            return False
        return True

    def _overdue(self, held: Held) -> bool:
        """Nothing was heard of it for a hold deadline: a sweeper may have closed it, whatever Redis says now."""
        return self._clock.monotonic() - held.last_ok > 3 * self._heartbeat_s

    async def release(self, held: Held) -> None:
        """End a hold whose truth is zero. Goes on in the background when Redis does not answer. Once is enough."""
        if held.state in ("learned", "ending"):
            return
        if held.state == "forwarded":
            self._learn(held, zero_record(held.intent))  # A replay must not take the call for one nobody knows about.
        held.state = "ending"
        end = self._own(self._release(held))
        await asyncio.wait({end}, timeout=self._settle_wait_s)

    async def unguard(self, held: Held, snapshot: Snapshot | None) -> None:
        """End a guard: with what the book says of the account now, or (None) when it is not known what it says."""
        if snapshot is None:
            await self.settle(held, zero_record(held.intent))
            return
        held.state = "ending"
        end = self._own(self._settle_known(held, snapshot))
        await asyncio.wait({end}, timeout=self._settle_wait_s)

    async def _settle_known(self, held: Held, snapshot: Snapshot) -> None:
        await self._persist(lambda: self._settle(held, snapshot))
        self._recent.append(_Closed(self._clock.monotonic(), held.hold, snapshot))
        self.forget(held)

    def forget(self, held: Held) -> None:
        """It is over for this process: ended, never there, or another owner's (whose to end it then is)."""
        self._live.pop(held.hold.id, None)
        self._journal.closed(held.hold.id)

    async def _release(self, held: Held) -> None:
        """Redis alone may say that it is over only while no sweeper can have been there; else the book must know."""
        sure = not held.unsure and not self._overdue(held)
        answer = await self._persist(lambda: self._gate.release(held.hold))
        if answer == "ok" and sure:
            self._recent.append(_Closed(self._clock.monotonic(), held.hold, None, held))
            self.forget(held)
        else:
            await self._close(held, zero_record(held.intent))

    async def _close(self, held: Held, record: Record) -> Committed | None:
        try:
            committed = await self._backlog.commit(record)
        except BookRefused as error:
            # Parked: the journal and the hold stay until somebody has looked.
            self.parked += 1
            self._events.trouble("parked", f"{record.hold_id}: {error.message}")
            return None
        held.state = "ending"
        await self._settle_known(held, committed.snapshot)
        return committed

    async def _settle(self, held: Held, snapshot: Snapshot) -> None:
        if held.arrears is None:
            await self._gate.settle(held.hold, snapshot, held.hold.bucket)
        else:
            await self._arrears.unfold(held, held.arrears, snapshot)

    async def _overrun(self, held: Held, charge: int) -> None:
        """The truth is more than the hold: tighten first, so that the difference never counts zero times."""
        self._events.overrun(charge - held.microcredits)
        held.microcredits = charge
        try:
            await self._gate.extend(self._beat_of(held))
        except StoreUnavailable:
            return  # The heartbeat says it again.

    async def _synced(self) -> bool:
        try:
            await self._journal.sync()
        except JournalUnavailable as error:
            self._events.trouble("journal", error.message)
            return False
        return True

    async def _persist(self, act: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Until it is done: the store is away, not wrong. Every act can be repeated."""
        try:
            return await act()
        except StoreUnavailable:
            self.late_closes += 1
        try:
            return await self._knock(act)
        finally:
            self.late_closes -= 1

    async def _knock(self, act: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """A few at a time, and not in step."""
        attempt = 0
        while True:
            rest_s = _RETRY_S[min(attempt, len(_RETRY_S) - 1)]
            await asyncio.sleep(rest_s * (0.5 + random()))  # noqa: S311 - spreads, keeps no secret
            attempt += 1
            async with self._knocks:
                try:
                    return await act()
                except StoreUnavailable:
                    continue

    def _own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)
        return task

    # Keeping --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """The heartbeat, for the life of the process."""
        while not self._stopping:
            await asyncio.sleep(self._heartbeat_s)
            try:
                await self.beat()
            except StoreUnavailable as error:
                self._events.trouble("heartbeat", error.message)

    async def beat(self) -> None:
        """One heartbeat: extend what is open, put back what was lost; then answer to a new epoch, and the rest."""
        now = self._clock.monotonic()
        while self._recent and now - self._recent[0].at > 3 * self._heartbeat_s:
            self._recent.popleft()
        keep = [held for held in self._live.values() if held.state in KEPT and held.arrears is None]
        doubtful = [held for held in self._live.values() if held.state == "doubtful"]
        buckets = {held.hold.bucket for held in keep} | {closed.hold.bucket for closed in self._recent}
        answers, epochs = await self._gate.beat([self._beat_of(held) for held in keep], buckets)
        heard = list(zip(keep, answers, strict=True))
        await in_slices(heard, lambda pair: self._hear(*pair))
        again = self._on_epochs(epochs)
        await in_slices([h for h in doubtful if now - h.last_ok >= self._heartbeat_s], self._undoubt)
        try:
            await self._arrears.beat(list(self._live.values()), now)
        except StoreUnavailable as error:
            self._events.trouble("arrears", error.message)
        self._carry([held for held in keep if now - held.taken_at > _LONG_S][:_CARRIED_AT_ONCE])
        if again:
            await asyncio.wait(again, timeout=self._settle_wait_s)

    def _carry(self, long: Sequence[Held]) -> None:
        for held in long:
            if held.state not in ("held", "forwarded"):
                continue
            hold = held.hold if held.state == "forwarded" else None
            try:
                self._journal.carry(held.hold.id, held.intent, hold, held.last_progress)
            except JournalUnavailable as error:
                self._events.trouble("journal", error.message)
                return

    async def _hear(self, held: Held, answer: str) -> None:
        if answer == "no_hold" and held.state in KEPT and held.arrears is None:
            self._events.trouble("reasserted", held.hold.id)
            answer = await self._reassert(held)
        if answer == "ok":
            held.last_ok = self._clock.monotonic()
        elif answer == "swept" or self._overdue(held):
            self._cut(held)

    async def _reassert(self, held: Held) -> str:
        try:
            (answer,) = await self._gate.reassert([self._lost(held)])
        except StoreUnreached:
            return "lost"
        except StoreUnavailable:
            held.unsure = True
            return "lost"
        return answer

    def _cut(self, held: Held) -> None:
        self._events.trouble("cut", held.hold.id)
        held.lost = True
        if held.on_cut is not None:
            held.on_cut()

    def _on_epochs(self, epochs: dict[int, str]) -> list[asyncio.Task[None]]:
        """Redis lost something: say every close of the last deadline again (a release lost with the tail came back).

        Beside the heartbeat, which must not wait for it. A bucket's epoch is noted only once that has been done.
        """
        lost: dict[int, list[_Closed]] = {
            b: [] for b, epoch in epochs.items() if self._epochs.get(b) != epoch and b not in self._saying
        }
        if not lost:
            return []
        for closed in self._recent:
            if closed.hold.bucket in lost:
                lost[closed.hold.bucket].append(closed)
        self._saying.update(lost)
        return [self._own(self._say_again(bucket, epochs[bucket], closes)) for bucket, closes in lost.items()]

    async def _say_again(self, bucket: int, epoch: str, closes: Sequence[_Closed]) -> None:
        try:
            await in_slices(closes, self._close_again)
            self._epochs[bucket] = epoch
        except StoreUnavailable as error:
            self._events.trouble("epoch", error.message)
        finally:
            self._saying.discard(bucket)

    async def _know(self, bucket: int) -> None:
        """The epoch before our first hold in a bucket: what is lost later shows as another one."""
        if bucket not in self._epochs:
            self._epochs.setdefault(bucket, await self._gate.epoch(bucket, for_hold=True))

    async def _close_again(self, closed: _Closed) -> None:
        if closed.snapshot is not None:
            await self._gate.settle(closed.hold, closed.snapshot, closed.hold.bucket)
        elif closed.released is not None and await self._gate.release(closed.hold) != "ok":
            await self._zero(closed.released)  # A sweeper may have been there between the loss and now.

    async def _zero(self, held: Held) -> None:
        """The truth is zero, and somebody else may have booked more: the book decides."""
        self._live[held.hold.id] = held
        self._journal.open(held.hold.id, held.intent)
        self._learn(held, zero_record(held.intent))
        held.state = "ending"
        await asyncio.wait({self._own(self._close(held, zero_record(held.intent)))}, timeout=self._settle_wait_s)

    async def _undoubt(self, held: Held) -> None:
        """An unanswered reserve: released until two answers a heartbeat apart say that nothing is there.

        Later than a deadline after it was asked for, a sweeper may have been faster: then the book decides.
        """
        swept = self._clock.monotonic() - held.taken_at > 3 * self._heartbeat_s
        try:
            answer = await self._gate.release(held.hold)
        except StoreUnavailable:
            return
        held.last_ok = self._clock.monotonic()
        if answer == "no_hold" and not held.no_holds:
            held.no_holds += 1
        elif answer == "swept" or swept:
            held.state = "ending"
            self._own(self._close(held, zero_record(held.intent)))
        else:
            if answer == "ok":
                self._recent.append(_Closed(self._clock.monotonic(), held.hold, None, held))
            self.forget(held)

    def _beat_of(self, held: Held) -> Beat:
        if held.progress is not None and held.state == "forwarded":
            progress = held.progress()
            if progress != held.last_progress:
                held.last_progress = progress
                self._note_progress(held)
        return Beat(hold=held.hold, microcredits=held.microcredits, progress_microcredits=held.last_progress)

    def _note_progress(self, held: Held) -> None:
        try:
            self._journal.progress(held.hold.id, held.last_progress)
        except JournalUnavailable as error:
            self._events.trouble("journal", error.message)

    def _lost(self, held: Held) -> SweptHold:
        hold = replace(held.hold, microcredits=held.microcredits)
        return SweptHold(hold=hold, progress_microcredits=held.last_progress, meta=held.meta)

    # The end --------------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> bool:
        """At the end of the process: wait for what is ending, while `run` goes on. True when nothing is left open."""
        deadline = self._clock.monotonic() + timeout_s
        while self._ends and (left := deadline - self._clock.monotonic()) > 0:
            await asyncio.wait(set(self._ends), timeout=left)
        doubtful = [h for h in self._live.values() if h.state == "doubtful"]
        if doubtful and (left := deadline - self._clock.monotonic()) > 0:
            await asyncio.wait({self._own(in_slices(doubtful, self._undoubt))}, timeout=left)
        self._stopping = True
        return not self._live
