"""The protocol of a hold as data: states, and every step that may come next.

One account with `START` credits; each owner makes one call that wants a hold of `HOLD` (so two never fit), is worth
`TRUTH` when the provider serves it, and `PROGRESS` when nobody but the sweeper is left to say. Time is left out: what
time does is a step (`expire`, `second pass`, `grace ends`), allowed whenever the clock could allow it, and held back
only where the protocol relies on a live owner beating within a deadline. Losing is a step, too, paid from a budget.

`apply` is what Redis or SQL does with a message, word for word what the Lua scripts and the commit do; the owners and
the sweeper below send messages and go by the replies. `MUTANTS` each take one rule away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

START, HOLD, TRUTH, PROGRESS = 10, 6, 5, 3

MUTANTS = frozenset(
    {
        "delta_settle",
        "no_epoch",
        "ticketless_rebuild",
        "no_unique_index",
        "release_without_asking_sql",
        "settle_before_commit",
        "reassert_after_close",
        "sweep_on_first_sight",
        "no_grace",
        "lost_reserve_not_released",
        "no_reassert",
        "no_reassert_while_committing",
        "closes_not_sent_again",
        "late_truth_dropped",
        "release_before_learned",
        "release_after_unanswered_reassert",
        "forward_on_no_hold",
        "twice_no_hold_forgotten",
        "open_is_forwarded",
        "answer_before_learned",
        "old_release_trusted",
        "closed_before_settle",
        "settle_overwrites",
        "replay_forgets",
    }
)


class Acct(NamedTuple):
    """Redis's copy of the account. `epoch` is None until a rebuild has warmed it."""

    posted: int
    seq: int
    held: int
    epoch: int | None
    gated: bool


class Redis(NamedTuple):
    """`gate` is (epoch, ticket). A hold is "" | "o" (open) | "c" (claimed); `due` 0 (no) | 1 (yes) | 2 (seen twice)."""

    epoch: int
    gate: tuple[int, int] | None
    grace: bool
    acct: Acct | None
    holds: tuple[str, ...]
    due: tuple[int, ...]


class Book(NamedTuple):
    """`kinds`: "" | "u" (unconfirmed) | "a" (actual) | "x" (unconfirmed, then adjusted). `charges` are net."""

    kinds: tuple[str, ...]
    charges: tuple[int, ...]
    seq: int
    gated: bool

    @property
    def posted(self) -> int:
        return START - sum(self.charges)


class Owner(NamedTuple):
    """`pc` is what it does next; `journal` outlives it; the rest, below the line, is what only the model knows."""

    pc: str
    journal: str = ""
    memory: tuple[Any, ...] = ()
    unsure: bool = False
    """A reassert went unanswered: it may still arrive."""
    stalled: bool = False
    """Its hold is older than a heartbeat: extend before forwarding."""
    old: bool = False
    """More than a deadline without an answered beat: it may have been swept, whatever Redis says later."""
    released: bool = False
    resend: bool = False
    # ------
    truth: int | None = None
    forwarded: bool = False
    known: bool = False
    """The truth reached the journal."""
    answered: bool = False
    crashed: bool = False
    lapsed: bool = False
    """Its deadline passed unattended: what a lease cannot promise any more."""
    touched: bool = True
    """Has reached Redis about its hold since the last loss."""


class Budget(NamedTuple):
    """How often each thing may go wrong in one run."""

    lose: int = 0
    wipe: int = 0
    restart: int = 0
    tail: int = 0
    crash: int = 0
    stall: int = 0
    pause: int = 0
    sweeper_crash: int = 0


class State(NamedTuple):
    book: Book
    redis: Redis
    owners: tuple[Owner, ...]
    sweeper: tuple[Any, ...]
    late: tuple[tuple[Any, ...], ...]
    saved: Redis | None
    losses: int
    budget: Budget
    bad: str


class Rules(NamedTuple):
    """What is explored: the broken rules, and how much each owner does."""

    mutants: frozenset[str] = frozenset()
    takers: frozenset[int] = frozenset()
    """Owners that only take a hold and give it back: enough to see an overspend, and far fewer states."""
    disk_lost: bool = False
    """A crashed owner's journal is never seen again: the sweeper alone is left."""
    forgetful: bool = False
    """Owners may also crash after their close, forgetting which closes to send again."""


Message = tuple[Any, ...]
Step = tuple[str, State, bool]
"""Name, the state after, is it a fault?"""


def start(owners: int, budget: Budget) -> State:
    """Nobody has called yet; Redis is new and so is the account."""
    empty = ("",) * owners
    redis = Redis(0, None, False, None, empty, (0,) * owners)
    book = Book(empty, (0,) * owners, 0, False)
    return State(book, redis, (Owner("new"),) * owners, (), (), None, 0, budget, "")


def put(values: tuple[Any, ...], i: int, value: Any) -> tuple[Any, ...]:
    return (*values[:i], value, *values[i + 1 :])


# Redis: what each script does ---------------------------------------------------------------------------


def read_gate(s: State, rules: Rules) -> State:
    """The head of every script: another epoch, or no gate, begins a grace."""
    r = s.redis
    if r.gate is not None and (r.gate[0] == r.epoch or "no_epoch" in rules.mutants):
        return s
    return s._replace(redis=r._replace(gate=(r.epoch, s.losses), grace="no_grace" not in rules.mutants))


def warm(r: Redis, rules: Rules) -> bool:
    if r.acct is None:
        return False
    return "no_epoch" in rules.mutants or r.acct.epoch == r.epoch


def add_held(r: Redis, amount: int, rules: Rules) -> Redis:
    if r.acct is None or not warm(r, rules):
        return r
    return r._replace(acct=r.acct._replace(held=r.acct.held + amount))


def drop_hold(r: Redis, i: int, rules: Rules) -> Redis:
    r = r._replace(holds=put(r.holds, i, ""), due=put(r.due, i, 0))
    return add_held(r, -HOLD, rules)


def put_hold(r: Redis, i: int, rules: Rules) -> Redis:
    r = r._replace(holds=put(r.holds, i, "o"), due=put(r.due, i, 0))
    return add_held(r, HOLD, rules)


def take_snapshot(r: Redis, posted: int, seq: int) -> Redis:
    if r.acct is None:
        return r._replace(acct=Acct(posted, seq, 0, None, False))
    if r.acct.seq >= seq:
        return r
    return r._replace(acct=r.acct._replace(posted=posted, seq=seq))


def reserve(s: State, rules: Rules, i: int) -> tuple[State, Any]:
    r = s.redis
    if r.holds[i]:
        return s, "duplicate" if r.holds[i] == "o" else "swept"
    if r.acct is None or not warm(r, rules):
        assert r.gate is not None
        return s, ("cold", r.gate[1])
    if r.grace and r.acct.gated:
        return s, "grace"
    if r.acct.posted - r.acct.held < HOLD:
        return s, "insufficient"
    if owned(s) - sum(exposure(s, j) for j in range(len(s.owners)) if j != i) - HOLD < 0:
        s = s._replace(bad="overspend: a hold was granted that the book and the live calls do not leave room for")
    return s._replace(redis=put_hold(r, i, rules)), "ok"


def extend(s: State, rules: Rules, i: int) -> tuple[State, Any]:
    r = s.redis
    if r.holds[i] != "o":
        return s, "swept" if r.holds[i] else "no_hold"
    return _touch(s._replace(redis=r._replace(due=put(r.due, i, 0))), i), "ok"


def reassert(s: State, rules: Rules, i: int) -> tuple[State, Any]:
    if s.redis.holds[i]:
        return s, "ok" if s.redis.holds[i] == "o" else "swept"
    return _touch(s._replace(redis=put_hold(s.redis, i, rules)), i), "ok"


def release(s: State, rules: Rules, i: int) -> tuple[State, Any]:
    if s.redis.holds[i] != "o":
        return s, "swept" if s.redis.holds[i] else "no_hold"
    return s._replace(redis=drop_hold(s.redis, i, rules)), "ok"


def settle(s: State, rules: Rules, i: int, posted: int, seq: int) -> tuple[State, Any]:
    r = s.redis
    if "delta_settle" in rules.mutants:
        r = r if r.acct is None else r._replace(acct=r.acct._replace(posted=r.acct.posted - s.book.charges[i], seq=seq))
    elif "settle_overwrites" in rules.mutants and r.acct is not None:
        r = r._replace(acct=r.acct._replace(posted=posted, seq=seq))
    else:
        r = take_snapshot(r, posted, seq)
    if r.holds[i]:
        r = drop_hold(r, i, rules)
    return _touch(s._replace(redis=r), i), "ok"


def claim(s: State, rules: Rules, i: int) -> tuple[State, Any]:
    r = s.redis
    if not r.due[i] or not r.holds[i]:
        return s, "early"
    o = s.owners[i]
    if o.pc not in ("new", "done"):
        s = s._replace(owners=put(s.owners, i, o._replace(lapsed=True)))
    return s._replace(redis=r._replace(holds=put(r.holds, i, "c"), due=put(r.due, i, 0))), "claimed"


def rebuild(s: State, rules: Rules, ticket: int, posted: int, seq: int, gated: bool) -> tuple[State, Any]:
    r = s.redis
    assert r.gate is not None
    if r.gate[1] != ticket and "ticketless_rebuild" not in rules.mutants:
        return s, "stale"
    again = r.acct is not None and r.acct.epoch == r.epoch
    r = take_snapshot(r, posted, seq)
    assert r.acct is not None
    held = sum(HOLD for hold in r.holds if hold)
    acct = r.acct._replace(held=held, epoch=r.epoch, gated=r.acct.gated if again else gated)
    return s._replace(redis=r._replace(acct=acct)), "ok"


def _touch(s: State, i: int) -> State:
    owner = s.owners[i]
    return s if owner.touched else s._replace(owners=put(s.owners, i, owner._replace(touched=True)))


# SQL ----------------------------------------------------------------------------------------------------


def commit(s: State, rules: Rules, i: int, kind: str, amount: int) -> tuple[State, Any]:
    """First record: insert. An actual on an unconfirmed: one adjustment. Else a duplicate."""
    b = s.book
    have = b.kinds[i]
    if not have or "no_unique_index" in rules.mutants:
        b = b._replace(kinds=put(b.kinds, i, kind), charges=put(b.charges, i, b.charges[i] + amount), seq=b.seq + 1)
    elif have == "u" and kind == "a" and "late_truth_dropped" not in rules.mutants:
        b = b._replace(kinds=put(b.kinds, i, "x"), charges=put(b.charges, i, amount), seq=b.seq + 1)
    return s._replace(book=b), (b.posted, b.seq)


def read_book(s: State, rules: Rules) -> tuple[State, Any]:
    """The snapshot a rebuild takes; `gated` is what held before this read marks the account."""
    b = s.book
    return s._replace(book=b._replace(gated=True)), (b.posted, b.seq, b.gated)


_REDIS: dict[str, Callable[..., tuple[State, Any]]] = {
    "reserve": reserve,
    "extend": extend,
    "reassert": reassert,
    "release": release,
    "settle": settle,
    "claim": claim,
    "rebuild": rebuild,
}
_SQL: dict[str, Callable[..., tuple[State, Any]]] = {"commit": commit, "read_book": read_book}


def apply(s: State, rules: Rules, message: Message) -> tuple[State, Any]:
    """What the receiver does when a message arrives."""
    verb, *args = message
    if verb in _SQL:
        return _SQL[verb](s, rules, *args)
    return _REDIS[verb](read_gate(s, rules), rules, *args)


# What is true -------------------------------------------------------------------------------------------

_CHARGEABLE = {"held", "forwarded", "served", "failed", "learned", "orphan"}


def owned(s: State) -> int:
    """What the account has. A swept hold was charged its progress: a later truth above it is an overrun."""
    late = sum(
        max(0, c - PROGRESS)
        for c, k, o in zip(s.book.charges, s.book.kinds, s.owners, strict=True)
        if k == "x" and o.lapsed
    )
    return s.book.posted + late


def exposure(s: State, i: int) -> int:
    """What call `i` may still be charged beyond what the book has."""
    o = s.owners[i]
    if o.lapsed or s.book.kinds[i] in ("a", "x"):
        return 0
    alive = o.pc in _CHARGEABLE or (o.pc == "committed" and not s.book.kinds[i])
    dead = o.pc == "dead" and (o.journal == "forward" or (o.journal == "learned" and bool(o.truth)))
    return max(0, HOLD - s.book.charges[i]) if alive or dead else 0


# Owners -------------------------------------------------------------------------------------------------

Then = Callable[[State, Any], State]


def ask(s: State, rules: Rules, message: Message, then: Then, unanswered: Callable[[State], State]) -> Iterator[Step]:
    """Send a message: answered, or one of three ways to lose it. Each way the sender sees only silence."""
    name = " ".join(str(part) for part in message)
    after, reply = apply(s, rules, message)
    yield f"{name} -> {reply}", then(after, reply), False
    if s.budget.lose:
        s = s._replace(budget=s.budget._replace(lose=s.budget.lose - 1))
        yield f"{name} (request lost)", unanswered(s), True
        yield f"{name} (reply lost)", unanswered(apply(s, rules, message)[0]), True
        yield f"{name} (late)", unanswered(s._replace(late=(*s.late, message))), True


def owner_steps(s: State, rules: Rules, i: int) -> Iterator[Step]:
    """What owner `i` does next, and its heartbeat beside it."""
    o = s.owners[i]
    step = _STEPS.get(o.pc)
    if step is not None:
        yield from step(s, rules, i)
    yield from heartbeat(s, rules, i)
    if o.resend and o.pc == "done":
        yield from _release(s, rules, i, "resend")


def _go(i: int, pc: str, **changes: Any) -> Callable[..., State]:
    def go(s: State, _reply: Any = None) -> State:
        return s._replace(owners=put(s.owners, i, s.owners[i]._replace(pc=pc, **changes)))

    return go


def _open(s: State, rules: Rules, i: int) -> Iterator[Step]:
    yield f"journal.open {i}", _go(i, "opened", journal="open")(s), False


def _reserve(s: State, rules: Rules, i: int) -> Iterator[Step]:
    def then(s: State, reply: Any) -> State:
        if reply in ("ok", "duplicate"):
            return _go(i, "held")(s)
        if reply == "grace":
            return s
        if reply == "insufficient":
            return _go(i, "released")(s)
        if reply == "swept":
            return _go(i, "zero")(s)
        return _go(i, "cold", memory=(reply[1],))(s)

    lost = "released" if "lost_reserve_not_released" in rules.mutants else "unanswered"
    yield from ask(s, rules, ("reserve", i), then, _go(i, lost))


def _read_book(s: State, rules: Rules, i: int) -> Iterator[Step]:
    def then(s: State, reply: Any) -> State:
        return _go(i, "read", memory=(*s.owners[i].memory, *reply))(s)

    yield from ask(s, rules, ("read_book",), then, _go(i, "opened", memory=()))


def _rebuild(s: State, rules: Rules, i: int) -> Iterator[Step]:
    again = _go(i, "opened", memory=())
    yield from ask(s, rules, ("rebuild", *s.owners[i].memory), again, again)


def _release(s: State, rules: Rules, i: int, pc: str) -> Iterator[Step]:
    """Give back what was never used. Whatever is not `ok` makes the owner ask SQL."""

    def then(s: State, reply: Any) -> State:
        if reply == "ok" and (not s.owners[i].old or "old_release_trusted" in rules.mutants):
            return _go(i, "done" if pc == "resend" else "released", released=True, resend=False)(s)
        if "release_without_asking_sql" in rules.mutants:
            return _go(i, "released", resend=False)(s)
        if reply == "no_hold" and pc == "unanswered":
            return _go(i, "unanswered twice")(s)
        if reply == "no_hold" and pc == "unanswered twice" and "twice_no_hold_forgotten" in rules.mutants:
            return _go(i, "released")(s)
        journal = "learned" if s.owners[i].journal == "closed" else s.owners[i].journal
        return _go(i, "zero", resend=False, journal=journal)(s)

    yield from ask(s, rules, ("release", i), then, lambda s: s)


def _unanswered(s: State, rules: Rules, i: int) -> Iterator[Step]:
    yield from _release(s, rules, i, s.owners[i].pc)


def _forward(s: State, rules: Rules, i: int) -> Iterator[Step]:
    o = s.owners[i]
    if i in rules.takers:
        yield f"give up {i}", _go(i, "giving up")(s), False
        return
    if o.stalled:
        yield from _extend_first(s, rules, i)
        return
    bad = "a call was forwarded whose hold had been swept" if o.lapsed else s.bad
    yield f"journal.forward {i}", _go(i, "forwarded", journal="forward", forwarded=True)(s)._replace(bad=bad), False


def _extend_first(s: State, rules: Rules, i: int) -> Iterator[Step]:
    """Younger than a deadline, a missing hold is Redis's loss and is put back; older, it may have been swept."""

    def then(s: State, reply: Any) -> State:
        lost = reply == "no_hold" and (not s.owners[i].old or "forward_on_no_hold" in rules.mutants)
        if lost or (reply == "ok" and not s.owners[i].old):
            return _go(i, "held", stalled=False)(s)
        return _go(i, "zero")(s)

    yield from ask(s, rules, ("extend", i), then, lambda s: s)


def _upstream(s: State, rules: Rules, i: int) -> Iterator[Step]:
    yield f"upstream serves {i}", _go(i, "served", truth=TRUTH)(s), False
    yield f"upstream fails {i}", _go(i, "failed", truth=0)(s), False


def _served(s: State, rules: Rules, i: int) -> Iterator[Step]:
    if "answer_before_learned" in rules.mutants and not s.owners[i].answered:
        yield f"answer {i}", _go(i, "served", answered=True)(s), False
    yield f"journal.learned {i}", _go(i, "learned", journal="learned", known=True)(s), False


def _failed(s: State, rules: Rules, i: int) -> Iterator[Step]:
    if "release_before_learned" in rules.mutants:
        yield f"failed {i}", _go(i, "giving up", known=True)(s), False
    else:
        yield f"journal.learned {i} (0)", _go(i, "giving up", journal="learned", known=True)(s), False


def _giving_up(s: State, rules: Rules, i: int) -> Iterator[Step]:
    if s.owners[i].unsure and "release_after_unanswered_reassert" not in rules.mutants:
        yield f"a reassert of {i} may still come: ask SQL", _go(i, "zero")(s), False
    else:
        yield from _release(s, rules, i, "giving up")


def _commit(kind: str) -> Callable[[State, Rules, int], Iterator[Step]]:
    def step(s: State, rules: Rules, i: int) -> Iterator[Step]:
        o = s.owners[i]
        amount = {"truth": o.truth, "zero": 0, "orphan": PROGRESS}[kind]
        if kind == "truth" and not o.answered:
            yield f"answer {i} on the journal", _go(i, o.pc, answered=True)(s), False
        if kind == "truth" and "settle_before_commit" in rules.mutants and s.redis.holds[i]:
            yield f"settle {i} early", apply(s, rules, ("settle", i, START, 0))[0], False
            return

        def then(s: State, reply: Any) -> State:
            return _go(i, "committed", memory=reply)(s)

        yield from ask(s, rules, ("commit", i, "u" if kind == "orphan" else "a", amount), then, lambda s: s)

    return step


def _settle(s: State, rules: Rules, i: int) -> Iterator[Step]:
    early = "closed_before_settle" in rules.mutants and s.owners[i].journal != "closed"
    if early:
        yield f"journal.closed {i}", _go(i, "committed", journal="closed")(s), False
    else:
        yield from ask(s, rules, ("settle", i, *s.owners[i].memory), _go(i, "settled", memory=()), lambda s: s)


def _close(s: State, rules: Rules, i: int) -> Iterator[Step]:
    answered = s.owners[i].answered or not s.owners[i].crashed
    yield f"journal.closed {i}, answer", _go(i, "done", journal="closed", answered=answered, touched=True)(s), False


def _replay(s: State, rules: Rules, i: int) -> Iterator[Step]:
    """The next start, or a sibling: an `open` alone is a truth of zero, a `forward` alone is unconfirmed."""
    o = s.owners[i]
    if rules.disk_lost:
        return
    pc = {"": "done", "open": "unanswered", "forward": "orphan", "learned": "learned", "closed": "done"}[o.journal]
    if pc == "learned" and not o.truth:
        pc = "zero"
    if pc == "unanswered" and "open_is_forwarded" in rules.mutants:
        pc = "orphan"
    if "replay_forgets" in rules.mutants:
        pc = "done"
    yield f"replay {i} ({o.journal})", _go(i, pc, old=True)(s), False


_STEPS: dict[str, Callable[[State, Rules, int], Iterator[Step]]] = {
    "new": _open,
    "opened": _reserve,
    "cold": _read_book,
    "read": _rebuild,
    "unanswered": _unanswered,
    "unanswered twice": _unanswered,
    "held": _forward,
    "forwarded": _upstream,
    "served": _served,
    "failed": _failed,
    "giving up": _giving_up,
    "learned": _commit("truth"),
    "zero": _commit("zero"),
    "orphan": _commit("orphan"),
    "committed": _settle,
    "settled": _close,
    "released": _close,
    "dead": _replay,
}

_KEEPING = {"held", "forwarded", "served", "failed", "learned", "orphan"}


def _keeps(o: Owner, rules: Rules) -> bool:
    """May it still put its hold back? Not once it has begun to close: a release, or a commit that is answered."""
    if "reassert_after_close" in rules.mutants and (o.pc == "released" or (o.pc == "done" and o.released)):
        return True
    if "no_reassert" in rules.mutants or ("no_reassert_while_committing" in rules.mutants and o.pc == "learned"):
        return False
    return o.pc in _KEEPING and not (o.pc == "held" and o.stalled)


def heartbeat(s: State, rules: Rules, i: int) -> Iterator[Step]:
    """Extend what is there (when that changes anything), re-assert what Redis has lost."""
    o = s.owners[i]
    if not _keeps(o, rules):
        return
    if s.redis.holds[i] == "o":
        if s.redis.due[i] or not o.touched:
            yield from ask(s, rules, ("extend", i), lambda s, _: s, lambda s: s)
    elif not s.redis.holds[i]:
        yield from ask(s, rules, ("reassert", i), lambda s, _: s, _go(i, o.pc, unsure=True))


# The sweeper and time -----------------------------------------------------------------------------------


def sweeper_steps(s: State, rules: Rules) -> Iterator[Step]:
    """due -> claim -> commit unconfirmed -> settle, one hold at a time."""
    if not s.sweeper:
        ripe = 1 if "sweep_on_first_sight" in rules.mutants else 2
        for i, due in enumerate(s.redis.due):
            if due >= ripe and s.redis.holds[i]:
                yield from ask(s, rules, ("claim", i), _claimed(i, rules), lambda s: s)
        return
    i, doing, *memory = s.sweeper
    if doing == "claimed":

        def committed(s: State, reply: Any) -> State:
            return s._replace(sweeper=(i, "committed", *reply))

        yield from ask(s, rules, ("commit", i, "u", PROGRESS), committed, lambda s: s)
    else:
        yield from ask(s, rules, ("settle", i, *memory), lambda s, _: s._replace(sweeper=()), lambda s: s)
    if s.budget.sweeper_crash:
        budget = s.budget._replace(sweeper_crash=s.budget.sweeper_crash - 1)
        yield "sweeper crashes", s._replace(sweeper=(), budget=budget), True


def _claimed(i: int, rules: Rules) -> Then:
    def then(s: State, reply: Any) -> State:
        if reply != "claimed":
            return s
        return s._replace(sweeper=(i, "claimed"))

    return then


def _beats(o: Owner) -> bool:
    """Would a live owner's heartbeat keep this hold from being due for long?"""
    return o.pc in _KEEPING and not o.stalled


def time_steps(s: State, rules: Rules) -> Iterator[Step]:
    """Deadlines pass for holds nobody beats; two passes make a hold ripe; a grace ends when live owners are back."""
    r = s.redis
    for i, hold in enumerate(r.holds):
        if not hold:
            continue
        o = s.owners[i]
        busy = bool(s.sweeper) and s.sweeper[0] == i
        if r.due[i] == 0 and not busy and (hold == "c" or not _beats(o)):
            owners = s.owners if o.pc in ("new", "dead", "done") else put(s.owners, i, o._replace(old=True))
            yield f"expire {i}", s._replace(redis=r._replace(due=put(r.due, i, 1)), owners=owners), False
        if r.due[i] == 1 and (hold == "c" or not _beats(o)) and not _answers_soon(o):
            yield f"second pass {i}", s._replace(redis=r._replace(due=put(r.due, i, 2))), False
        if hold == "o" and o.pc in _KEEPING and not o.stalled and s.budget.stall:
            budget = s.budget._replace(stall=s.budget.stall - 1)
            stalled = put(s.owners, i, o._replace(stalled=True))
            yield f"owner {i} stalls", s._replace(owners=stalled, budget=budget), True
    if s.budget.pause and any(r.holds):
        due = tuple(1 if hold and not at else at for hold, at in zip(r.holds, r.due, strict=True))
        budget = s.budget._replace(pause=s.budget.pause - 1)
        yield "Redis stood still", s._replace(redis=r._replace(due=due), budget=budget), True
    for i, o in enumerate(s.owners):
        if o.stalled and o.pc != "held":
            yield f"owner {i} goes on", s._replace(owners=put(s.owners, i, o._replace(stalled=False))), False
    if r.grace and r.gate is not None and all(o.touched or not _owes(s, i, rules) for i, o in enumerate(s.owners)):
        yield "grace ends", s._replace(redis=r._replace(grace=False)), False


def _answers_soon(o: Owner) -> bool:
    """A live owner that is about to send its closes again does so between two passes."""
    return o.resend and o.pc == "done"


def _owes(s: State, i: int, rules: Rules) -> bool:
    """Must Redis hear from it before the grace ends? A dead one's journal is replayed by a sibling within seconds."""
    o = s.owners[i]
    if o.pc == "dead":
        return o.journal in ("forward", "learned") and not rules.disk_lost
    if o.pc == "learned" and "no_reassert_while_committing" in rules.mutants:
        return False
    if o.lapsed and s.redis.holds[i]:
        return o.pc == "committed"
    return o.pc == "committed" or (o.pc in _KEEPING and "no_reassert" not in rules.mutants)


# Losing -------------------------------------------------------------------------------------------------


def losses(s: State, rules: Rules) -> Iterator[Step]:
    """Crashes, wipes, restarts, lost tails, and messages that arrive late after all."""
    for n, message in enumerate(s.late):
        after = s._replace(late=s.late[:n] + s.late[n + 1 :])
        yield f"late {message} arrives", apply(after, rules, message)[0], False
    b, r = s.budget, s.redis
    nothing = ("",) * len(r.holds), (0,) * len(r.holds)
    if b.wipe:
        gone = Redis(r.epoch, r.gate if "no_epoch" in rules.mutants else None, False, None, *nothing)
        yield "FLUSHALL", _lose(s, gone, rules, b._replace(wipe=b.wipe - 1), new_epoch=False), True
    if b.restart:
        gone = Redis(r.epoch + 1, None, False, None, *nothing)
        yield "Redis restarts empty", _lose(s, gone, rules, b._replace(restart=b.restart - 1), new_epoch=True), True
    if b.tail:
        if s.saved is None:
            yield "(the log is on disk up to here)", s._replace(saved=r), True
        elif s.saved._replace(epoch=r.epoch) != r:
            old = s.saved._replace(epoch=r.epoch + 1)
            after = s._replace(saved=None)
            yield "Redis loses its tail", _lose(after, old, rules, b._replace(tail=b.tail - 1), new_epoch=True), True
    if b.crash:
        for i, o in enumerate(s.owners):
            over = o.pc in ("new", "dead") or (o.pc == "done" and not (rules.forgetful and o.released))
            if not over and i not in rules.takers:
                dead = o._replace(pc="dead", memory=(), unsure=False, stalled=False, resend=False, crashed=True)
                yield (
                    f"owner {i} crashes",
                    s._replace(owners=put(s.owners, i, dead), budget=b._replace(crash=b.crash - 1)),
                    True,
                )


def _lose(s: State, redis: Redis, rules: Rules, budget: Budget, *, new_epoch: bool) -> State:
    again = new_epoch and "closes_not_sent_again" not in rules.mutants
    owners = tuple(
        o._replace(touched=False, resend=o.resend or (again and o.released and o.pc in ("released", "done")))
        for o in s.owners
    )
    return s._replace(redis=redis, owners=owners, budget=budget, losses=s.losses + 1)


def steps(s: State, rules: Rules) -> Iterator[Step]:
    """Everything that may happen next."""
    for i in range(len(s.owners)):
        yield from owner_steps(s, rules, i)
    yield from sweeper_steps(s, rules)
    yield from time_steps(s, rules)
    yield from losses(s, rules)


# Invariants ---------------------------------------------------------------------------------------------


def broken(s: State, rules: Rules) -> str:
    """What is wrong in this state, or ""."""
    if s.bad:
        return s.bad
    if s.redis.acct is not None and s.redis.acct.held < 0:
        return "held is negative"
    for i, o in enumerate(s.owners):
        kind, net = s.book.kinds[i], s.book.charges[i]
        if kind in ("a", "x") and net != (o.truth or 0):
            return f"call {i} is worth {o.truth or 0} and the book charges {net}"
        if kind == "u" and net != PROGRESS:
            return f"call {i} was charged more than once"
        if o.answered and o.truth and o.journal != "learned" and kind not in ("a", "x"):
            return f"answer {i} ended before its charge was recorded"
        recorded = bool(kind) or bool(s.redis.holds[i]) or (o.journal in ("forward", "learned") and not rules.disk_lost)
        if o.forwarded and o.truth != 0 and not recorded:
            return f"forwarded call {i} has neither record nor hold nor journal"
    return ""


def unsettled(s: State, rules: Rules) -> str:
    """What is wrong when nothing can happen any more, or ""."""
    for i, o in enumerate(s.owners):
        net = s.book.charges[i]
        if o.pc != "done" and not (o.pc == "dead" and rules.disk_lost):
            return f"owner {i} hangs at {o.pc}"
        if rules.disk_lost and o.pc == "dead":
            continue
        if o.known or not o.forwarded:
            if net != (o.truth or 0):
                return f"call {i} is worth {o.truth or 0} and the book charges {net} for good"
        elif s.book.kinds[i] != "u":
            return f"forwarded call {i} was never charged"
    if any(s.redis.holds):
        return "a hold is left"
    acct = s.redis.acct
    if acct is not None and warm(s.redis, rules):
        nobody_left = rules.disk_lost and any(o.pc == "dead" for o in s.owners)
        if not nobody_left and (acct.posted, acct.seq, acct.held) != (s.book.posted, s.book.seq, 0):
            return f"Redis rests at {acct[:3]}, the book at {(s.book.posted, s.book.seq, 0)}"
    return ""
