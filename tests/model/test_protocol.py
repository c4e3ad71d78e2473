"""The protocol holds in every interleaving, and each rule taken away is missed at once."""

from __future__ import annotations

import pytest

from tests.model.explore import explore
from tests.model.protocol import MUTANTS, Budget, Rules

TAKER = Rules(takers=frozenset({1}))
"""Two owners; the second only takes a hold, which is what an overspend needs."""

SCENARIOS: dict[str, tuple[int, Budget, Rules]] = {
    "one call, two lost messages": (1, Budget(lose=2), Rules()),
    "one call, lost message and crash": (1, Budget(lose=1, crash=1), Rules()),
    "one call, lost message, wipe and crash": (1, Budget(lose=1, wipe=1, crash=1), Rules()),
    "one call, lost message, restart and stall": (1, Budget(lose=1, restart=1, stall=1), Rules()),
    "one call, lost message and lost tail": (1, Budget(lose=1, tail=1), Rules()),
    "one call, lost message, lost tail and crash": (1, Budget(lose=1, tail=1, crash=1), Rules()),
    "one call, wipe, lost tail and stall": (1, Budget(wipe=1, tail=1, stall=1), Rules()),
    "one call, lost message, stall and sweeper crash": (1, Budget(lose=1, stall=1, sweeper_crash=1), Rules()),
    "one call, its disk is lost": (1, Budget(lose=1, crash=1, sweeper_crash=1), Rules(disk_lost=True)),
    "two calls": (2, Budget(), Rules()),
    "two calls, wipe": (2, Budget(wipe=1), Rules()),
    "two calls, crash": (2, Budget(crash=1), Rules()),
    "call and taker, lost message": (2, Budget(lose=1), TAKER),
    "call and taker, two wipes": (2, Budget(wipe=2), TAKER),
    "call and taker, restart and crash": (2, Budget(restart=1, crash=1), TAKER),
    "call and taker, stall": (2, Budget(stall=1), TAKER),
    "call and taker, Redis stands still": (2, Budget(pause=1), TAKER),
    "call and taker, lost tail": (2, Budget(tail=1), TAKER),
}

KILLERS: dict[str, tuple[int, Budget, Rules]] = {
    "answer_before_learned": (1, Budget(), Rules()),
    "closed_before_settle": (1, Budget(crash=1), Rules()),
    "closes_not_sent_again": (1, Budget(tail=1), Rules()),
    "delta_settle": (1, Budget(lose=1), Rules()),
    "twice_no_hold_forgotten": (1, Budget(lose=1), Rules()),
    "forward_on_no_hold": (1, Budget(lose=1, stall=1), Rules()),
    "late_truth_dropped": (1, Budget(stall=1), Rules()),
    "lost_reserve_not_released": (1, Budget(lose=1), Rules()),
    "no_epoch": (2, Budget(tail=1), TAKER),
    "no_grace": (2, Budget(wipe=1), TAKER),
    "no_reassert": (2, Budget(wipe=1), TAKER),
    "no_reassert_while_committing": (2, Budget(wipe=1), TAKER),
    "no_unique_index": (1, Budget(lose=1), Rules()),
    "old_release_trusted": (1, Budget(lose=1, stall=1), Rules()),
    "open_is_forwarded": (1, Budget(crash=1), Rules()),
    "reassert_after_close": (2, Budget(), TAKER),
    "release_after_unanswered_reassert": (1, Budget(lose=1, tail=1), Rules()),
    "release_before_learned": (1, Budget(crash=1), Rules()),
    "release_without_asking_sql": (1, Budget(stall=1), Rules()),
    "replay_forgets": (1, Budget(crash=1), Rules()),
    "settle_before_commit": (2, Budget(), TAKER),
    "settle_overwrites": (1, Budget(), Rules()),
    "sweep_on_first_sight": (2, Budget(pause=1), TAKER),
    "ticketless_rebuild": (2, Budget(wipe=1), Rules()),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_protocol_holds_in_every_interleaving(name: str) -> None:
    found = explore(*SCENARIOS[name])
    assert not found.violation, "\n".join((found.violation, *found.trace))
    assert found.states > 100


def test_every_mutant_has_its_scenario() -> None:
    assert set(KILLERS) == MUTANTS


@pytest.mark.parametrize("mutant", sorted(KILLERS))
def test_each_rule_is_needed(mutant: str) -> None:
    owners, budget, rules = KILLERS[mutant]
    found = explore(owners, budget, rules._replace(mutants=frozenset({mutant})))
    assert found.violation
    assert found.trace


def test_a_known_hole_a_lost_tail_brings_back_a_release_whose_owner_is_gone() -> None:
    """Two failures at once: the release is lost in the tail and the process that would send it again is dead."""
    found = explore(1, Budget(tail=1, crash=1), Rules(forgetful=True))
    assert "the book charges 3 for good" in found.violation
