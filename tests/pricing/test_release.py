from __future__ import annotations

import zipfile
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from genai_prices import types

from faregate.errors import ConfigError
from faregate.pricing import genai_model
from faregate.pricing.entries import EntryError
from faregate.pricing.release import read
from tests.pricing.releases import model, wheel


def test_a_wheel_is_read_and_never_run(tmp_path: Path) -> None:
    release = read(wheel(tmp_path))
    assert release.source == "genai-prices 9.9.9"
    info = genai_model.build(release.models["anthropic"][0])
    assert isinstance(info.prices, list)
    assert info.prices[0].prices.input_mtok == Decimal("2.5")
    tiered = info.prices[0].prices.output_mtok
    assert isinstance(tiered, types.TieredPrices)
    assert (tiered.base, tiered.tiers) == (Decimal(10), [types.Tier(start=200_000, price=Decimal(15))])
    hours = info.prices[1].constraint
    assert isinstance(hours, types.TimeOfDateConstraint)
    assert (hours.start_time.isoformat(), hours.end_time.isoformat()) == ("00:30:00+00:00", "16:30:00+00:00")
    assert info.price_variants is not None
    assert info.price_variants[0].when == {"processing": "batch"}
    assert info.price_variants[0].constraint == types.StartDateConstraint(start_date=date(2026, 1, 1))


def test_an_installed_directory_is_the_same(tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel(tmp_path)) as file:
        file.extractall(tmp_path / "site")
    assert read(tmp_path / "site") == read(tmp_path / "site" / "genai_prices") == read(wheel(tmp_path))


def test_the_installed_package_reads_as_itself() -> None:
    release = read(Path(types.__file__).parent)
    found = {raw["id"]: raw for raw in release.models["openai"]}
    info = genai_model.build(found["gpt-5"])
    assert sum(map(len, release.models.values())) > 2_000
    assert info.match.is_match("gpt-5-2025-08-07")


def test_published_json_keeps_its_digits(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text('[{"id":"x","models":[{"id":"m","match":{"equals":"m"},"prices":{"input_mtok":0.1}}]}]')
    release = read(path)
    assert release.source.startswith("genai-prices data.json ")
    assert genai_model.build(release.models["x"][0]).get_prices(None).input_mtok == Decimal("0.1")  # type: ignore[arg-type]


def test_a_prices_file_is_a_source(tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    path.write_text("- {provider: x, model: m, per_million: {input: 0.10}}\n")
    assert read(path).cards == ({"provider": "x", "model": "m", "per_million": {"input": "0.10"}},)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("data.json", b'[{"id": "x", "models": [', "not JSON"),
        ("data.json", b"\xff\xfe", "not JSON"),
        ("data.json", b"[" * 100_000, "not JSON"),
        ("data.json", b'[{"id": "x", "models": [{"id": "m", "context_window": NaN}]}]', "not JSON"),
        ("data.json", b"{}", "a list of providers"),
        ("data.json", b'[{"models": []}]', "[0] is no provider"),
        ("data.json", b'[{"id": "x", "models": [5]}]', "[0].models"),
        ("x.whl", b"PK no wheel", "cannot be read"),
        ("x.yaml", b"- {provider: x}", "x.yaml:1"),
        ("x.yaml", b"\xff", "cannot be read"),
    ],
)
def test_what_is_no_source_says_so(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        read(path)
    assert says in raised.value.message


@pytest.mark.parametrize(
    "data",
    [
        "providers = __import__('os').environ",
        "providers = [Provider(id='x', models=[ModelInfo(open('/etc/passwd'))])]",
        "providers = [p for p in ()]",
        "providers = [",
        "x = 1",
    ],
)
def test_source_that_is_more_than_data_is_refused(tmp_path: Path, data: str) -> None:
    with pytest.raises(ConfigError):
        read(wheel(tmp_path, data=data))


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"id": ""}, ("id",)),
        ({"match": {}}, ("match",)),
        ({"match": {"or": [{"like": "x"}]}}, ("match", "or", 0, "like")),
        ({"match": {"regex": "("}}, ("match", "regex")),
        ({"prices": None}, ("prices",)),
        ({"prices": {"input_mtok": -1}}, ("prices", "input_mtok")),
        ({"prices": {"input_mtok": "NaN"}}, ("prices", "input_mtok")),
        ({"prices": {"input_mtok": Decimal("1e999")}}, ("prices", "input_mtok")),
        ({"prices": {"input_mtok": True}}, ("prices", "input_mtok")),
        ({"prices": {"input_mtok": {"base": 1, "tiers": []}}}, ("prices", "input_mtok", "tiers")),
        ({"prices": [{"prices": {}, "constraint": {"moon": "full"}}]}, ("prices", 0, "constraint")),
        ({"prices": [{"prices": {}, "constraint": {"start_date": "soon"}}]}, ("prices", 0, "constraint")),
        ({"price_variants": [{"when": {}, "prices": {}}]}, ("price_variants", 0, "when")),
        ({"context_window": -5}, ("context_window",)),
    ],
)
def test_a_field_that_cannot_be_meant_is_named(change: dict[str, Any], path: tuple[object, ...]) -> None:
    with pytest.raises(EntryError) as raised:
        genai_model.build({**model("m", input_mtok=1), **change})
    assert raised.value.path == path
