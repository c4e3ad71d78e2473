"""Every interleaving, breadth first: the first violation found is a shortest one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tests.model.protocol import Budget, Rules, State, broken, start, steps, unsettled


@dataclass(frozen=True, slots=True)
class Found:
    """What an exploration saw. `violation` is "" when every state was good; else `trace` leads there."""

    states: int
    violation: str = ""
    trace: tuple[str, ...] = ()


def explore(owners: int, budget: Budget, rules: Rules, *, most: int = 3_000_000) -> Found:
    """Visit all states that can be reached; stop at the first bad one. Raises RuntimeError above `most` states."""
    first = start(owners, budget)
    came: dict[State, tuple[State, str] | None] = {first: None}
    queue = deque([first])
    while queue:
        state = queue.popleft()
        violation = broken(state, rules)
        quiet = True
        if not violation:
            for name, after, fault in steps(state, rules):
                if after == state:
                    continue
                quiet = quiet and fault
                if after not in came:
                    came[after] = (state, name)
                    queue.append(after)
            if quiet:
                violation = unsettled(state, rules)
        if violation:
            return Found(len(came), violation, _trace(came, state))
        if len(came) > most:
            raise RuntimeError(f"more than {most} states: bound the scenario")
    return Found(len(came))


def _trace(came: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    names: list[str] = []
    at = came[state]
    while at is not None:
        names.append(at[1])
        at = came[at[0]]
    return tuple(reversed(names))
