"""scripts/chaos in short: a few faults of a fixed seed in either setting, and all figures must add up."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import redis_cluster
from tests.chaos.driver.embedded import EmbeddedTown
from tests.chaos.driver.external import ExternalTown
from tests.chaos.driver.report import report
from tests.chaos.driver.run import Options, run
from tests.chaos.driver.town import Pace

pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(240)]

PACE = Pace(heartbeat_s=0.4, long_s=1.6)
SHORT = {"seconds": 0, "faults": 6, "pause_s": (0.1, 0.4)}


async def test_on_one_host_with_sqlite_and_the_embedded_valkey(tmp_path: Path) -> None:
    result = await run(EmbeddedTown(tmp_path / "town", PACE), Options(seed=4, **SHORT))  # type: ignore[arg-type]
    assert len(result.calls) > 50
    assert result.found == [], report(result)


@pytest.mark.skipif(not redis_cluster.available(), reason="redis-server is not installed: this did NOT run")
async def test_on_two_hosts_with_postgresql_and_redis(tmp_path: Path) -> None:
    result = await run(ExternalTown(tmp_path / "town", PACE), Options(seed=5, **SHORT))  # type: ignore[arg-type]
    assert len(result.calls) > 50
    assert result.found == [], report(result)
