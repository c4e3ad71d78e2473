from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from faregate.core.call import Record
from faregate.gateway.metrics import Metrics

SECRET = "sk-live-0123456789"
RECORD = Record(
    hold_id=f"hold-{SECRET}",
    hold_kind="call",
    kind="actual",
    organization_id=f"org-{SECRET}",
    account_id=f"acc-{SECRET}",
    key_id=f"key-{SECRET}",
    request_id=f"req-{SECRET}",
    occurred_at_us=1,
    charge_microcredits=1_500_000,
    cost_usd=Decimal("0.0015"),
    endpoint="chat.completions",
    public_model=f"model-{SECRET}",
    provider="openai",
    provider_kind="openai",
    model=f"model-{SECRET}",
    usage={"input_tokens": 10, "output_tokens": 0},
    attribution={"agent": SECRET, "user": SECRET},
    raw_usage=SECRET,
)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def label_values(metrics: Metrics) -> set[str]:
    return {
        value
        for family in metrics.registry.collect()
        for one in family.samples
        for name, value in one.labels.items()
        if name != "le"
    }


def test_a_call_is_counted_with_its_charge_and_its_tokens(metrics: Metrics) -> None:
    for _ in range(2):
        metrics.call_ended(RECORD, 0.5)
    called = {"provider": "openai", "endpoint": "chat.completions"}
    assert sample(metrics, "faregate_calls_total", **called, outcome="ok") == 2
    assert sample(metrics, "faregate_call_seconds_sum", **called) == 1.0
    assert sample(metrics, "faregate_charged_credits_total", provider="openai") == 3.0
    assert sample(metrics, "faregate_tokens_total", provider="openai", **{"class": "input"}) == 20
    assert sample(metrics, "faregate_tokens_total", provider="openai", **{"class": "output"}) is None
    assert sample(metrics, "faregate_estimated_total", provider="openai") is None


def test_outcomes_and_estimates_are_told_apart(metrics: Metrics) -> None:
    metrics.call_ended(replace(RECORD, outcome="client_gone", estimated=True), 0.5)
    metrics.call_ended(RECORD, 0.5)
    named: dict[str, Any] = {"provider": "openai", "endpoint": "chat.completions"}
    assert sample(metrics, "faregate_calls_total", **named, outcome="client_gone") == 1
    assert sample(metrics, "faregate_estimated_total", provider="openai") == 1


@pytest.mark.parametrize("count", [None, -5, 0, "7", 2.5])
def test_a_count_that_is_none_is_not_counted(metrics: Metrics, count: object) -> None:
    metrics.call_ended(replace(RECORD, usage={"input_tokens": count}), 0.1)
    assert sample(metrics, "faregate_tokens_total", provider="openai", **{"class": "input"}) is None


def test_what_is_refused_overrun_and_in_trouble_is_counted(metrics: Metrics) -> None:
    metrics.call_refused("insufficient_credits")
    metrics.overrun(2_500_000)
    metrics.overrun(500_000)
    metrics.trouble("parked", "hold")
    assert sample(metrics, "faregate_refused_total", code="insufficient_credits") == 1
    assert sample(metrics, "faregate_overruns_total") == 2
    assert sample(metrics, "faregate_overrun_credits_total") == 3.0
    assert sample(metrics, "faregate_trouble_total", what="parked") == 1


def test_trouble_is_told_in_full_in_the_log_alone(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="faregate"):
        metrics.trouble("parked", "hold 7: no such account")
    assert "parked: hold 7: no such account" in caplog.text
    assert b"hold 7" not in metrics.text()


def test_callers_cannot_make_labels(metrics: Metrics) -> None:
    """Neither models, keys, accounts nor tags: a thousand of them are one series, and none is shown to a scraper."""
    metrics.call_ended(RECORD, 0.1)
    before = label_values(metrics)
    for number in range(1000):
        caller = replace(RECORD, public_model=f"m{number}", key_id=f"k{number}", attribution={"agent": f"a{number}"})
        metrics.call_ended(caller, 0.1)
    assert label_values(metrics) == before
    assert SECRET.encode() not in metrics.text()


COUNT = """
import os
os.environ["PROMETHEUS_MULTIPROC_DIR"] = {folder!r}
from pathlib import Path
from faregate.gateway.metrics import Metrics
metrics = Metrics(Path({folder!r}))
metrics.call_refused("not_found")
metrics.open_holds.set(2)
print(metrics.text().decode())
"""


def test_whichever_worker_is_asked_speaks_for_all(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COUNT.format(folder=str(tmp_path))]
    for asked in (1, 2):
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert f'faregate_refused_total{{code="not_found"}} {asked}.0' in said
