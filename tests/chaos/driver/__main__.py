"""`scripts/chaos`. Exit code 1: something does not hold."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests import postgres, redis_cluster
from tests.chaos.driver.embedded import EmbeddedTown
from tests.chaos.driver.external import ExternalTown
from tests.chaos.driver.report import report
from tests.chaos.driver.run import Options, Result, run
from tests.chaos.driver.stores import OneRedis, RedisCluster
from tests.chaos.driver.town import Pace, Town


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description="Faults under traffic, and what must add up.")
    parser.add_argument("--store", choices=("embedded", "external", "cluster"), default="embedded")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--faults", type=int, default=50, help="at least so many, even if it takes longer")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--heartbeat", type=float, default=1.0, help="seconds; what lasts, lasts five of them")
    parser.add_argument("--only", default="", help="only faults with this in their names")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and books")
    chosen = parser.parse_args(argv)
    if chosen.store != "embedded" and (postgres.binaries() is None or not redis_cluster.available()):
        parser.error("PostgreSQL and redis-server are needed: scripts/services installs them")
    options = Options(
        seed=chosen.seed, seconds=chosen.seconds, faults=chosen.faults, clients=chosen.clients, only=chosen.only
    )
    folder = Path(tempfile.mkdtemp(prefix="fgchaos-"))
    pace = Pace(heartbeat_s=chosen.heartbeat, long_s=5 * chosen.heartbeat)
    town = _town(chosen.store, folder, pace)
    if chosen.keep:
        town.keep = True
        print(f"everything is in {folder}", flush=True)
    try:
        result = asyncio.run(_run(town, options))
    finally:
        if not chosen.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{report(result)}")
    return 1 if result.found else 0


async def _run(town: Town, options: Options) -> Result:
    """SIGTERM ends it as Ctrl-C does: nothing is left behind."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(town, options, lambda line: print(line, flush=True))


def _town(store: str, folder: Path, pace: Pace) -> Town:
    if store == "embedded":
        return EmbeddedTown(folder, pace)
    return ExternalTown(folder, pace, (OneRedis if store == "external" else RedisCluster)(folder / "redis"))


if __name__ == "__main__":
    sys.exit(main())
