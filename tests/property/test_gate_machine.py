"""The Lua scripts on a real Valkey beside a wallet in plain Python: the same commands, answers and state.

Hypothesis chooses the commands: repeats, settles out of order, replies that nobody read, wipes, new epochs, lost tails.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from faregate.credits import pipe as pipe_module
from faregate.credits.embedded import EmbeddedValkey, url
from faregate.credits.pipe import Pipe
from faregate.credits.scripts import Script, load
from faregate.errors import StoreUnavailable
from tests.credits.conftest import Bench

FAR_MS = 4_000_000_000_000
LIMITS = {"c:0": ("c", 60), "t:0": ("t", 50), "r:0": ("r", 4), "n:0": ("n", 2)}
OVERDRAFT = {"a": 0, "b": 15}


@dataclass
class Acct:
    posted: int
    seq: int
    held: int = 0
    overdraft: int = 0
    warm: bool = False


@dataclass
class Taken:
    amount: int
    tokens: int
    limits: tuple[str, ...]
    state: str = "o"
    due: bool = False

    def share(self, key: str) -> int:
        return {"c": self.amount, "t": self.tokens}.get(key[0], 1)


@dataclass
class Window:
    used: int | None = None
    seq: int | None = None
    held: int = 0
    extra: int = 0
    fresh: bool = False


@dataclass
class Wallet:
    """What the scripts should do, without Redis."""

    accts: dict[str, Acct] = field(default_factory=dict)
    holds: dict[str, dict[str, Taken]] = field(default_factory=lambda: {"a": {}, "b": {}})
    windows: dict[str, Window] = field(default_factory=dict)

    def new_epoch(self) -> None:
        for acct in self.accts.values():
            acct.warm = False
        for window in self.windows.values():
            window.fresh = False

    def reserve(self, account: str, hold: str, ask: Request) -> list[str]:
        have = self.holds[account].get(hold)
        if have:
            return ["duplicate", str(have.amount), str(have.tokens)] if have.state == "o" else ["swept"]
        acct = self.accts.get(account)
        if acct is None or not acct.warm:
            return ["cold"]
        available, tokens_left = acct.posted - acct.held + acct.overdraft, None
        tightest = None
        for n, key in enumerate(ask.limits):
            letter, most = LIMITS[key]
            window = self.windows.get(key, Window())
            if letter != "n" and not window.fresh:
                return ["cold"]
            rest = most - (window.used or 0) - window.held - window.extra
            if letter == "c" and rest < available:
                available, tightest = rest, n
            elif letter == "t":
                tokens_left = rest
            elif letter in "rn" and rest < 1 and not ask.forced:
                return ["limited", str(n)]
        granted, tokens = ask.want, ask.tokens
        if not ask.forced:
            if ask.floor > available:
                return ["insufficient", str(available)] if tightest is None else ["limited", str(tightest)]
            granted = min(ask.want, max(ask.floor, available * ask.share // 1000), available)
            if tokens_left is not None:
                if ask.floor_tokens > tokens_left:
                    return ["limited", str(ask.limits.index("t:0"))]
                tokens = min(ask.tokens, max(ask.floor_tokens, tokens_left * ask.share // 1000), tokens_left)
        for key in ask.limits:
            window = self.windows.setdefault(key, Window())
            if not window.fresh:
                window.used, window.seq, window.fresh = window.used or 0, window.seq or 0, True
        self.put(account, hold, Taken(granted, tokens, ask.limits))
        return ["ok", str(granted), str(tokens)]

    def put(self, account: str, hold: str, taken: Taken) -> None:
        self.holds[account][hold] = taken
        self._count(account, taken, 1)

    def drop(self, account: str, hold: str, *, released: bool = False) -> None:
        taken = self.holds[account].pop(hold)
        self._count(account, taken, -1)
        for key in taken.limits:
            if released and key[0] == "r" and key in self.windows:
                self.windows[key].extra += 1

    def _count(self, account: str, taken: Taken, sign: int) -> None:
        acct = self.accts.get(account)
        if acct and acct.warm:
            acct.held += sign * taken.amount
        for key in taken.limits:
            if sign > 0:
                self.windows.setdefault(key, Window())
            if key in self.windows:
                self.windows[key].held += sign * taken.share(key)

    def snapshot(self, account: str, posted: int, seq: int) -> Acct:
        acct = self.accts.setdefault(account, Acct(posted, -1))
        if seq > acct.seq:
            acct.posted, acct.seq, acct.overdraft = posted, seq, OVERDRAFT[account]
        return acct

    def settle(self, account: str, hold: str, posted: int, seq: int, used: dict[str, tuple[int, int]]) -> None:
        self.snapshot(account, posted, seq)
        for key, (absolute, at) in used.items():
            window = self.windows.get(key)
            if window and window.seq is not None and window.seq < at:
                window.used, window.seq = absolute, at
        if hold in self.holds[account]:
            self.drop(account, hold)

    def rebuild(self, account: str, posted: int, seq: int, used: dict[str, tuple[int, int]]) -> None:
        acct = self.snapshot(account, posted, seq)
        for key, (absolute, at) in used.items():
            window = self.windows.setdefault(key, Window())
            if window.seq is None or window.seq < at:
                window.used, window.seq = absolute, at
            window.fresh = True
        acct.held, acct.warm = sum(taken.amount for taken in self.holds[account].values()), True


@dataclass(frozen=True)
class Request:
    want: int
    floor: int
    tokens: int
    floor_tokens: int
    share: int
    forced: bool
    limits: tuple[str, ...]


@dataclass
class Sql:
    """The book: absolutes only ever come from here."""

    posted: dict[str, int]
    seq: dict[str, int]
    used: dict[str, tuple[int, int]]
    booked: set[tuple[str, str]] = field(default_factory=set)

    def charge(self, account: str, hold: str, taken: Taken, amount: int) -> None:
        if (account, hold) in self.booked:
            return
        self.booked.add((account, hold))
        self.posted[account] -= amount
        self.seq[account] += 1
        for key in taken.limits:
            if key[0] != "n":
                used, at = self.used[key]
                self.used[key] = (used + {"c": amount, "t": taken.tokens}.get(key[0], 1), at + 1)


REQUESTS = st.builds(
    lambda want, floor, tokens, floor_tokens, share, forced, limits: Request(
        want, min(floor, want), tokens, min(floor_tokens, tokens), share, forced, tuple(sorted(limits))
    ),
    st.sampled_from([0, 1, 7, 20, 60]),
    st.integers(0, 40),
    st.sampled_from([0, 3, 30]),
    st.integers(0, 20),
    st.sampled_from([250, 500, 1000]),
    st.integers(0, 9).map(lambda n: n == 0),
    st.frozensets(st.sampled_from(sorted(LIMITS))),
)
ACCOUNTS = st.sampled_from(["a", "b"])
HOLDS = st.sampled_from(["h1", "h2", "h3"])


class GateMachine(RuleBasedStateMachine):
    """Each rule sends one command to both and compares the answers."""

    data_dir: Path

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.pipe = self.runner.run(self._connected())
        self.wallet = Wallet()
        self.sql = Sql({"a": 100, "b": 40}, {"a": 1, "b": 1}, {key: (0, 0) for key in LIMITS if key[0] != "n"})
        self.sent: list[tuple[str, str, int, int, dict[str, tuple[int, int]]]] = []
        self.known: dict[tuple[str, str], Taken] = {}
        self.tickets: list[str] = []
        self.saved: tuple[Wallet, dict[str, bytes]] | None = None

    async def _connected(self) -> Pipe:
        pipe = Pipe(url(self.data_dir))
        await pipe.command(("FLUSHALL",), 5.0)
        return pipe

    def teardown(self) -> None:
        self.runner.run(self.pipe.close())
        self.runner.close()

    def bench(self, account: str = "a") -> Bench:
        return Bench(self.pipe, account)

    # Commands

    @initialize()
    def warm_up(self) -> None:
        for account in OVERDRAFT:
            self.rebuild(account, frozenset(LIMITS))

    @rule(account=ACCOUNTS, hold=HOLDS, ask=REQUESTS, go_on=st.booleans())
    def reserve(self, account: str, hold: str, ask: Request, go_on: bool) -> None:
        if self._reserve(account, hold, ask) == "cold" and go_on:
            self.rebuild(account, frozenset(ask.limits))
            self._reserve(account, hold, ask)

    def _reserve(self, account: str, hold: str, ask: Request) -> str:
        expected = self.wallet.reserve(account, hold, ask)
        reply = self.runner.run(
            self.bench(account).reserve(
                hold,
                ask.want,
                ask.floor,
                share=ask.share,
                forced=ask.forced,
                tokens=ask.tokens,
                floor_tokens=ask.floor_tokens,
                limits=tuple((key, *LIMITS[key], 0, FAR_MS) for key in ask.limits),
            )
        )
        assert reply[: len(expected)] == expected
        if expected[0] == "ok":
            self.known[(account, hold)] = deepcopy(self.wallet.holds[account][hold])
            if not ask.forced:
                self._check_g1(account, ask)
        return expected[0]

    def _check_g1(self, account: str, ask: Request) -> None:
        acct = self.wallet.accts[account]
        assert acct.posted - acct.held >= -acct.overdraft
        for key in ask.limits:
            window = self.wallet.windows[key]
            assert (window.used or 0) + window.held + window.extra <= LIMITS[key][1]

    @rule(account=ACCOUNTS, hold=HOLDS, amount=st.integers(0, 60))
    def extend(self, account: str, hold: str, amount: int) -> None:
        taken = self.wallet.holds[account].get(hold)
        reply = self.runner.run(self.bench(account).extend(hold, amount))
        if taken is None or taken.state != "o":
            assert reply == ("swept" if taken else "no_hold")
            return
        assert reply == "ok"
        self._resize(account, taken, amount)
        taken.due = False
        self.known[(account, hold)] = deepcopy(taken)

    def _resize(self, account: str, taken: Taken, amount: int) -> None:
        self.wallet._count(account, Taken(amount - taken.amount, 0, ()), 1)
        for key in taken.limits:
            if key[0] == "c" and key in self.wallet.windows:
                self.wallet.windows[key].held += amount - taken.amount
        taken.amount = amount

    @rule(account=ACCOUNTS, hold=HOLDS)
    def release(self, account: str, hold: str) -> None:
        taken = self.wallet.holds[account].get(hold)
        reply = self.runner.run(self.bench(account).release(hold))
        if taken is None or taken.state != "o":
            assert reply == ("swept" if taken else "no_hold")
            return
        assert reply == "ok"
        self.wallet.drop(account, hold, released=True)

    @rule(account=ACCOUNTS, hold=HOLDS, charge=st.integers(0, 60), send=st.booleans())
    def commit(self, account: str, hold: str, charge: int, send: bool) -> None:
        """SQL has it; the settle is sent now, or some time later, or never."""
        taken = self.known.get((account, hold))
        if taken is None:
            return
        self.sql.charge(account, hold, taken, charge)
        used = {key: self.sql.used[key] for key in taken.limits if key[0] != "n"}
        self.sent.append((account, hold, self.sql.posted[account], self.sql.seq[account], used))
        if send:
            self._settle(len(self.sent) - 1)

    @precondition(lambda self: self.sent)
    @rule(at=st.integers(0, 1000))
    def settle_again(self, at: int) -> None:
        self._settle(at % len(self.sent))

    def _settle(self, at: int) -> None:
        account, hold, posted, seq, used = self.sent[at]
        self.wallet.settle(account, hold, posted, seq, used)
        args: list[Any] = [hold, f"{account}|{hold}", posted, seq, OVERDRAFT[account], 0]
        for key, (absolute, moment) in used.items():
            args += [self.bench().limit(key), absolute, moment]
        assert self.runner.run(self.bench(account).run("settle", *args)) == "ok"

    @rule(account=ACCOUNTS, amount=st.integers(1, 50), send=st.booleans())
    def add_credits(self, account: str, amount: int, send: bool) -> None:
        self.sql.posted[account] += amount
        self.sql.seq[account] += 1
        self.sent.append((account, "", self.sql.posted[account], self.sql.seq[account], {}))
        if send:
            self._settle(len(self.sent) - 1)

    @rule(account=ACCOUNTS, hold=HOLDS)
    def reassert(self, account: str, hold: str) -> None:
        taken = self.known.get((account, hold))
        if taken is None:
            return
        bench = self.bench(account)
        limits = ",".join(f"{bench.limit(key)}={key[0]}" for key in taken.limits)
        reply = self.runner.run(bench.reassert(hold, taken.amount, tokens=taken.tokens, limits=limits))
        have = self.wallet.holds[account].get(hold)
        assert reply == ("swept" if have and have.state != "o" else "ok")
        if have is None:
            self.wallet.put(account, hold, Taken(taken.amount, taken.tokens, taken.limits))

    @rule(account=ACCOUNTS, hold=HOLDS)
    def pass_deadline(self, account: str, hold: str) -> None:
        reply = self.runner.run(self.bench(account).extend(hold, ttl_ms=0))
        if reply == "ok":
            self.wallet.holds[account][hold].due = True

    @rule(account=ACCOUNTS, hold=HOLDS, again=st.booleans())
    def claim(self, account: str, hold: str, again: bool) -> None:
        taken = self.wallet.holds[account].get(hold)
        reply = self.runner.run(self.bench(account).claim(hold, ttl_ms=0 if again else 60_000))
        if taken is None or not taken.due:
            assert reply == ["early"]
            return
        assert reply[0] == "claimed"
        taken.state, taken.due = "c", again

    @rule(account=ACCOUNTS, keys=st.frozensets(st.sampled_from(sorted(LIMITS))))
    def rebuild(self, account: str, keys: frozenset[str]) -> None:
        self._rebuild(account, self.runner.run(self.bench(account).ticket()), keys)

    @precondition(lambda self: self.tickets)
    @rule(account=ACCOUNTS, at=st.integers(0, 1000))
    def rebuild_late(self, account: str, at: int) -> None:
        """With a ticket of any age."""
        self._rebuild(account, self.tickets[at % len(self.tickets)], frozenset())

    def _rebuild(self, account: str, ticket: str, keys: frozenset[str]) -> None:
        bench = self.bench(account)
        stale = ticket != self.runner.run(bench.ticket())
        posted, seq = self.sql.posted[account], self.sql.seq[account]
        args: list[Any] = [ticket, posted, seq, OVERDRAFT[account], 0, 0, 0]
        windows = {key: absolute for key, absolute in self.sql.used.items() if key in keys}
        for key, (used, at) in windows.items():
            args += [bench.limit(key), used, at, FAR_MS]
        assert self.runner.run(bench.run("rebuild", *args)) == ("stale" if stale else "ok")
        if not stale:
            self.wallet.rebuild(account, posted, seq, windows)
        self.tickets.append(ticket)

    # Losses

    @rule(how=st.sampled_from(["wipe", "fail over", "fail over", "lose tail", "lose tail", "", "", ""]))
    def lose(self, how: str) -> None:
        if how == "wipe":
            self.wipe()
        elif how == "fail over":
            self.fail_over()
        elif how and self.saved is not None:
            self.lose_tail()

    def wipe(self) -> None:
        self.runner.run(self.bench().command("FLUSHALL"))
        self.wallet = Wallet()

    def fail_over(self) -> None:
        self.runner.run(self.bench().new_epoch())
        self.wallet.new_epoch()

    @rule()
    def save(self) -> None:
        """The log is on disk up to here."""
        self.saved = deepcopy(self.wallet), self.runner.run(self._dump())

    def lose_tail(self) -> None:
        assert self.saved is not None
        wallet, data = self.saved
        self.runner.run(self._restore(data))
        self.wallet = deepcopy(wallet)
        self.wallet.new_epoch()

    async def _dump(self) -> dict[str, bytes]:
        keys = await self.bench().command("KEYS", "fg:*")
        return {key: await self.pipe.command(("DUMP", key), 5.0) for key in keys}

    async def _restore(self, data: dict[str, bytes]) -> None:
        await self.bench().command("FLUSHALL")
        for key, value in data.items():
            await self.pipe.command(("RESTORE", key, 0, value), 5.0)
        await self.bench().new_epoch()

    # State

    @invariant()
    def same_state(self) -> None:
        for account in OVERDRAFT:
            self.runner.run(self._compare(account))
        for key in LIMITS:
            found = self.runner.run(self.bench().window(key))
            window = self.wallet.windows.get(key, Window())
            assert int(found.get("held", 0)) == window.held
            assert int(found.get("extra", 0)) == window.extra
            assert found.get("used") == (None if window.used is None else str(window.used))

    async def _compare(self, account: str) -> None:
        bench, acct = self.bench(account), self.wallet.accts.get(account)
        found = await bench.hash(bench.keys[1])
        if acct is None:
            assert found == {}
        else:
            assert (int(found["posted"]), int(found["seq"])) == (acct.posted, acct.seq)
        if acct is not None and acct.warm:
            assert int(found["held"]) == acct.held == sum(h.amount for h in self.wallet.holds[account].values()) >= 0
        shapes = {hold: tuple(text.split("|")[2:6]) for hold, text in (await bench.holds()).items()}
        expected = {hold: (h.state, str(h.amount)) for hold, h in self.wallet.holds[account].items()}
        assert {hold: shape[:2] for hold, shape in shapes.items()} == expected

    @invariant()
    def counted_windows(self) -> None:
        """A window holds what its open holds took."""
        for key, window in self.wallet.windows.items():
            taken = [h for holds in self.wallet.holds.values() for h in holds.values() if key in h.limits]
            assert window.held == sum(h.share(key) for h in taken) >= 0


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fg") as folder:
        server = EmbeddedValkey(Path(folder))
        server.start()
        yield Path(folder)
        server.stop()


BROKEN = {
    "held stays when a hold ends": ("if warm(acct, epoch) then", "if false then"),
    "an older snapshot wins": ("if have and tonumber(have) >= tonumber(seq) then return end", ""),
    "a stale ticket rebuilds": ("if gate.ticket ~= ARGV[1] then return 'stale' end", ""),
    "a window of another epoch is believed": ("l[4] ~= gate.epoch and gate.since >= starts", "not l[1]"),
    "extend forgets the limits": ("if kind == 'c' and redis.call('EXISTS', key) == 1 then", "if false then"),
    "a hold of nothing cannot end": ("string.format('%.0f', 0 - tonumber(amount))", "'-' .. amount"),
    "reassert adds twice": ("return (hold and hold.state == 'o') and 'ok' or 'swept'", ""),
    "the share is not bounded": ("math.floor(available * share / 1000)), available)", "want))"),
    "released requests are given back": ("if released and kind == 'r' then", "if false then"),
    "a claim asks for no deadline": ("if not deadline or tonumber(deadline) > now then", "if not deadline then"),
}
"""What a line of Lua is replaced with: each must be noticed."""


def explore(data_dir: Path, *phases: Phase, examples: int = 150, derandomize: bool = False) -> None:
    GateMachine.data_dir = data_dir
    run_state_machine_as_test(
        GateMachine,
        settings=settings(
            max_examples=examples,
            derandomize=derandomize,
            database=None,
            stateful_step_count=40,
            deadline=None,
            phases=phases,
            print_blob=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


def test_scripts_and_wallet_agree(data_dir: Path) -> None:
    explore(data_dir, *Phase)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_script_is_found(name: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = (part.encode() for part in BROKEN[name])
    scripts = {script.name: script.source for script in load().values()}
    assert any(good in source for source in scripts.values())

    def broken() -> dict[str, Script]:
        sources = {n: source.replace(good, bad) for n, source in scripts.items()}
        return {n: Script(n, source, sha1(source).hexdigest().encode()) for n, source in sources.items()}

    monkeypatch.setattr(pipe_module, "load", broken)
    with pytest.raises((AssertionError, ExceptionGroup, StoreUnavailable)):
        explore(data_dir, Phase.generate, examples=600, derandomize=True)
