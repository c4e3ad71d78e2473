from __future__ import annotations

from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, event, insert, select

from faregate.core.money import EXACT
from faregate.ledger import tables
from faregate.ledger.dialect import exact_sum, exact_text, install_functions, json_has

amounts = st.decimals(min_value=-(10**9), max_value=10**9, places=24, allow_nan=False)


@given(st.lists(amounts, max_size=20))
@settings(max_examples=20, deadline=None)
def test_sums_are_exact_where_doubles_are_not(numbers: list[Decimal]) -> None:
    engine = create_engine("sqlite://")
    event.listen(engine, "connect", lambda connection, _: install_functions(connection))
    with engine.begin() as conn:
        tables.organizations.create(conn)
        for place, number in enumerate(numbers):
            row = {"id": str(place), "uuid": str(place), "name": "", "credits_per_usd": number}
            rest = {"markup_percent": 0, "ingest_charges": False, "default_account_id": "", "created_us": 0}
            conn.execute(insert(tables.organizations).values(**row, **rest, updated_us=0))
        got = conn.execute(select(exact_sum(tables.organizations.c.credits_per_usd))).scalar()
    engine.dispose()
    total = Decimal(0)
    for number in numbers:
        total = EXACT.add(total, number)
    assert got == (total if numbers else None)


def test_one_text_for_each_number() -> None:
    assert [exact_text(Decimal(text)) for text in ("1E-7", "0.00", "-0", "100", "1.50")] == [
        "0.0000001",
        "0",
        "0",
        "100",
        "1.5",
    ]


def test_names_and_values_of_json_are_bound_not_pasted() -> None:
    clause = json_has(tables.usage_records.c.tags, "tag.x'; --", "v")
    assert "--" not in str(clause.compile())
