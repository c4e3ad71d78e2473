from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faregate.core import codec
from faregate.core.call import Hold, Record
from faregate.core.codec import decode_card, decode_hold, decode_record, encode_card, encode_hold, encode_record
from faregate.core.price import LongContext, PriceCard

FULL_CARD = PriceCard(
    id="full",
    provider="openai",
    model="gpt",
    rates={"input": Decimal("0.00000025"), "output": Decimal("1E-6")},
    tiers={"flex": {"input": Decimal("0.000000125")}},
    long_context=(LongContext(above=200_000, rates={"input": Decimal("5E-7")}, inclusive=True),),
    tier_long_context={"flex": (LongContext(above=100_000, rates={"input": Decimal("3E-7")}),)},
    source="supplement",
    source_date="2026-01-02",
    effective_from=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    display_name="GPT",
    context_window=400_000,
    max_output_tokens=128_000,
    modifiers={"geo:us": Decimal("1.1")},
    provider_cost=True,
    free=True,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
money = st.decimals(-(10**9), 10**9, allow_nan=False, allow_infinity=False, places=12)
rates = st.dictionaries(texts, st.decimals(0, 10, allow_nan=False, allow_infinity=False), max_size=3)
longs = st.lists(
    st.builds(LongContext, above=st.integers(0, 10**7), rates=rates, inclusive=st.booleans()), max_size=2
).map(tuple)
cards = st.builds(
    PriceCard,
    id=st.just(""),
    provider=texts,
    model=texts,
    rates=rates,
    tiers=st.dictionaries(texts, rates, max_size=2),
    long_context=longs,
    tier_long_context=st.dictionaries(texts, longs, max_size=2),
    source=texts,
    source_date=st.none() | texts,
    effective_from=st.none() | st.datetimes(timezones=st.just(UTC)),
    display_name=st.none() | texts,
    context_window=st.none() | st.integers(0, 10**7),
    max_output_tokens=st.none() | st.integers(0, 10**7),
    modifiers=rates,
    provider_cost=st.booleans(),
    free=st.booleans(),
).map(lambda card: replace(card, id=repr(card)))  # the same id means the same content
records = st.builds(
    Record,
    hold_id=texts,
    hold_kind=st.sampled_from(["call", "api", "arrears"]),
    kind=st.sampled_from(["actual", "unconfirmed", "adjustment", "ingested"]),
    organization_id=texts,
    account_id=texts,
    key_id=st.none() | texts,
    request_id=texts,
    occurred_at_us=st.integers(0, 2**62),
    charge_microcredits=st.integers(-(2**53), 2**53),
    cost_usd=money,
    context=st.sampled_from(["customer", "system"]),
    usage=st.dictionaries(texts, st.integers(0, 2**53) | texts, max_size=4),
    card=st.none() | cards,
    lines=st.lists(st.tuples(texts, texts, texts, texts), max_size=3).map(tuple),
    multiplier=money,
    markup_percent=money,
    credits_per_usd=money,
    estimated=st.booleans(),
    attribution=st.dictionaries(texts, texts, max_size=3),
    description=st.none() | texts,
    raw_usage=st.none() | texts,
    limit_keys=st.lists(texts, max_size=3).map(tuple),
)
holds = st.builds(
    Hold,
    id=texts,
    kind=st.sampled_from(["call", "api", "arrears"]),
    organization_id=texts,
    account_id=texts,
    bucket=st.integers(0, 255),
    microcredits=st.integers(0, 2**53),
    tokens=st.none() | st.integers(0, 2**53),
    limit_keys=st.lists(texts, max_size=3).map(tuple),
    rests=st.lists(st.integers(-(2**53), 2**53), max_size=3).map(tuple),
)
RECORD = Record(
    hold_id="h",
    hold_kind="call",
    kind="actual",
    organization_id="o",
    account_id="a",
    key_id=None,
    request_id="r",
    occurred_at_us=1,
    charge_microcredits=2,
    cost_usd=Decimal("3E-9"),
)


@settings(max_examples=60)
@given(records)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert decode_record(encode_record(record)) == record


@given(holds)
def test_a_hold_comes_back_as_it_was(hold: Hold) -> None:
    assert decode_hold(encode_hold(hold)) == hold


def test_a_card_comes_back_with_every_field() -> None:
    for field in fields(PriceCard):
        assert getattr(FULL_CARD, field.name), f"{field.name} is not set in this test"
    assert decode_card(orjson.loads(encode_card(FULL_CARD))) == FULL_CARD
    assert decode_record(encode_record(replace(RECORD, card=FULL_CARD))).card == FULL_CARD


def test_decimals_are_strings_without_exponent() -> None:
    written: dict[str, Any] = orjson.loads(encode_record(replace(RECORD, card=FULL_CARD)))
    assert written["cost_usd"] == "0.000000003"
    assert written["card"]["rates"]["output"] == "0.000001"


def test_decimals_and_read_only_maps_are_written_inside_usage_too() -> None:
    record = replace(RECORD, usage=MappingProxyType({"audio_seconds": Decimal("1.50")}))
    assert decode_record(encode_record(record)).usage == {"audio_seconds": "1.50"}


def test_fields_of_a_later_release_are_ignored() -> None:
    card = {**orjson.loads(encode_card(FULL_CARD)), "from_2031": {}}
    later = {**orjson.loads(encode_record(RECORD)), "card": card, "from_2031": [1]}
    assert decode_record(orjson.dumps(later)) == replace(RECORD, card=FULL_CARD)
    hold = {"id": "h", "kind": "call", "organization_id": "o", "account_id": "a", "bucket": 1, "from_2031": 1}
    assert decode_hold(orjson.dumps({**hold, "microcredits": 1, "tokens": None, "limit_keys": []})).id == "h"


def test_fields_an_earlier_release_did_not_write_take_their_defaults() -> None:
    required = {f.name for f in fields(Record)} & {*orjson.loads(encode_record(RECORD))}
    defaults = {"usage", "lines", "limit_keys", "card", "multiplier", "credits_per_usd", "attribution", "tier"}
    written = {name: value for name, value in orjson.loads(encode_record(RECORD)).items() if name not in defaults}
    assert required > set(written)
    assert decode_record(orjson.dumps(written)) == RECORD
    hold = {"id": "h", "kind": "call", "organization_id": "o", "account_id": "a", "bucket": 1}
    read = decode_hold(orjson.dumps({**hold, "microcredits": 1, "tokens": None}))
    assert (read.limit_keys, read.rests) == ((), ())


def test_a_sparse_card_takes_its_defaults() -> None:
    sparse = {"id": "c", "provider": "p", "model": "m", "rates": {"input": "1"}, "source": "s"}
    expected = PriceCard(id="c", provider="p", model="m", rates={"input": Decimal(1)}, source="s")
    assert decode_card(sparse) == expected


def test_the_cache_of_encoded_cards_is_bounded() -> None:
    for number in range(codec._CARD_CACHE_SIZE + 10):
        encode_card(replace(FULL_CARD, id=f"bounded-{number}"))
    assert len(codec._cards) == codec._CARD_CACHE_SIZE


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"1", b'{"hold_id": "h"}', b'{"cost_usd": "x"}', b"\xff"])
def test_bytes_that_are_no_record_raise_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode_record(data)
