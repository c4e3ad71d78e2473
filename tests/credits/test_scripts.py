"""One behaviour of one script each, on a real server."""

from __future__ import annotations

from typing import Any

import pytest

from faregate.credits.pipe import Pipe
from faregate.errors import StoreUnavailable
from tests.credits.conftest import Bench

FAR_MS = 4_000_000_000_000
BIG = 2**53 - 1
ALWAYS = (0, FAR_MS)


async def now_ms(bench: Bench) -> int:
    seconds, micros = await bench.command("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


# reserve


async def test_reserve_takes_the_amount(bench: Bench) -> None:
    await bench.rebuild(100, 5)
    assert await bench.reserve("h", 30) == ["ok", "30", "0"]
    assert await bench.state() == (100, 5, 30)
    assert await bench.holds() == {"h": "1|call|o|30|3|0||meta|with|bars"}


async def test_reserve_again_is_a_duplicate_and_takes_nothing(bench: Bench) -> None:
    await bench.rebuild(100)
    await bench.reserve("h", 30)
    assert await bench.reserve("h", 70) == ["duplicate", "30", "0"]
    assert (await bench.state())[2] == 30


async def test_reserve_of_a_claimed_hold_is_swept(bench: Bench) -> None:
    await bench.rebuild(100)
    await bench.reserve("h", ttl_ms=0)
    await bench.claim("h")
    assert await bench.reserve("h") == ["swept"]


async def test_reserve_on_an_unknown_account_is_cold_with_the_gates_ticket(bench: Bench) -> None:
    answer, ticket = await bench.reserve("h")
    assert (answer, ticket) == ("cold", await bench.ticket())
    assert await bench.holds() == {}


async def test_reserve_with_another_rev_is_sent_to_the_book(bench: Bench) -> None:
    await bench.rebuild(100)
    assert await bench.reserve("h", rev="1") == ["recheck"]
    await bench.run("keyrev", 2, keys=("fg:{b007}:key:k",))
    assert await bench.reserve("h", rev="1") == ["recheck"]
    assert (await bench.reserve("h", rev="2"))[0] == "ok"


async def test_a_rev_told_in_another_epoch_is_not_believed(bench: Bench) -> None:
    await bench.rebuild(100)
    await bench.command("SET", "fg:{b007}:key:k", "1:another")
    assert await bench.reserve("h", rev="1") == ["recheck"]
    assert await bench.run("keyrev", 1, keys=("fg:{b007}:key:k",)) == "1"
    assert (await bench.reserve("h", rev="1"))[0] == "ok"


async def test_a_fresh_gate_makes_accounts_with_holds_wait(bench: Bench) -> None:
    await bench.rebuild(100, gated=1)
    answer, ms = await bench.reserve("h", grace_ms=60_000)
    assert answer == "grace"
    assert 0 < int(ms) <= 60_000


async def test_an_account_that_never_had_a_hold_does_not_wait(bench: Bench) -> None:
    await bench.rebuild(100, gated=0)
    assert (await bench.reserve("h", grace_ms=60_000))[0] == "ok"


async def test_a_calm_gate_does_not_wait(bench: Bench) -> None:
    _, ticket = await bench.run("epoch", "", keys=bench.keys[:1])
    await bench.run("epoch", ticket, keys=bench.keys[:1])
    await bench.rebuild(100, gated=1)
    assert (await bench.reserve("h", grace_ms=60_000))[0] == "ok"


async def test_past_fresh_until_the_book_is_asked(bench: Bench) -> None:
    await bench.rebuild(100, fresh_until=1)
    assert await bench.reserve("h") == ["refresh"]


async def test_a_window_that_does_not_hold_now_is_named(bench: Bench) -> None:
    await bench.rebuild(100)
    answer, ms = await bench.reserve("h", limits=(("l:0", "c", 50, 0, 1),))
    assert answer == "window"
    assert abs(int(ms) - await now_ms(bench)) < 5_000


async def test_too_little_credit_is_refused_with_what_there_is(bench: Bench) -> None:
    await bench.rebuild(9)
    assert await bench.reserve("h", 10) == ["insufficient", "9"]
    assert await bench.holds() == {}


async def test_an_overdraft_is_credit(bench: Bench) -> None:
    await bench.rebuild(0, overdraft=10)
    assert (await bench.reserve("h", 10))[0] == "ok"
    assert await bench.reserve("i", 1) == ["insufficient", "0"]


async def test_a_negative_balance_admits_nothing(bench: Bench) -> None:
    await bench.rebuild(-5)
    assert await bench.reserve("h", 1) == ["insufficient", "-5"]


async def test_forced_takes_without_a_check(bench: Bench) -> None:
    await bench.rebuild(-5)
    assert await bench.reserve("h", 10, forced=True) == ["ok", "10", "0"]
    assert (await bench.state())[2] == 10


@pytest.mark.parametrize(
    ("available", "want", "floor", "granted"),
    [(1000, 100, 10, 100), (1000, 900, 10, 250), (1000, 900, 400, 400), (30, 900, 20, 20), (1003, 900, 1, 250)],
)
async def test_fair_share(bench: Bench, available: int, want: int, floor: int, granted: int) -> None:
    """min(want, max(floor, share of what there is), what there is)."""
    await bench.rebuild(available)
    assert await bench.reserve("h", want, floor, share=250) == ["ok", str(granted), "0"]


async def test_amounts_near_two_to_the_53(bench: Bench) -> None:
    await bench.rebuild(BIG)
    assert await bench.reserve("h", BIG - 1) == ["ok", str(BIG - 1), "0"]
    assert await bench.reserve("i", 2) == ["insufficient", "1"]
    assert await bench.release("h") == "ok"
    assert await bench.state() == (BIG, 0, 0)


async def test_a_hold_of_nothing_begins_and_ends(bench: Bench) -> None:
    """A free model: HINCRBY refuses "-0"."""
    await bench.rebuild(0, limits=[("t:0", 0, 0, FAR_MS)])
    limits = (("t:0", "t", 10, *ALWAYS),)
    assert (await bench.reserve("h", 0, limits=limits))[0] == "ok"
    assert await bench.release("h") == "ok"
    assert (await bench.reserve("i", 0, limits=limits))[0] == "ok"
    assert await bench.settle("i", 0, 1) == "ok"


# Limits


@pytest.mark.parametrize(
    ("letter", "first", "rest"),
    [("c", {"want": 6}, 4), ("t", {"want": 0, "tokens": 6}, 4), ("r", {"want": 0}, 9), ("n", {"want": 0}, 9)],
)
async def test_each_kind_of_limit_counts_what_it_names(
    bench: Bench, letter: str, first: dict[str, int], rest: int
) -> None:
    await bench.rebuild(100, limits=[("l:0", 0, 0, FAR_MS)])
    reply = await bench.reserve("h", **first, limits=(("l:0", letter, 10, *ALWAYS),))  # type: ignore[arg-type]
    assert reply[3:] == [str(rest)]
    assert int((await bench.window("l:0"))["held"]) == 10 - rest


@pytest.mark.parametrize(
    ("letter", "ask"), [("c", {"want": 6}), ("t", {"want": 0, "tokens": 6}), ("r", {"want": 0}), ("n", {"want": 0})]
)
async def test_each_kind_of_limit_refuses(bench: Bench, letter: str, ask: dict[str, int]) -> None:
    await bench.rebuild(100, limits=[("l:0", 5, 1, FAR_MS)])
    limits = (("l:0", letter, 5, *ALWAYS),)
    if letter == "n":
        await bench.command("HSET", bench.limit("l:0"), "held", 5)
    answer, index, _ = await bench.reserve("h", **ask, limits=limits)  # type: ignore[arg-type]
    assert (answer, index) == ("limited", "0")
    assert await bench.holds() == {}


async def test_all_limits_or_none(bench: Bench) -> None:
    await bench.rebuild(100, limits=[("a:0", 0, 0, FAR_MS), ("b:0", 5, 1, FAR_MS)])
    reply = await bench.reserve("h", 6, limits=(("a:0", "c", 50, *ALWAYS), ("b:0", "c", 10, *ALWAYS)))
    assert reply[:2] == ["limited", "1"]
    assert "held" not in await bench.window("a:0")
    assert (await bench.state())[2] == 0


async def test_a_credit_limit_caps_the_share(bench: Bench) -> None:
    await bench.rebuild(1000, limits=[("l:0", 0, 0, FAR_MS)])
    reply = await bench.reserve("h", 900, 1, share=250, limits=(("l:0", "c", 100, *ALWAYS),))
    assert reply == ["ok", "25", "0", "75"]


async def test_a_token_limit_grants_its_share(bench: Bench) -> None:
    await bench.rebuild(1000, limits=[("l:0", 0, 0, FAR_MS)])
    reply = await bench.reserve("h", 1, tokens=900, floor_tokens=1, share=250, limits=(("l:0", "t", 100, *ALWAYS),))
    assert reply == ["ok", "1", "25", "75"]


async def test_a_window_older_than_the_gate_is_cold(bench: Bench) -> None:
    await bench.rebuild(100)
    assert (await bench.reserve("h", limits=(("l:0", "c", 10, *ALWAYS),)))[0] == "cold"


async def test_a_window_younger_than_the_gate_is_new(bench: Bench) -> None:
    await bench.rebuild(100)
    begins = int(await bench.command("HGET", bench.keys[0], "since")) + 1
    await bench.command("HSET", bench.keys[0], "since", begins - 5_000)
    reply = await bench.reserve("h", 6, limits=((f"l:{begins}", "c", 10, begins - 1_000, FAR_MS),))
    assert reply == ["ok", "6", "0", "4"]


async def test_a_window_of_another_epoch_is_cold_though_it_is_there(bench: Bench) -> None:
    """A lost tail brings back an older `used`; warming the account through another key must not hide it."""
    limits = (("l:0", "c", 100, *ALWAYS),)
    await bench.rebuild(1000, 1, limits=[("l:0", 10, 1, FAR_MS)])
    await bench.reserve("h", 1, limits=limits)
    await bench.new_epoch()
    await bench.rebuild(1000, 9)
    assert (await bench.reserve("i", 60, limits=limits))[0] == "cold"
    await bench.rebuild(1000, 9, limits=[("l:0", 90, 9, FAR_MS)])
    assert (await bench.reserve("i", 60, limits=limits))[0] == "limited"


async def test_a_released_request_stays_counted(bench: Bench) -> None:
    await bench.rebuild(100, limits=[("l:0", 0, 0, FAR_MS)])
    limits = (("l:0", "r", 1, *ALWAYS),)
    await bench.reserve("h", 0, limits=limits)
    await bench.release("h")
    assert (await bench.reserve("i", 0, limits=limits))[0] == "limited"


async def test_settle_moves_a_window_by_absolutes(bench: Bench) -> None:
    await bench.rebuild(100, limits=[("l:0", 0, 0, FAR_MS)])
    await bench.reserve("h", 6, limits=(("l:0", "c", 10, *ALWAYS),))
    for _ in range(2):
        await bench.settle("h", 96, 1, ("l:0", 4, 1))
    window = await bench.window("l:0")
    assert (window["used"], window["held"], window["seq"]) == ("4", "0", "1")


async def test_settle_never_creates_a_window(bench: Bench) -> None:
    await bench.rebuild(100)
    await bench.settle("h", 96, 1, ("l:0", 4, 1))
    assert await bench.window("l:0") == {}


# extend


async def test_extend_is_absolute(bench: Bench) -> None:
    await bench.rebuild(100, limits=[("l:0", 0, 0, FAR_MS)])
    await bench.reserve("h", 10, limits=(("l:0", "c", 50, *ALWAYS),))
    for _ in range(2):
        assert await bench.extend("h", 40, progress=7) == "ok"
    assert (await bench.state())[2] == 40
    assert (await bench.window("l:0"))["held"] == "40"
    assert (await bench.holds())["h"].startswith("1|call|o|40|7|")


async def test_extend_puts_the_deadline_off(bench: Bench) -> None:
    await bench.rebuild(100)
    await bench.reserve("h", ttl_ms=0)
    await bench.extend("h", ttl_ms=60_000)
    assert await bench.claim("h") == ["early"]


async def test_extend_of_nothing_and_of_a_claimed_hold(bench: Bench) -> None:
    await bench.rebuild(100)
    assert await bench.extend("h") == "no_hold"
    await bench.reserve("h", ttl_ms=0)
    await bench.claim("h")
    assert await bench.extend("h") == "swept"


# release, settle


async def test_release_gives_back(bench: Bench) -> None:
    await bench.rebuild(100)
    await bench.reserve("h", 30)
    assert await bench.release("h") == "ok"
    assert await bench.release("h") == "no_hold"
    assert await bench.state() == (100, 0, 0)
    assert await bench.command("ZCARD", bench.keys[3]) == 0


async def test_release_of_a_claimed_hold_is_swept(bench: Bench) -> None:
    await bench.rebuild(100)
    await bench.reserve("h", 30, ttl_ms=0)
    await bench.claim("h")
    assert await bench.release("h") == "swept"
    assert (await bench.state())[2] == 30


async def test_settles_come_in_any_order_any_number_of_times(bench: Bench) -> None:
    await bench.rebuild(100)
    await bench.reserve("h", 30)
    await bench.reserve("i", 30)
    for hold, posted, seq in (("i", 70, 2), ("h", 90, 1), ("h", 90, 1), ("i", 70, 2)):
        assert await bench.settle(hold, posted, seq) == "ok"
    assert await bench.state() == (70, 2, 0)


async def test_settle_without_a_hold_takes_the_snapshot(bench: Bench) -> None:
    await bench.rebuild(100)
    await bench.settle("", 150, 1)
    assert await bench.state() == (150, 1, 0)


async def test_settle_on_a_cold_account_takes_the_snapshot_and_leaves_it_cold(bench: Bench) -> None:
    await bench.settle("h", 90, 3)
    assert (await bench.reserve("h"))[0] == "cold"
    await bench.rebuild(100, 2)
    assert (await bench.state())[:2] == (90, 3)


# claim, due


async def test_only_what_is_due_is_claimed(bench: Bench) -> None:
    await bench.rebuild(100)
    await bench.reserve("h", ttl_ms=60_000)
    await bench.reserve("i", ttl_ms=0)
    assert await bench.claim("h") == ["early"]
    answer, hold = await bench.claim("i", ttl_ms=60_000)
    assert answer == "claimed"
    assert hold == "1|call|c|10|3|0||meta|with|bars"
    assert await bench.claim("i") == ["early"]


async def test_a_claim_whose_sweeper_died_is_claimed_again(bench: Bench) -> None:
    await bench.rebuild(100)
    await bench.reserve("h", ttl_ms=0)
    await bench.claim("h", ttl_ms=0)
    assert (await bench.claim("h"))[0] == "claimed"


async def test_a_deadline_without_its_hold_is_dropped(bench: Bench) -> None:
    await bench.command("ZADD", bench.keys[3], 1, "a|h")
    assert await bench.claim("h") == ["gone"]
    assert await bench.command("ZCARD", bench.keys[3]) == 0


async def test_due_lists_the_oldest_for_one_sweeper_at_a_time(bench: Bench) -> None:
    await bench.rebuild(100)
    for hold in ("h", "i"):
        await bench.reserve(hold, ttl_ms=0)
    await bench.reserve("j", ttl_ms=60_000)
    keys = (bench.keys[0], bench.keys[3], "fg:{b007}:sweeper")
    assert (await bench.run("due", "one", 60_000, 10, keys=keys))[1:] == ["a|h", "a|i"]
    assert (await bench.run("due", "one", 60_000, 1, keys=keys))[1:] == ["a|h"]
    assert (await bench.run("due", "two", 60_000, 10, keys=keys))[1:] == []


# Loss


async def test_a_stale_ticket_rebuilds_nothing(bench: Bench) -> None:
    ticket = await bench.ticket()
    await bench.command("FLUSHALL")
    assert await bench.run("rebuild", ticket, 100, 0, 0, 0, 0, 0) == "stale"
    assert (await bench.reserve("h"))[0] == "cold"


async def test_a_newer_snapshot_wins_over_a_rebuild(bench: Bench) -> None:
    await bench.rebuild(100, 1)
    await bench.settle("", 60, 5)
    await bench.rebuild(100, 1)
    assert (await bench.state())[:2] == (60, 5)


async def test_a_second_rebuild_does_not_begin_a_grace(bench: Bench) -> None:
    await bench.rebuild(100, gated=0)
    await bench.rebuild(100, gated=1)
    assert (await bench.reserve("h", grace_ms=60_000))[0] == "ok"


async def test_flushall_begins_a_new_gate_of_the_same_epoch(bench: Bench) -> None:
    await bench.rebuild(100)
    before = await bench.hash(bench.keys[0])
    await bench.command("FLUSHALL")
    assert (await bench.reserve("h"))[0] == "cold"
    after = await bench.hash(bench.keys[0])
    assert after["epoch"] == before["epoch"]
    assert after["ticket"] != before["ticket"]


async def test_another_epoch_makes_accounts_cold_and_keeps_their_holds(bench: Bench) -> None:
    await bench.rebuild(100, 3)
    await bench.reserve("h", 30)
    await bench.new_epoch()
    assert (await bench.reserve("i"))[0] == "cold"
    await bench.rebuild(90, 4)
    assert await bench.state() == (90, 4, 30)


async def test_reassert_adds_without_a_check_and_once(bench: Bench) -> None:
    await bench.rebuild(5)
    for _ in range(2):
        assert await bench.reassert("h", 30, limits=f"{bench.limit('l:0')}=c") == "ok"
    assert await bench.state() == (5, 0, 30)
    assert (await bench.window("l:0"))["held"] == "30"


async def test_reassert_of_a_claimed_hold_is_swept(bench: Bench) -> None:
    await bench.rebuild(100)
    await bench.reserve("h", ttl_ms=0)
    await bench.claim("h")
    assert await bench.reassert("h", 10) == "swept"


async def test_what_was_reasserted_while_cold_is_summed(bench: Bench) -> None:
    await bench.reassert("h", 30)
    await bench.rebuild(100)
    assert await bench.state() == (100, 0, 30)
    await bench.release("h")
    assert await bench.state() == (100, 0, 0)


async def test_rebuild_brings_back_reservations(bench: Bench) -> None:
    args = (await bench.ticket(), 100, 0, 0, 0, 0, 1, "r", "a|r", 60_000, "1|api|o|40|0|0||m")
    for _ in range(2):
        assert await bench.run("rebuild", *args) == "ok"
    assert await bench.state() == (100, 0, 40)
    assert await bench.command("ZSCORE", bench.keys[3], "a|r") is not None


def pending(hold: str, amount: int, ttl_ms: int) -> tuple[Any, ...]:
    """A reservation as a rebuild is told of it."""
    return hold, f"a|{hold}", ttl_ms, f"1|api|o|{amount}|0|0||m"


async def test_a_rebuild_after_a_loss_looks_at_reservations_the_book_has_ended(bench: Bench) -> None:
    """They came back with a lost tail, due in a day. Calls have owners, and keep their deadlines."""
    await bench.rebuild(100)
    for hold in ("res_ended", "res_pending", "call"):
        await bench.reserve(hold, 5, ttl_ms=86_400_000)
    await bench.new_epoch()
    assert (
        await bench.run("rebuild", await bench.ticket(), 100, 0, 0, 0, 0, 1, *pending("res_pending", 5, 60_000)) == "ok"
    )
    now_ms = 1000 * int((await bench.command("TIME"))[0])
    due = {
        hold: int(await bench.command("ZSCORE", bench.keys[3], f"a|{hold}")) - now_ms for hold in await bench.holds()
    }
    assert due["res_ended"] <= 1_000
    assert 50_000 < due["res_pending"] <= 62_000
    assert due["call"] > 80_000_000
    assert (await bench.hash(bench.keys[1]))["held"] == "15"


async def test_a_rebuild_of_a_warm_account_leaves_deadlines_alone(bench: Bench) -> None:
    await bench.rebuild(100)
    for hold in ("res_new", "res_pending"):
        await bench.reserve(hold, 5, ttl_ms=10_000)
    before = [await bench.command("ZSCORE", bench.keys[3], f"a|{hold}") for hold in ("res_new", "res_pending")]
    await bench.run("rebuild", await bench.ticket(), 100, 0, 0, 0, 0, 1, *pending("res_pending", 5, 60_000))
    after = [await bench.command("ZSCORE", bench.keys[3], f"a|{hold}") for hold in ("res_new", "res_pending")]
    assert after == before


# Keys, versions


async def test_an_older_rev_never_wins(bench: Bench) -> None:
    keys = ("fg:{b007}:key:k",)
    assert await bench.run("keyrev", 3, keys=keys) == "3"
    assert await bench.run("keyrev", 2, keys=keys) == "3"
    assert await bench.run("keyrev", 10, keys=keys) == "10"


async def test_a_hold_of_an_unknown_version_is_left_alone(bench: Bench) -> None:
    await bench.rebuild(100)
    await bench.command("HSET", bench.keys[2], "h", "2|new|shape")
    await bench.command("ZADD", bench.keys[3], 1, "a|h")
    assert await bench.reserve("h") == ["swept"]
    assert await bench.extend("h") == "swept"
    assert await bench.release("h") == "swept"
    assert await bench.reassert("h", 5) == "swept"
    assert await bench.claim("h") == ["early"]
    assert await bench.settle("h", 90, 1) == "ok"
    assert await bench.holds() == {"h": "2|new|shape"}


async def test_a_script_the_server_refuses_is_an_unavailable_store(bench: Bench, pipe: Pipe) -> None:
    await bench.command("SET", bench.keys[1], "not a hash")
    with pytest.raises(StoreUnavailable, match="refused"):
        await bench.settle("h", 1, 1)


async def test_a_folded_charge_of_nothing_is_unfolded(bench: Bench) -> None:
    """A free model beside one that costs: HINCRBY refuses "-0" after the arrears have been written."""
    await bench.rebuild(100)
    keys = (*bench.keys, f"{bench.keys[2]}:arrears")
    for hold, charge in (("h", 0), ("i", 7)):
        await bench.run("fold", hold, f"a|{hold}", "x", "a|x", charge, 60_000, "record", keys=keys)
    assert await bench.run("unfold", "h", "a|h", "x", "a|x", 100, 1, 0, 0, keys=keys) == "ok"
    assert await bench.state() == (100, 1, 7)
