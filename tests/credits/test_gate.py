"""RedisGate: what it makes of each answer, with a book in plain Python behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from faregate.core.call import Committed, Hold, Limit, LimitState, Principal, Record, Snapshot
from faregate.core.windows import window_bounds
from faregate.credits.gate import GateTiming, RedisGate
from faregate.credits.pipe import Pipe
from faregate.errors import BookUnavailable, Conflict, InsufficientCredits, LimitExceeded, StoreUnavailable
from faregate.ports import Ask, Beat, KeyChanged, SweptHold

KEY = Principal(
    key_id="k",
    rev=1,
    organization_id="org",
    account_id=None,
    default_account_id="a",
    scopes=frozenset(),
)
FAST = GateTiming(heartbeat_s=0.05, hold_wait_s=2.0, grace_patience_s=1.0)


@dataclass
class PlainBook:
    """`ports.Book` for one account."""

    posted: int = 100
    seq: int = 1
    gated: bool = False
    away: bool = False
    reads: int = 0
    used: dict[str, int] = field(default_factory=dict)

    async def commit(self, record: Record) -> Committed:
        raise NotImplementedError

    async def snapshot(self, account_id: str, limits: Sequence[tuple[Limit, int]], *, gate: bool) -> Snapshot:
        self.reads += 1
        await asyncio.sleep(0.01)
        if self.away:
            raise BookUnavailable("the book is away")
        gated, self.gated = self.gated, self.gated or gate
        keys = [f"{limit.id}:{start_s}" for limit, start_s in limits]
        states = tuple(LimitState(key=key, used=self.used.get(key, 0), seq=self.seq) for key in keys)
        return Snapshot(account_id=account_id, posted=self.posted, seq=self.seq, gated=gated, limits=states)


class WallClock:
    """The real clock, `off_us` beside Redis's."""

    off_us = 0

    def now_us(self) -> int:
        return time.time_ns() // 1000 + self.off_us

    def monotonic(self) -> float:
        return time.monotonic()


@pytest.fixture
def book() -> PlainBook:
    return PlainBook()


@pytest.fixture
def clock() -> WallClock:
    return WallClock()


@pytest.fixture
async def gate(pipe: Pipe, book: PlainBook, clock: WallClock) -> RedisGate:
    gate = RedisGate(pipe, book, clock, FAST)
    await gate.set_rev(KEY.bucket, KEY.key_id, 1)
    return gate


def ask(hold: str, want: int = 10, principal: Principal = KEY) -> Ask:
    return Ask(
        hold_id=hold,
        kind="call",
        principal=principal,
        account_id="a",
        want_microcredits=want,
        floor_microcredits=want,
        want_tokens=0,
        floor_tokens=0,
        progress_microcredits=1,
        meta=b"m|n",
    )


async def wipe(gate: RedisGate, pipe: Pipe) -> None:
    await pipe.command(("FLUSHALL",), 5.0)
    await gate.set_rev(KEY.bucket, KEY.key_id, 1)


async def test_a_cold_account_is_read_once_for_all(gate: RedisGate, book: PlainBook) -> None:
    holds = await asyncio.gather(*(gate.reserve(ask(f"h{n}", 5)) for n in range(20)))
    assert [hold.microcredits for hold in holds] == [5] * 20
    assert book.reads == 1
    assert (await gate.account(KEY.bucket, "a"))["held"] == "100"


async def test_a_cancelled_caller_does_not_stop_the_rebuild_of_others(gate: RedisGate) -> None:
    first = asyncio.create_task(gate.reserve(ask("h")))
    second = asyncio.create_task(gate.reserve(ask("i")))
    await asyncio.sleep(0.005)
    first.cancel()
    assert (await second).id == "i"


async def test_insufficient_is_believed_only_after_the_book(gate: RedisGate, book: PlainBook) -> None:
    await gate.reserve(ask("h", 90))
    book.posted, book.seq = 200, 2  # The settle of these added credits was lost.
    assert (await gate.reserve(ask("i", 100))).microcredits == 100


async def test_the_book_is_reread_at_most_once_a_second(gate: RedisGate, book: PlainBook) -> None:
    await gate.reserve(ask("h", 100))
    reads = book.reads
    for n in range(5):
        with pytest.raises(InsufficientCredits):
            await gate.reserve(ask(f"i{n}"))
    assert book.reads == reads + 1


async def test_insufficient_stands_when_the_book_is_away(gate: RedisGate, book: PlainBook) -> None:
    await gate.reserve(ask("h", 100))
    book.away = True
    with pytest.raises(InsufficientCredits):
        await gate.reserve(ask("i"))


async def test_a_cold_account_without_its_book_is_unavailable(gate: RedisGate, book: PlainBook) -> None:
    book.away = True
    with pytest.raises(BookUnavailable):
        await gate.reserve(ask("h"))


async def test_another_rev_is_key_changed(gate: RedisGate) -> None:
    await gate.set_rev(KEY.bucket, KEY.key_id, 2)
    with pytest.raises(KeyChanged):
        await gate.reserve(ask("h"))


async def test_a_grace_is_waited_out(gate: RedisGate, book: PlainBook) -> None:
    book.gated = True
    began = time.monotonic()
    await gate.reserve(ask("h"))
    assert time.monotonic() - began > 0.1


async def test_a_grace_beyond_patience_is_unavailable_for_now(pipe: Pipe, book: PlainBook, clock: WallClock) -> None:
    gate = RedisGate(pipe, book, clock, replace(FAST, heartbeat_s=2.0))
    await gate.set_rev(KEY.bucket, KEY.key_id, 1)
    book.gated = True
    with pytest.raises(StoreUnavailable) as refused:
        await gate.reserve(ask("h"))
    assert refused.value.retry_after_s is not None
    assert 5 <= refused.value.retry_after_s <= 7


async def test_a_wipe_lets_owners_come_back_first(gate: RedisGate, book: PlainBook, pipe: Pipe) -> None:
    hold = await gate.reserve(ask("h", 90))
    await wipe(gate, pipe)
    late = asyncio.create_task(gate.reserve(ask("i", 90)))
    await asyncio.sleep(0.03)
    assert await gate.reassert([SweptHold(hold=hold, progress_microcredits=1, meta=b"m")]) == ["ok"]
    with pytest.raises(InsufficientCredits):
        await late


async def test_a_clock_beside_rediss_finds_its_window(gate: RedisGate, clock: WallClock) -> None:
    clock.off_us = 90_000_000
    limited = replace(KEY, limits=(Limit(id="k.requests.minute", kind="requests", window="minute", max=5),))
    hold = await gate.reserve(ask("h", principal=limited))
    start_s = int(hold.limit_keys[0].rpartition(":")[2])
    assert start_s <= time.time() < start_s + 61


async def test_a_used_up_limit_says_which_and_until_when(gate: RedisGate, book: PlainBook) -> None:
    limit = Limit(id="k.requests.minute", kind="requests", window="minute", max=1)
    book.used[f"{limit.id}:{window_bounds(limit.window, int(time.time()))[0]}"] = 1
    with pytest.raises(LimitExceeded, match="requests per minute") as refused:
        await gate.reserve(ask("h", principal=replace(KEY, limits=(limit,))))
    assert refused.value.retry_after_s is not None
    assert 1 <= refused.value.retry_after_s <= 60


async def test_concurrency_is_the_number_of_open_holds(gate: RedisGate) -> None:
    limited = replace(KEY, limits=(Limit(id="k.concurrency.total", kind="concurrency", window="total", max=1),))
    hold = await gate.reserve(ask("h", principal=limited))
    with pytest.raises(LimitExceeded, match="concurrency"):
        await gate.reserve(ask("i", principal=limited))
    await gate.release(hold)
    await gate.reserve(ask("i", principal=limited))


async def test_a_claimed_hold_cannot_be_reserved_again(gate: RedisGate) -> None:
    await gate.reserve(replace(ask("h"), ttl_ms=1))
    await asyncio.sleep(0.005)
    swept = await gate.claim(KEY.bucket, "a", "h")
    assert swept is not None
    assert (swept.hold.microcredits, swept.progress_microcredits, swept.meta) == (10, 1, b"m|n")
    with pytest.raises(Conflict):
        await gate.reserve(ask("h"))


async def test_beats_answer_for_each_hold_and_bucket(gate: RedisGate) -> None:
    hold = await gate.reserve(ask("h"))
    lost = replace(hold, id="gone")
    beats = [Beat(hold=h, microcredits=10, progress_microcredits=2) for h in (hold, lost)]
    answers, epochs = await gate.beat(beats, [KEY.bucket])
    assert answers == ["ok", "no_hold"]
    assert len(epochs[KEY.bucket]) == 40


async def test_due_names_account_and_hold(gate: RedisGate) -> None:
    await gate.reserve(replace(ask("h"), ttl_ms=1))
    await asyncio.sleep(0.005)
    assert await gate.due(KEY.bucket, "me", 10) == [("a", "h")]
    assert await gate.due(KEY.bucket, "you", 10) == []


async def test_settle_closes_and_may_be_repeated(gate: RedisGate) -> None:
    hold: Hold = await gate.reserve(ask("h"))
    for _ in range(2):
        await gate.settle(hold, Snapshot(account_id="a", posted=93, seq=2), KEY.bucket)
    account = await gate.account(KEY.bucket, "a")
    assert (account["posted"], account["seq"], account["held"]) == ("93", "2", "0")
    assert await gate.holds(KEY.bucket, "a") == []
