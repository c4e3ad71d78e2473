"""`faregate prices diff` and `update` as people meet them, on a data directory of their own."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.cli_support import faregate
from tests.pricing.releases import data_json, model


def rates(data_dir: Path, model_id: str) -> dict[str, Any]:
    done = faregate("prices", "show", model_id, "--provider", "openai", "--json", data_dir=data_dir)
    found = [json.loads(line, parse_float=Decimal) for line in done.stdout.splitlines()]
    return {row["item"]: (row["perMillionUsd"], row["source"]) for row in found}


def test_an_update_is_shown_asked_for_and_booked(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert faregate("keys", "create", "k", data_dir=data).returncode == 0
    path = str(data_json(tmp_path / "data.json", model("gpt-99", input_mtok=1.5, output_mtok=6)))
    shown = faregate("prices", "diff", path, "--json", "--model", "gpt-99", data_dir=data)
    assert [json.loads(line)["new"] for line in shown.stdout.splitlines()] == [1.5, 6]
    asked = faregate("prices", "update", path, data_dir=data)
    assert (asked.returncode, "add --yes" in asked.stderr) == (2, True)
    assert faregate("prices", "show", "gpt-99", data_dir=data).returncode == 2
    done = faregate("prices", "update", path, "--yes", data_dir=data)
    assert "1 cards change" in done.stderr
    value, source = rates(data, "gpt-99")["input"]
    assert (value, source.startswith("genai-prices data.json ")) == (Decimal("1.5"), True)
    assert "nothing changes" in faregate("prices", "update", path, "--yes", data_dir=data).stderr


def test_an_update_never_goes_back_in_time(tmp_path: Path) -> None:
    path = str(data_json(tmp_path / "data.json", model("gpt-99", input_mtok=1.5)))
    faregate("keys", "create", "k", data_dir=tmp_path / "data")
    done = faregate("prices", "update", path, "--yes", "--effective-from", "2026-01-01", data_dir=tmp_path / "data")
    assert (done.returncode, "must not be in the past" in done.stderr) == (2, True)
    later = faregate("prices", "update", path, "--yes", "--effective-from", "2999-01-01", data_dir=tmp_path / "data")
    assert later.returncode == 0
    assert faregate("prices", "show", "gpt-99", data_dir=tmp_path / "data").returncode == 2
