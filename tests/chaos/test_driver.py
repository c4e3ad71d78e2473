"""scripts/chaos in short: a few faults of a fixed seed in either setting, and all figures must add up."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import redis_cluster
from tests.chaos.driver.embedded import EmbeddedTown
from tests.chaos.driver.external import ExternalTown
from tests.chaos.driver.report import report
from tests.chaos.driver.run import Options, Result, run
from tests.chaos.driver.stores import OneRedis
from tests.chaos.driver.town import Pace

pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(240)]

PACE = Pace(heartbeat_s=0.4, long_s=1.6)


def short(seed: int) -> Options:
    return Options(seed=seed, seconds=0, faults=7, pause_s=(0.1, 0.4))


def check(result: Result) -> None:
    assert len(result.calls) > 50
    assert result.found == [], report(result)
    if result.missing:
        pytest.skip(f"all of it held, but WITHOUT these faults: {'; '.join(result.missing)}")


async def test_on_one_host_with_sqlite_and_the_embedded_valkey(tmp_path: Path) -> None:
    """Seed 3 kills the parent while its workers start (they threw 500 at what they had taken), and fills the disk."""
    result = await run(EmbeddedTown(tmp_path / "town", PACE), short(3))
    check(result)


@pytest.mark.skipif(not redis_cluster.available(), reason="redis-server is not installed: this did NOT run")
async def test_on_two_hosts_with_postgresql_and_redis(tmp_path: Path) -> None:
    """Seed 155: a cable, a clock, a host for good, PostgreSQL, Redis with its tail, replies of both."""
    result = await run(ExternalTown(tmp_path / "town", PACE, OneRedis(tmp_path / "redis")), short(155))
    check(result)
