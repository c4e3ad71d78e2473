"""What operators count, for Prometheus. Label values come from the configuration or fixed lists, never callers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.multiprocess import MultiProcessCollector

from faregate.core.call import Record
from faregate.gateway.lately import Lately

log = logging.getLogger("faregate")

_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """`ports.Events` as counters.

    With several workers, the library keeps their values in files of one folder (PROMETHEUS_MULTIPROC_DIR, set by the
    parent) and whichever worker is asked adds them up.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.registry = CollectorRegistry()
        self._folder = folder
        kept: Any = {"registry": self.registry}
        self._children: dict[tuple[MetricWrapperBase, tuple[str, ...]], Any] = {}
        self._calls = Counter(
            "faregate_calls_total", "Calls that ended with a record.", ["provider", "endpoint", "outcome"], **kept
        )
        self._refused = Counter("faregate_refused_total", "Calls that ended with an error of ours.", ["code"], **kept)
        self._charged = Counter("faregate_charged_credits_total", "Credits charged.", ["provider"], **kept)
        self._tokens = Counter("faregate_tokens_total", "Tokens charged.", ["provider", "class"], **kept)
        self._duration = Histogram(
            "faregate_call_seconds", "From request to charge.", ["provider", "endpoint"], buckets=_BUCKETS_S, **kept
        )
        self._estimated = Counter("faregate_estimated_total", "Charges made without exact usage.", ["provider"], **kept)
        self._overruns = Counter("faregate_overruns_total", "Actuals above their hold.", **kept)
        self._overrun = Counter("faregate_overrun_credits_total", "Credits above holds.", **kept)
        self._trouble = Counter("faregate_trouble_total", "What an operator should look at.", ["what"], **kept)
        self._meter_tries = Counter(
            "faregate_stripe_tries_total", "Tries to send billed usage to Stripe.", ["outcome"], **kept
        )
        summed: Any = kept | {"multiprocess_mode": "livesum"}
        self.open_holds = Gauge("faregate_open_holds", "Holds the workers have open.", **summed)
        self.journal_bytes = Gauge("faregate_journal_bytes", "Bytes of the workers' journals.", **summed)
        self.backlog = Gauge("faregate_backlog_records", "Records that wait for the book.", **summed)
        self._degraded = Gauge("faregate_degraded", "Degraded modes; 0 is well.", ["mode"], **summed)
        self.lately = Lately()
        self._meter_events = Gauge(
            "faregate_stripe_events", "Meter events that are not delivered.", ["state"], **summed
        )
        self._meter_oldest = Gauge(
            "faregate_stripe_oldest_seconds", "Age of the oldest meter event that is not delivered.", **summed
        )

    def call_ended(self, record: Record, duration_s: float) -> None:
        provider, endpoint = record.provider, record.endpoint
        self._child(self._calls, provider, endpoint, record.outcome).inc()
        self._child(self._duration, provider, endpoint).observe(duration_s)
        self._child(self._charged, provider).inc(record.charge_microcredits / 1e6)
        for name in ("input", "output"):
            count = record.usage.get(f"{name}_tokens")
            if isinstance(count, int) and count > 0:
                self._child(self._tokens, provider, name).inc(count)
        if record.outcome != "ok":
            self.lately.add(f"ended:{record.outcome}")
        if record.estimated:
            self._child(self._estimated, provider).inc()

    def _child(self, metric: MetricWrapperBase, *labels: str) -> Any:
        """`metric.labels` takes a lock and checks its arguments each time."""
        found = self._children.get((metric, labels))
        if found is None:
            found = self._children[metric, labels] = metric.labels(*labels)
        return found

    def call_refused(self, code: str) -> None:
        self._refused.labels(code).inc()
        self.lately.add(f"refused:{code}")

    def overrun(self, microcredits: int) -> None:
        self._overruns.inc()
        self.lately.add("overrun")
        self._overrun.inc(microcredits / 1e6)

    def meter_tried(self, outcome: str) -> None:
        self._meter_tries.labels(outcome).inc()

    def meter_waiting(self, counts: dict[str, int], oldest_s: float) -> None:
        for state, count in counts.items():
            self._meter_events.labels(state).set(count)
        self._meter_oldest.set(oldest_s)

    def trouble(self, what: str, detail: str) -> None:
        self._trouble.labels(what).inc()
        self.lately.add(f"trouble:{what}")
        log.warning("%s: %s", what, detail)

    def degraded(self, modes: Mapping[str, int]) -> None:
        """How things are, by mode (modes.py)."""
        for mode, count in modes.items():
            self._child(self._degraded, mode).set(count)

    def text(self) -> bytes:
        """The exposition format, all workers together."""
        if self._folder is None:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together, str(self._folder))  # type: ignore[no-untyped-call]
        return generate_latest(together)
