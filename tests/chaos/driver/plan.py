"""What goes wrong, and when: everything from the seed."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

Mark = Literal["process", "upstream", "store", "book", "disk lost"]
"""What a fault may do to calls in flight, as far as the checks excuse it.

process    a process died, stood still or was cut off: calls without a truth are booked by policy
upstream   the provider's answers broke off: nothing is owed for what never came
store      Redis may have lost something
book       SQL was away: the journal vouches
disk lost  a journal is gone with what it vouched for
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that can be done to a setting. `act` returns when it is over, with what was done in words."""

    name: str
    target: str
    """What it disturbs: only faults of different targets come together."""
    act: Callable[[random.Random], Awaitable[str]]
    marks: frozenset[Mark] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One or two faults at once, after a pause."""

    pause_s: float
    faults: tuple[Fault, ...]
    dice: tuple[random.Random, ...]


def plan(seed: int, faults: Sequence[Fault], *, pause_s: tuple[float, float], pairs: float = 0.2) -> Iterator[Step]:
    """Endless. Every fault comes once before any comes twice, in an order of the seed; one in five is a pair."""
    dice = random.Random(f"plan/{seed}")
    deck: list[Fault] = []
    for turn in count():
        if not deck:
            deck = dice.sample(list(faults), len(faults))
        chosen = [deck.pop()]
        others = [fault for fault in deck if fault.target != chosen[0].target]
        if others and dice.random() < pairs:
            chosen.append(dice.choice(others))
            deck.remove(chosen[1])
        yield Step(
            pause_s=dice.uniform(*pause_s),
            faults=tuple(chosen),
            dice=tuple(random.Random(f"{seed}/{turn}/{fault.name}") for fault in chosen),
        )
