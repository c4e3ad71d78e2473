"""What billing costs: the gateway beside the bare mock upstream, in one run on this machine.

    ./scripts/bench [--seconds 2.5] [--connections 1,32] [--chunks 60] [--wrk] [--write F] [--relay]

Starts the mock, a gateway (one worker, embedded Valkey and SQLite, all defaults) and a load generator, each in its
own process; every call through the gateway is held, metered, committed and settled. CPU is what the gateway's
processes used (/proc/<pid>/stat), divided by the calls that were answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import relay
from faregate.ledger.book import SqlBook
from faregate.ledger.database import Database

ROOT = Path(__file__).parents[1]
KEY = "bench-" + "k" * 40
CREDITS = 1_000_000_000
_WARM_S = 0.7
_TICKS = os.sysconf("SC_CLK_TCK")

_CONFIG = """
data_dir: {folder}/data
server: {{port: 0}}
providers:
  mock: {{kind: openai, base_url: "{url}", api_key: sk-mock}}
models:
  mock: [mock/mock]
prices: prices.yaml
"""
_PRICES = '- {provider: mock, model: "*", per_million: {input: 0.4, output: 1.6}, max_output_tokens: 1024}\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One load on one server."""

    server: str
    kind: str
    connections: int
    calls: int
    errors: int
    calls_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]
    """Per call, by process."""

    @property
    def all_cpu_us(self) -> float:
        return sum(self.cpu_us.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server to be loaded, and the processes it is made of."""

    name: str
    url: str
    pids: dict[str, int]

    def cpu_s(self) -> dict[str, float]:
        """So far, user and system, by process."""
        return {name: _cpu_s(pid) for name, pid in self.pids.items()}


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _rss_mb(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


# The servers --------------------------------------------------------------------------------------------


@contextmanager
def _process(*words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def _address(process: subprocess.Popen[str]) -> str:
    """From the line that says where it listens."""
    assert process.stdout is not None
    for line in process.stdout:
        if "listening on" in line:
            return line.split()[-1]
    raise SystemExit("a server did not start")


@contextmanager
def _mock(chunks: int, delay_ms: float = 0) -> Iterator[Target]:
    words = ("--port", "0", "--chunks", str(chunks), "--delay-ms", str(delay_ms))
    with _process("benchmarks.mock_upstream", *words) as process:
        yield Target(name="mock", url=_address(process), pids={"mock": process.pid})


@contextmanager
def _gateway(upstream_url: str) -> Iterator[tuple[Target, float]]:
    """The gateway and the seconds from start to ready."""
    with tempfile.TemporaryDirectory(prefix="fgbench") as name:
        folder = Path(name)
        (folder / "prices.yaml").write_text(_PRICES)
        (folder / "faregate.yaml").write_text(_CONFIG.format(folder=folder, url=upstream_url))
        began = time.perf_counter()
        words = ("faregate", "serve", "--config", str(folder / "faregate.yaml"))
        with _process(*words, FAREGATE_ADMIN_KEY=KEY) as process:
            url = _address(process)
            ready_s = time.perf_counter() - began
            asyncio.run(_credit(folder / "data" / "faregate.db"))
            yield Target(name="gateway", url=f"{url}/v1", pids=_family(process.pid)), ready_s


async def _credit(path: Path) -> None:
    database = Database(f"sqlite:///{path}")
    try:
        await SqlBook(database).add_credits("acc_bootstrap", CREDITS * 1_000_000)
    finally:
        await database.close()


def _family(parent: int) -> dict[str, int]:
    """The parent, its worker and its Valkey by name."""
    pids = {"parent": parent}
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_bytes()
        pids["worker" if b"faregate.worker" in command else "valkey"] = int(child)
    return pids


# The load -----------------------------------------------------------------------------------------------


def _load(target: Target, *, connections: int, seconds: float, stream: bool, wrk: bool) -> dict[str, Any]:
    if wrk:
        return _wrk(target, connections=connections, seconds=seconds, stream=stream)
    words = [sys.executable, "-m", "benchmarks.loadgen", target.url, "--key", KEY, "--seconds", str(seconds)]
    words += ["--connections", str(connections), *(["--stream"] if stream else [])]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


_WRK = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer %s"
wrk.body = '{"model":"mock","stream":%s,"messages":[{"role":"user","content":"Say something."}]}'
"""
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


def _wrk(target: Target, *, connections: int, seconds: float, stream: bool) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as lua:
        lua.write(_WRK % (KEY, "true" if stream else "false"))
        lua.flush()
        words = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", "-s", lua.name]
        done = subprocess.run([*words, f"{target.url}/chat/completions"], capture_output=True, text=True, check=True)
    quantiles = {
        part: float(value) * _UNITS[unit]
        for part, value, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s|m)", done.stdout)
    }
    calls = int(re.findall(r"(\d+) requests in", done.stdout)[0])
    bad = sum(
        int(count) for count in re.findall(r"(?:Non-2xx or 3xx responses|timeout|read|write):? (\d+)", done.stdout)
    )
    rate = float(re.findall(r"Requests/sec:\s+([\d.]+)", done.stdout)[0])
    return {"calls": calls, "errors": bad, "calls_s": rate, "p50_ms": quantiles["50"], "p99_ms": quantiles["99"]}


def _measure(target: Target, *, connections: int, stream: bool, seconds: float, wrk: bool) -> Run:
    _load(target, connections=connections, seconds=_WARM_S, stream=stream, wrk=False)
    before = target.cpu_s()
    found = _load(target, connections=connections, seconds=seconds, stream=stream, wrk=wrk)
    after, calls = target.cpu_s(), max(1, found["calls"])
    cpu_us = {name: 1e6 * (after[name] - before[name]) / calls for name in after}
    kind = "stream" if stream else "plain"
    return Run(server=target.name, kind=kind, connections=connections, cpu_us=cpu_us, **found)


# The report ---------------------------------------------------------------------------------------------


def _table(runs: Sequence[Run]) -> list[str]:
    lines = [
        "| calls | connections | server | calls/s | p50 ms | p99 ms | CPU µs/call | errors |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for bare, billed in zip(runs[::2], runs[1::2], strict=True):
        for run in (bare, billed):
            row = [run.kind, str(run.connections), run.server, f"{run.calls_s:,.0f}", f"{run.p50_ms:.2f}"]
            lines.append(_row([*row, f"{run.p99_ms:.2f}", _cpu(run), str(run.errors)]))
        ratios = (
            f"{billed.calls_s / bare.calls_s:.2f}",
            f"x {billed.p50_ms / bare.p50_ms:.1f}",
            f"x {billed.p99_ms / bare.p99_ms:.1f}",
            f"x {billed.all_cpu_us / bare.all_cpu_us:.1f}" if bare.all_cpu_us else "",
        )
        lines.append(_row([bare.kind, str(bare.connections), "*gateway ÷ mock*", *ratios, ""]))
    return lines


def _cpu(run: Run) -> str:
    parts = [f"{name} {used:.0f}" for name, used in run.cpu_us.items() if len(run.cpu_us) > 1 and used >= 1]
    return f"{run.all_cpu_us:.0f}" + (f" ({', '.join(parts)})" if parts else "")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _machine() -> str:
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    name = model[1] if model else platform.machine()
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores of {name}, load {load:.1f} before, Python {platform.python_version()}"


def bench(*, seconds: float, connections: Sequence[int], chunks: int, wrk: bool) -> str:
    """Measure everything. The report, as Markdown."""
    head = f"{datetime.now(UTC):%Y-%m-%d}, {_machine()}, {'wrk' if wrk else 'benchmarks/loadgen.py'}"
    runs: list[Run] = []
    with _mock(chunks) as mock, _gateway(mock.url) as (gateway, ready_s):
        idle = {name: _rss_mb(pid) for name, pid in gateway.pids.items()}
        for stream in (False, True):
            for count in connections:
                runs += [
                    _measure(target, connections=count, stream=stream, seconds=seconds, wrk=wrk)
                    for target in (mock, gateway)
                ]
        busy = {name: _rss_mb(pid) for name, pid in gateway.pids.items()}
    memory = ", ".join(f"{name} {idle[name]:.0f} → {busy[name]:.0f}" for name in idle)
    tail = [f"Start to ready: {ready_s:.2f} s. RSS in MB, after start → after the load: {memory}."]
    note = f"Streams have {chunks} chunks. One worker, embedded Valkey, SQLite with synchronous=FULL."
    return "\n".join([head, "", *_table(runs), "", *tail, note, ""])


def bench_relay(*, seconds: float) -> str:
    """Measure what a chunk costs. The report, as Markdown."""
    head = f"{datetime.now(UTC):%Y-%m-%d}, {_machine()}"
    found = []
    for chunks in (relay.FEW, relay.MANY):
        with _mock(chunks, relay.DELAY_MS) as mock, _gateway(mock.url) as (gateway, _):
            both = Target(name="gateway", url=gateway.url, pids={**gateway.pids, **mock.pids})
            run = _measure(both, connections=8, stream=True, seconds=seconds, wrk=False)
            if run.errors:
                raise SystemExit(f"{run.errors} calls failed")
            found.append(relay.Slope(worker=run.cpu_us["worker"], mock=run.cpu_us["mock"]))
    note = f"Streams of {relay.FEW} and of {relay.MANY} chunks, one write each, {relay.DELAY_MS} ms apart, 8 at a time."
    return "\n".join([head, "", *relay.report(*found), "", note, ""])


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns 1 when any call failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=2.5, help="per measurement")
    parser.add_argument("--connections", default="1,32", help="comma list")
    parser.add_argument("--chunks", type=int, default=60, help="content chunks of a stream")
    parser.add_argument("--wrk", action="store_true", help="use wrk instead of benchmarks/loadgen.py")
    parser.add_argument("--relay", action="store_true", help="what a chunk costs, instead (benchmarks/relay.py)")
    parser.add_argument("--write", type=Path, help="also write the report to this file")
    chosen = parser.parse_args(argv)
    if chosen.wrk and shutil.which("wrk") is None:
        parser.error("wrk is not installed")
    counts = [int(count) for count in chosen.connections.split(",")]
    if chosen.relay:
        report = bench_relay(seconds=chosen.seconds)
    else:
        report = bench(seconds=chosen.seconds, connections=counts, chunks=chosen.chunks, wrk=chosen.wrk)
    print(report)
    if chosen.write is not None:
        chosen.write.write_text(f"# Benchmark\n\n{report}")
    return int(any(re.search(r"\| [1-9]\d* \|$", line) for line in report.splitlines()))


if __name__ == "__main__":
    sys.exit(main())
