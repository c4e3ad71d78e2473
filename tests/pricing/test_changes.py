from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from genai_prices import types

from faregate.errors import ConfigError
from faregate.pricing.changes import Change, Changes, InForce, compare
from faregate.pricing.entries import PriceEntry
from faregate.pricing.entries import build as build_entry
from faregate.pricing.release import read
from faregate.pricing.stored import stored_update
from faregate.pricing.updates import NONE, Update, Updates
from tests.pricing.releases import data_json, model

START = datetime(2026, 11, 20, tzinfo=UTC)
SHIPPED = InForce(updates=NONE, entries=(), kinds={})


def changes(path: Path, *patterns: str, held: InForce = SHIPPED) -> Changes:
    return compare(read(path), held, patterns, START)


def rows(found: Changes) -> list[tuple[str, str, str, Decimal | None, Decimal | None, str]]:
    return [(c.model, c.tier, c.item, c.old, c.new, c.what) for c in found.changes if c.what != "absent"]


def release(tmp_path: Path, *models: dict[str, Any]) -> Path:
    return data_json(tmp_path / "data.json", *models)


def test_the_installed_release_changes_nothing() -> None:
    found = changes(Path(types.__file__).parent)
    assert (found.changes, found.bookings) == ((), ())


def test_a_new_model_is_added(tmp_path: Path) -> None:
    found = changes(
        release(tmp_path, model("gpt-99", input_mtok=1.5, output_mtok={"base": 6, "tiers": [{"start": 9, "price": 8}]}))
    )
    micro = Decimal("0.000001")
    assert rows(found) == [
        ("gpt-99", "default", "input", None, Decimal("1.5") * micro, "added"),
        ("gpt-99", "default", "output", None, 6 * micro, "added"),
        ("gpt-99", "default", "input above 9", None, Decimal("1.5") * micro, "added"),
        ("gpt-99", "default", "output above 9", None, 8 * micro, "added"),
    ]
    assert found.without_tiers


def test_what_it_does_not_have_keeps_its_price(tmp_path: Path) -> None:
    found = changes(release(tmp_path, model("gpt-99", input_mtok=1)), "openai/gpt-4.1")
    assert [(c.model, c.what) for c in found.changes] == [("gpt-4.1", "absent")]
    assert found.bookings == ()


def test_a_price_that_changes_later_says_when(tmp_path: Path) -> None:
    later = [{"prices": {"input_mtok": 1}}, {"prices": {"input_mtok": 2}, "constraint": {"start_date": "2027-01-01"}}]
    (one, two) = changes(release(tmp_path, {**model("gpt-99"), "prices": later})).changes[:2]
    assert (one.new, one.start) == (Decimal("0.000001"), None)
    assert (two.old, two.new, two.start) == (None, Decimal("0.000002"), datetime(2027, 1, 1, tzinfo=UTC))


def test_what_was_taken_over_is_not_news(tmp_path: Path) -> None:
    path = release(tmp_path, model("gpt-99", input_mtok=1.5))
    booking = changes(path).bookings[0]
    stored = stored_update({**model("gpt-99", input_mtok="1.5")}, provider=booking.provider, source="s", start_us=0)
    assert isinstance(stored, Update)
    held = replace(SHIPPED, updates=Updates([stored]))
    assert changes(path, held=held).bookings == ()
    again = changes(release(tmp_path, model("gpt-99", input_mtok=2)), held=held)
    assert rows(again)[0][3:] == (Decimal("0.0000015"), Decimal("0.000002"), "changed")


def test_a_model_that_cannot_be_read_is_named_and_can_be_left_out(tmp_path: Path) -> None:
    path = release(tmp_path, model("good", input_mtok=1), model("bad", input_mtok=-1))
    with pytest.raises(ConfigError, match=r"openai\.models\[1\]\.prices\.input_mtok.*--model"):
        changes(path)
    assert len(changes(path, "GOOD").bookings) == 1


def test_a_prices_file_s_cards(tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    path.write_text(
        "- {provider: openai, model: gpt-4.1-mini, per_million: {input: 0.40, cached_input: 0.1, output: 2}}\n"
        "- {provider: x, model: 'm*', effective_from: 2027-01-01, per_unit: {page: 0.5}}\n"
    )
    found = changes(path)
    assert [row[2] for row in rows(found) if row[:2] == ("gpt-4.1-mini", "default")] == [
        "output",
        "search",
        "file_search",
    ]
    assert {row[5] for row in rows(found) if row[:2] == ("gpt-4.1-mini", "priority")} == {"removed"}
    assert (
        Change(provider="x", model="m*", tier="default", item="page", old=None, new=Decimal("0.5"), what="added")
        in found.changes
    )
    assert [booking.start_us for booking in found.bookings] == [None, 1_798_761_600_000_000]
    entry = build_entry({"provider": "x", "model": "m*", "per_unit": {"page": "0.50"}}, source="s", created_at_us=1)
    assert isinstance(entry, PriceEntry)
    assert len(changes(path, held=replace(SHIPPED, entries=(entry,))).bookings) == 1
