from __future__ import annotations

import csv
import json
import sqlite3
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from pathlib import Path

import pytest
from benchmarks.records import make

from faregate.commands.desk import desk
from faregate.commands.export_files import COLUMNS, Spool
from faregate.errors import InvalidRequest
from tests.cli_support import faregate, running

ADMIN = "an-admin-key-of-at-least-32-characters"
COUNT = 2_300
"""More than two pages."""


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A data directory with records, and their organization."""
    folder = tmp_path_factory.mktemp("export")
    made = make(folder / "faregate.db", COUNT)
    with sqlite3.connect(folder / "faregate.db") as db:
        db.execute(
            "UPDATE usage_records SET cost = '0.0000000000000000000000000001234' WHERE id IN"
            " (SELECT id FROM usage_records LIMIT 1)"
        )
    return folder, made.organization_id


def _export(book: tuple[Path, str], *words: str) -> tuple[str, str]:
    done = faregate("export", "usage", "--organization", book[1], *words, data_dir=book[0])
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def _cost(book: tuple[Path, str]) -> Decimal:
    with sqlite3.connect(book[0] / "faregate.db") as db:
        return sum((Decimal(cost) for (cost,) in db.execute("SELECT cost FROM usage_records")), Decimal(0))


def test_csv_has_every_record_once_and_exact(book: tuple[Path, str]) -> None:
    out, said = _export(book)
    rows = list(csv.DictReader(out.splitlines()))
    assert (len(rows), len({row["id"] for row in rows})) == (COUNT, COUNT)
    assert sum(Decimal(row["estimatedCostUsd"]) for row in rows) == _cost(book)
    assert list(rows[0]) == list(COLUMNS)
    assert "2,300 records written" in said


def test_json_lines_of_a_span(book: tuple[Path, str], tmp_path: Path) -> None:
    words = ("--format", "jsonl", "--since", "2026-01-15", "--until", "2026-02-01T00:00Z")
    _export(book, *words, "--output", str(tmp_path / "u.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "u.jsonl").read_text().splitlines()]
    assert len(rows) == pytest.approx(COUNT * 17 / 90, rel=0.05)
    assert all("2026-01-15" <= row["occurredAt"] < "2026-02-01" for row in rows)
    assert isinstance(rows[0]["creditsCharged"], str)


def test_parquet_keeps_decimals(book: tuple[Path, str], tmp_path: Path) -> None:
    _export(book, "--format", "parquet", "--output", str(tmp_path / "u.parquet"))
    table = import_module("pyarrow.parquet").read_table(tmp_path / "u.parquet")
    assert table.num_rows == COUNT
    assert sum(table.column("estimatedCostUsd").to_pylist()) == _cost(book)
    assert str(table.schema.field("creditsCharged").type).startswith("decimal128")
    assert [path.name for path in tmp_path.iterdir()] == ["u.parquet"]


async def test_a_part_is_gone_on_with(book: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "u.csv"
    _export(book, "--output", str(out))
    whole = out.read_bytes()
    words = {"organizationId": book[1], "accountId": None, "modelId": None, "since": None, "until": None}
    asked = {"organizationId": book[1], "limit": 1_000}
    spool = Spool.open(out, "csv", {**words, "cursor": None, "format": "csv", "url": None}, asked, None)
    monkeypatch.setenv("FAREGATE_DATA_DIR", str(book[0]))
    async with desk(None, None, None) as at:
        spool.add(*await at.usage_page(asked, None))
    spool.file.write(b"half a li")
    spool.file.close()
    assert "going on after 1,000 records" in _export(book, "--output", str(out))[1]
    assert out.read_bytes() == whole
    assert not spool.part.exists()


def test_standard_output_goes_on_by_cursor(book: tuple[Path, str]) -> None:
    whole = _export(book)[0].splitlines()
    row = next(csv.DictReader(whole[:1] + whole[10:11]))
    moment = datetime.fromisoformat(row["occurredAt"])
    place = f"{(moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)}:{row['id']}"
    rest = _export(book, "--cursor", urlsafe_b64encode(place.encode()).decode())[0]
    assert rest.splitlines() == whole[11:]


def test_a_running_server_gives_the_same(book: tuple[Path, str]) -> None:
    expected = _export(book)[0]
    with running("serve", data_dir=book[0], FAREGATE_ADMIN_KEY=ADMIN) as server:
        assert _export(book, "--url", server.url, "--key", ADMIN)[0] == expected


def test_another_exports_part_is_not_touched(tmp_path: Path) -> None:
    Spool.open(tmp_path / "u.csv", "csv", {"since": "7d"}, {}, None).file.close()
    with pytest.raises(InvalidRequest, match="another export"):
        Spool.open(tmp_path / "u.csv", "csv", {"since": "8d"}, {}, None)
