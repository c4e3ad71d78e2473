"""The process dies, or a store is away, at every step of one call; and mutants, which the same checks must notice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.load import ADMIN_KEY, Answer
from tests.chaos.world import ROOT, World

pytestmark = pytest.mark.xdist_group("chaos")


def _run(world: World, **task: object) -> tuple[list[str], dict[str, Answer]]:
    """Run tests.chaos.crashes to its end. The steps it hit, and what clients received."""
    # Patient with Redis: ten processes that wake at once on a busy machine must not lose replies by themselves.
    world.gateway.sections = {"timing": "{heartbeat_s: 0.2, hold_wait_ms: 5000, shutdown_s: 8}"}
    world.gateway.configure()
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.crashes", str(world.folder), json.dumps(task)],
        cwd=ROOT,
        env={**os.environ, "FAREGATE_ADMIN_KEY": ADMIN_KEY},
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answers = _lines(world.folder / "answers.jsonl")
    points = [line["step"] for line in _lines(world.folder / "points.jsonl")]
    return points, {
        one["call"]: Answer(
            call=one["call"], stream=one["stream"], status=one["status"], body=one["body"].encode(), complete=True
        )
        for one in answers
    }


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_crash_at_any_step_of_a_call(world: World, stream: bool) -> None:
    points, answers = _run(world, fault="exit", stream=stream)
    assert {"before FileJournal.open", "after RedisGate.reserve", "after FileJournal.learned"} <= set(points)
    assert {"after SqlBook.commit", "after RedisGate.settle", "after AsgiReply.finish"} <= set(points)
    assert world.findings_now(answers, running=False) == []
    assert world.open() == []


def test_a_store_that_is_away_or_loses_a_reply_at_any_step(world: World) -> None:
    points, answers = _run(world, fault="raise", stream=False)
    assert {"before RedisGate.reserve", "after RedisGate.reserve", "before FileJournal.forward"} <= set(points)
    assert {"before SqlBook.commit", "after SqlBook.commit", "after RedisGate.settle"} <= set(points)
    assert world.findings_now(answers, running=False) == []
    assert world.open() == []


def test_a_freeze_at_any_step_long_enough_to_be_swept(world: World) -> None:
    points, answers = _run(world, fault="freeze", stream=True)
    assert {"after RedisGate.reserve", "after FileJournal.forward", "after FileJournal.learned"} <= set(points)
    assert world.findings_now(answers, running=False) == []
    assert world.open() == []


@pytest.mark.parametrize(
    ("mutant", "fault", "aim", "finding"),
    [
        ("commit_after_answer", "exit", "after AsgiReply.finish", "wrong charge"),
        ("delta_settle", "raise", "after RedisGate.settle", "Redis differs"),
        ("no_dedupe", "exit", "before RedisGate.settle", "billed more than once"),
        ("no_dedupe", "raise", "after SqlBook.commit", "billed more than once"),
    ],
)
def test_a_mutant_is_noticed(world: World, mutant: str, fault: str, aim: str, finding: str) -> None:
    _, answers = _run(world, fault=fault, stream=True, aims=[aim], mutant=mutant)
    found = world.findings_now(answers)
    assert any(line.startswith(finding) for line in found), found


@pytest.mark.parametrize("mutant", ["delta_settle", "no_dedupe"])
def test_a_mutant_looks_right_while_nothing_fails(world: World, mutant: str) -> None:
    _, answers = _run(world, fault="exit", stream=True, aims=["nowhere"], mutant=mutant)
    assert world.findings_now(answers) == []
