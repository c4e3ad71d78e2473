"""`ports.Gate` on Redis: the thin caller of the scripts, and the warming of cold accounts from the book."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import random
from typing import Any
from weakref import WeakKeyDictionary

from faregate.core.call import Hold, HoldKind, Limit, LimitState, Principal, Reservation, Snapshot
from faregate.core.codec import encode_record
from faregate.core.reservation import hold_of, record_of
from faregate.core.windows import FAR_FUTURE_S, window_bounds
from faregate.credits import names
from faregate.credits.pipe import Arg, Pipe
from faregate.errors import (
    BookUnavailable,
    Conflict,
    InsufficientCredits,
    LimitExceeded,
    StoreUnavailable,
    StoreUnreached,
)
from faregate.guard import Guard, book_guard, redis_guard
from faregate.ports import Ask, Beat, BeatAnswer, Book, Clock, KeyChanged, SweptHold
from faregate.slices import in_slices

_REREAD_S = 1.0
_REFRESH_S = 0.02
_REREAD_ACCOUNTS = 10_000
_IN_GRACE_MOST = 2_000
"""How many calls may wait for a fresh gate's grace to end; the next ones are told to come back."""
_AFTER_GRACE_S = 0.1
"""Over which those who waited come back."""
_ROUNDS = 12
"""How often one reserve may be sent on (cold, refresh, window, grace) before the store counts as unavailable."""

_KINDS: Mapping[bytes, HoldKind] = {b"call": "call", b"api": "api", b"arrears": "arrears", b"guard": "guard"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateTiming:
    """Seconds. The hold deadline is three heartbeats; a fresh gate's grace is one deadline."""

    heartbeat_s: float = 5.0
    hold_wait_s: float = 0.25
    """How long a reserve may take."""
    close_wait_s: float = 2.0
    """How long everything else may take."""
    grace_patience_s: float = 20.0
    """How long a new hold waits for a grace to end before its caller is told to come back."""

    @property
    def deadline_ms(self) -> int:
        return int(3 * self.heartbeat_s * 1000)


class RedisGate:
    """Holds, limits and balances in Redis."""

    def __init__(self, pipe: Pipe, book: Book, clock: Clock, timing: GateTiming) -> None:
        self._pipe = pipe
        self._book = book
        self._clock = clock
        self._timing = timing
        self._skew_us = 0
        """Redis time minus ours, learned when a window did not match."""
        self._reread: OrderedDict[str, tuple[float, asyncio.Task[None]]] = OrderedDict()
        self._rebuilding: dict[tuple[str, ...], asyncio.Task[None]] = {}
        self._guards: WeakKeyDictionary[Pipe, Guard] = WeakKeyDictionary()
        """Of each server that holds are taken at."""
        self.accounts_guard = book_guard(clock, timing.close_wait_s, "the account cannot be read in time")
        self.in_grace = 0
        """Calls that wait for a fresh gate's grace to end."""

    # Taking ---------------------------------------------------------------------------------------------

    async def reserve(self, ask: Ask) -> Hold:
        patience_ends = self._clock.monotonic() + self._timing.grace_patience_s
        reread = False
        for _ in range(_ROUNDS):
            windows = self._windows(ask.principal)
            asked_at = self._clock.monotonic()
            reply = await self._reserve(ask, windows)
            answer = reply[0]
            if answer in (b"ok", b"duplicate"):
                return self._hold(ask, reply, windows, asked_at)
            if answer == b"recheck":
                raise KeyChanged
            if answer == b"cold":
                await self._warm(ask, reply[1].decode(), windows)
            elif answer == b"refresh":
                await self.accounts_guard.run(lambda: self._apply(ask.account_id, ask.principal.bucket))
                await asyncio.sleep(_REFRESH_S)  # Redis's clock may be ahead of the book's: not yet due there.
            elif answer == b"window":
                self._skew_us = int(reply[1]) * 1000 - self._clock.now_us()
            elif answer == b"grace":
                await self._sit_out(int(reply[1]), patience_ends)
            elif answer == b"insufficient":
                if reread or not await self._reread_once(ask):
                    raise InsufficientCredits(ask.floor_microcredits, int(reply[1]))
                reread = True
            elif answer == b"limited":
                raise self._limited(ask, int(reply[1]), int(reply[2]))
            else:
                raise Conflict("this hold has been closed already")
        raise StoreUnavailable("the credit store is settling, try again", retry_after_s=1)

    async def _reserve(self, ask: Ask, windows: list[tuple[Limit, int, int]]) -> list[bytes]:
        principal = ask.principal
        keys = names.hold_keys(principal.bucket, ask.account_id)
        args: list[Arg] = [
            ask.hold_id,
            names.member(ask.account_id, ask.hold_id),
            ask.kind,
            principal.rev if principal.key_id else "",
            ask.want_microcredits,
            ask.floor_microcredits,
            ask.want_tokens,
            ask.floor_tokens,
            ask.share_permille,
            ask.ttl_ms or self._timing.deadline_ms,
            self._timing.deadline_ms,
            int(ask.forced),
            ask.progress_microcredits,
            ask.meta,
        ]
        also: list[str] = []
        for limit, start_s, end_s in windows:
            key = names.limit_window(principal.bucket, names.limit_key(limit, start_s))
            args += [key, names.LETTER[limit.kind], limit.max, start_s * 1000, end_s * 1000]
            also.append(key)
        key_rev = f"{names.base(principal.bucket)}key:{principal.key_id}"
        wait_s = self._timing.hold_wait_s
        run, every = self._pipe.run, (*keys, key_rev)
        reply: list[bytes] = await self._guard(principal.bucket).run(lambda: run("reserve", every, args, wait_s, also))
        return reply

    def _guard(self, bucket: int) -> Guard:
        server = self._pipe.at(names.base(bucket))
        guard = self._guards.get(server)
        if guard is None:
            wait_s = self._timing.hold_wait_s
            guard = self._guards[server] = redis_guard(self._clock, lambda: self._look(bucket, "", wait_s))
        return guard

    @property
    def refusing(self) -> int:
        """Servers that new holds are not asked of, since they do not answer."""
        return sum(not guard.closed for guard in self._guards.values())

    def _windows(self, principal: Principal) -> list[tuple[Limit, int, int]]:
        if not principal.limits:
            return []
        now_s = (self._clock.now_us() + self._skew_us) // 1_000_000
        windows = []
        for limit in principal.limits:
            start_s, end_s = (0, FAR_FUTURE_S) if limit.kind == "concurrency" else window_bounds(limit.window, now_s)
            windows.append((limit, start_s, end_s))
        return windows

    def _hold(self, ask: Ask, reply: list[bytes], windows: list[tuple[Limit, int, int]], asked_at: float) -> Hold:
        return Hold(
            id=ask.hold_id,
            kind=ask.kind,
            organization_id=ask.principal.organization_id,
            account_id=ask.account_id,
            bucket=ask.principal.bucket,
            microcredits=int(reply[1]),
            tokens=int(reply[2]) if any(limit.kind == "tokens" for limit, _, _ in windows) else None,
            limit_keys=tuple(names.limit_key(limit, start_s) for limit, start_s, _ in windows),
            rests=tuple(int(rest) for rest in reply[3:]),
            asked_at=asked_at,
            duplicate=reply[0] == b"duplicate",
        )

    def _limited(self, ask: Ask, index: int, retry_ms: int) -> LimitExceeded:
        limit = ask.principal.limits[index]
        name = limit.kind if limit.kind == "concurrency" else f"{limit.kind} per {limit.window}"
        least = {"credits": ask.floor_microcredits, "tokens": ask.floor_tokens}.get(limit.kind, 1)
        if limit.window == "total" and limit.kind != "concurrency":
            return LimitExceeded(f"{limit.kind} in total", None, hopeless=True)
        return LimitExceeded(name, max(1, -(-retry_ms // 1000)), hopeless=least > limit.max)

    async def _sit_out(self, wait_ms: int, patience_ends: float) -> None:
        """A fresh gate: its holds' owners come first."""
        wait_s = wait_ms / 1000 + 0.005
        if self._clock.monotonic() + wait_s > patience_ends:
            raise StoreUnavailable("the credit store is being rebuilt", retry_after_s=max(1, int(wait_s) + 1))
        if self.in_grace >= _IN_GRACE_MOST:
            raise StoreUnreached("too many calls wait for the credit store", retry_after_s=max(1, int(wait_s) + 1))
        self.in_grace += 1
        try:
            await asyncio.sleep(wait_s + _AFTER_GRACE_S * random())  # noqa: S311 - not all in the same moment
        finally:
            self.in_grace -= 1

    # Warming --------------------------------------------------------------------------------------------

    async def _warm(self, ask: Ask, ticket: str, windows: list[tuple[Limit, int, int]]) -> None:
        """Rebuild an account from the book, once for all calls that found it cold."""
        flight = (ask.account_id, ticket, *(names.limit_key(limit, start_s) for limit, start_s, _ in windows))
        task = self._rebuilding.get(flight)
        if task is None:
            task = asyncio.create_task(self._rebuild(ask.account_id, ask.principal.bucket, ticket, windows))
            self._rebuilding[flight] = task
            task.add_done_callback(lambda _: self._rebuilding.pop(flight, None))
            task.add_done_callback(_seen)
        await self.accounts_guard.run(lambda: asyncio.shield(task))

    async def _rebuild(self, account_id: str, bucket: int, ticket: str, windows: list[tuple[Limit, int, int]]) -> None:
        counted = [(limit, start_s) for limit, start_s, _ in windows if limit.kind != "concurrency"]
        snapshot = await self._book.snapshot(account_id, counted, gate=True)
        now_us = self._clock.now_us()
        args: list[Arg] = [ticket, *_absolutes(snapshot), int(snapshot.gated), len(snapshot.reservations)]
        for reservation in snapshot.reservations:
            args += _lost_reservation(reservation, now_us)
        ends = {names.limit_key(limit, start_s): end_s for limit, start_s, end_s in windows}
        week_ms = 7 * 24 * 3600 * 1000
        now_ms = now_us // 1000
        for state in snapshot.limits:
            until_ms = min(ends[state.key] * 1000, now_ms) + week_ms
            args += [names.limit_window(bucket, state.key), state.used, state.seq, until_ms]
        keys = names.hold_keys(bucket, account_id)
        also = [names.limit_window(bucket, state.key) for state in snapshot.limits]
        if await self._pipe.run("rebuild", keys, args, self._timing.close_wait_s, also) == b"ok":
            await self._forget_ended(snapshot, bucket)

    async def _forget_ended(self, snapshot: Snapshot, bucket: int) -> None:
        """A reservation that ended after it was read and before it was put back: nobody else drops that hold."""
        if not snapshot.reservations:
            return
        now = await self._book.snapshot(snapshot.account_id, (), gate=True)
        pending = {reservation.id for reservation in now.reservations}
        ended = [one for one in snapshot.reservations if one.id not in pending]
        await in_slices(ended, lambda one: self.settle(hold_of(one), now, bucket))

    async def _apply(self, account_id: str, bucket: int) -> None:
        snapshot = await self._book.snapshot(account_id, (), gate=False)
        await self.settle(None, snapshot, bucket)

    async def _reread_once(self, ask: Ask) -> bool:
        """Before `insufficient` is believed: a lost settle of added credits heals here. At most once a second.

        Calls that come while one reads wait for it. False: nothing was read.
        """
        now = self._clock.monotonic()
        last = self._reread.get(ask.account_id)
        if last is not None and (last[1].done() and now - last[0] < _REREAD_S):
            return False
        if last is None or last[1].done():
            task = asyncio.create_task(self._apply(ask.account_id, ask.principal.bucket))
            task.add_done_callback(_seen)
            last = self._reread[ask.account_id] = (now, task)
            self._reread.move_to_end(ask.account_id)
            if len(self._reread) > _REREAD_ACCOUNTS:
                self._reread.popitem(last=False)
        reading = last[1]
        try:
            await self.accounts_guard.run(lambda: asyncio.shield(reading))
        except BookUnavailable:
            return False
        return True

    # Keeping and ending ---------------------------------------------------------------------------------

    async def beat(self, beats: Sequence[Beat], buckets: Iterable[int]) -> tuple[list[BeatAnswer], dict[int, str]]:
        wanted = list(buckets)
        answers = await in_slices(beats, self._beat_or_lost)
        epochs = await asyncio.gather(*(self.epoch(bucket) for bucket in wanted))
        return answers, dict(zip(wanted, epochs, strict=True))

    async def _beat_or_lost(self, beat: Beat) -> BeatAnswer:
        try:
            return await self.extend(beat)
        except StoreUnavailable:
            return "lost"

    async def extend(self, beat: Beat) -> BeatAnswer:
        hold = beat.hold
        args: tuple[Arg, ...] = (
            hold.id,
            names.member(hold.account_id, hold.id),
            "" if beat.microcredits is None else beat.microcredits,
            beat.ttl_ms or self._timing.deadline_ms,
            beat.progress_microcredits,
        )
        return _answer(await self._hold_script("extend", hold, args))

    async def release(self, hold: Hold) -> BeatAnswer:
        return _answer(await self._hold_script("release", hold, (hold.id, names.member(hold.account_id, hold.id))))

    async def reassert(self, holds: Sequence[SweptHold]) -> list[BeatAnswer]:
        return await in_slices(holds, self._reassert)

    async def _reassert(self, lost: SweptHold) -> BeatAnswer:
        hold = lost.hold
        args: tuple[Arg, ...] = (
            hold.id,
            names.member(hold.account_id, hold.id),
            hold.kind,
            hold.microcredits,
            lost.ttl_ms or self._timing.deadline_ms,
            lost.progress_microcredits,
            hold.tokens or 0,
            names.limits_text(hold),
            lost.meta,
        )
        return _answer(await self._hold_script("reassert", hold, args))

    async def settle(self, hold: Hold | None, snapshot: Snapshot, bucket: int) -> None:
        args: list[Arg] = [
            hold.id if hold else "",
            names.member(snapshot.account_id, hold.id) if hold else "",
        ]
        args += _absolutes(snapshot)
        for state in snapshot.limits:
            args += _limit_triple(bucket, state)
        keys = names.hold_keys(bucket, snapshot.account_id)
        also = {names.limit_window(bucket, state.key) for state in snapshot.limits}
        also.update(names.limit_windows(hold) if hold else ())
        await self._pipe.run("settle", keys, args, self._timing.close_wait_s, tuple(also))

    async def fold(self, hold: Hold, arrears: Hold, charge_microcredits: int, record: bytes) -> BeatAnswer:
        args: tuple[Arg, ...] = (*_pair(hold, arrears), charge_microcredits, self._timing.deadline_ms, record)
        return _answer(await self._arrears_script("fold", hold, arrears, args))

    async def unfold(self, hold: Hold, arrears: Hold, snapshot: Snapshot) -> None:
        await self._arrears_script("unfold", hold, arrears, (*_pair(hold, arrears), *_absolutes(snapshot)))

    async def folded(self, arrears: Hold) -> list[bytes]:
        listed = names.arrears(arrears.bucket, arrears.id)
        reply: list[bytes] = await self._pipe.command((b"HVALS", listed), self._timing.close_wait_s)
        return [item.partition(b"|")[2] for item in reply]

    async def _arrears_script(self, name: str, hold: Hold, arrears: Hold, args: tuple[Arg, ...]) -> Any:
        keys = (*names.hold_keys(arrears.bucket, arrears.account_id), names.arrears(arrears.bucket, arrears.id))
        return await self._pipe.run(name, keys, args, self._timing.close_wait_s, names.limit_windows(hold))

    async def epoch(self, bucket: int, *, for_hold: bool = False) -> str:
        """The bucket's epoch. `for_hold`: a new call waits for it, no longer than for its hold."""
        if for_hold:
            wait_s = self._timing.hold_wait_s
            return (await self._guard(bucket).run(lambda: self._look(bucket, "", wait_s)))[0]
        return (await self._look(bucket, ""))[0]

    async def ticket(self, bucket: int) -> str:
        """The bucket's ticket: another one after every loss."""
        return (await self._look(bucket, ""))[1]

    async def calm(self, bucket: int, ticket: str) -> None:
        """The gate of that ticket needs no grace: every journal has been replayed, and nobody else was in there."""
        await self._look(bucket, ticket)

    async def _look(self, bucket: int, ticket: str, wait_s: float | None = None) -> tuple[str, str]:
        key = (names.base(bucket) + "gate",)
        epoch, found = await self._pipe.run("epoch", key, (ticket,), wait_s or self._timing.close_wait_s)
        return epoch.decode(), found.decode()

    async def set_rev(self, bucket: int, key_id: str, rev: int) -> None:
        """Tell Redis a key's rev; an older one never wins."""
        key = f"{names.base(bucket)}key:{key_id}"
        await self._pipe.run("keyrev", (key,), (rev,), self._timing.close_wait_s)

    async def _hold_script(self, name: str, hold: Hold, args: tuple[Arg, ...]) -> Any:
        keys = names.hold_keys(hold.bucket, hold.account_id)
        return await self._pipe.run(name, keys, args, self._timing.close_wait_s, names.limit_windows(hold))

    # Sweeping and looking -------------------------------------------------------------------------------

    async def due(self, bucket: int, sweeper: str, most: int) -> list[tuple[str, str]]:
        """(account, hold id) of holds past their deadline; empty when another sweeper has the bucket."""
        head = names.base(bucket)
        lease_ms = int(2 * self._timing.heartbeat_s * 1000)
        reply: list[bytes] = await self._pipe.run(
            "due",
            (head + "gate", head + "due", head + "sweeper"),
            (sweeper, lease_ms, most),
            self._timing.close_wait_s,
        )
        found = []
        for text in reply[1:]:
            account_id, _, hold_id = text.decode().partition("|")
            found.append((account_id, hold_id))
        return found

    async def claim(self, bucket: int, account_id: str, hold_id: str) -> SweptHold | None:
        """Begin to close a hold whose owner is gone; None when it is not due any more."""
        reply: list[bytes] = await self._pipe.run(
            "claim",
            names.hold_keys(bucket, account_id),
            (hold_id, names.member(account_id, hold_id), self._timing.deadline_ms),
            self._timing.close_wait_s,
        )
        if reply[0] != b"claimed":
            return None
        return parse_hold(reply[1], bucket, account_id, hold_id)

    async def account(self, bucket: int, account_id: str) -> dict[str, str]:
        """An account as Redis has it (posted, seq, held, ...); empty when it is cold."""
        reply: list[bytes] = await self._pipe.command(
            (b"HGETALL", names.hold_keys(bucket, account_id)[1]), self._timing.close_wait_s
        )
        texts = [part.decode() for part in reply]
        return dict(zip(texts[::2], texts[1::2], strict=True))

    async def holds(self, bucket: int, account_id: str) -> list[SweptHold]:
        """The account's open holds as Redis has them."""
        reply: list[bytes] = await self._pipe.command(
            (b"HGETALL", names.hold_keys(bucket, account_id)[2]), self._timing.close_wait_s
        )
        return [
            parse_hold(text, bucket, account_id, hold_id.decode())
            for hold_id, text in zip(reply[::2], reply[1::2], strict=True)
        ]


def parse_hold(text: bytes, bucket: int, account_id: str, hold_id: str) -> SweptHold:
    """A hold as the scripts write it (lua/lib.lua)."""
    _, kind, _, amount, progress, tokens, limits, meta = text.split(b"|", 7)
    hold = Hold(
        id=hold_id,
        kind=_KINDS.get(kind, "call"),
        organization_id="",
        account_id=account_id,
        bucket=bucket,
        microcredits=int(amount),
        tokens=int(tokens),
        limit_keys=names.parse_limits(limits.decode(), bucket),
    )
    return SweptHold(hold=hold, progress_microcredits=int(progress), meta=meta)


def _seen(task: asyncio.Task[None]) -> None:
    """Its failure goes to whoever waits for it."""
    if not task.cancelled():
        task.exception()


def _absolutes(snapshot: Snapshot) -> list[Arg]:
    return [snapshot.posted, snapshot.seq, snapshot.overdraft, snapshot.fresh_until_ms]


def _lost_reservation(reservation: Reservation, now_us: int) -> list[Arg]:
    """A pending reservation's hold as the scripts write it, with what is left of its time."""
    hold = hold_of(reservation)
    text = ("1", hold.kind, "o", str(hold.microcredits), "0", "0", names.limits_text(hold))
    meta = encode_record(record_of(reservation, reservation.microcredits))
    ttl_ms = max(1, (reservation.expires_us - now_us) // 1000)
    return [hold.id, names.member(hold.account_id, hold.id), ttl_ms, "|".join(text).encode() + b"|" + meta]


def _limit_triple(bucket: int, state: LimitState) -> list[Arg]:
    return [names.limit_window(bucket, state.key), state.used, state.seq]


def _pair(hold: Hold, arrears: Hold) -> tuple[Arg, ...]:
    return (
        hold.id,
        names.member(hold.account_id, hold.id),
        arrears.id,
        names.member(arrears.account_id, arrears.id),
    )


def _answer(reply: bytes) -> BeatAnswer:
    if reply == b"ok":
        return "ok"
    return "no_hold" if reply == b"no_hold" else "swept"
