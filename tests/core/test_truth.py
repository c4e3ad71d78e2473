from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.core.call import Call, Candidate, Estimate, Form, Principal, Record
from faregate.core.money import MAX_MICROCREDITS
from faregate.core.price import Cost, PriceCard
from faregate.core.truth import (
    Outcome,
    UnconfirmedPolicy,
    billable_usage,
    finished_record,
    progress_microcredits,
    unconfirmed_record,
    usage_fields,
    zero_record,
)
from faregate.core.usage import ProviderError, Reading, Usage

M = Decimal("0.000001")
CARD = PriceCard(
    id="c",
    provider="p",
    model="m",
    rates={"input": M, "cached_input": M / 10, "output": 2 * M},
    tiers={"flex": {"input": M / 2, "output": M}, "priority": {"input": 2 * M, "output": 4 * M}},
    source="test",
)
PLACE = Candidate(provider="p", kind="openai", model="m-1", card=CARD)
WHO = Principal(
    key_id="k", rev=1, organization_id="o", account_id=None, default_account_id="a", scopes=frozenset({"proxy"})
)
CALL = Call(
    id="h",
    request_id="r",
    endpoint="chat.completions",
    model="fast",
    body={},
    raw_body=b"x" * 401,
    stream=False,
    wants_usage=False,
    account_id="a",
)
LIKELY = 101
"""Input tokens of CALL at four bytes a token."""
BOUND = Estimate(
    input_tokens=200,
    output_tokens=1000,
    choices=1,
    floor_output_tokens=64,
    want_microcredits=2_200_000,
    floor_microcredits=328_000,
    input_microcredits=200_000,
    cappable=True,
)
INTENT = Record(
    hold_id="h",
    hold_kind="call",
    kind="actual",
    organization_id="o",
    account_id="a",
    key_id="k",
    request_id="r",
    occurred_at_us=1,
    charge_microcredits=200_000,
    cost_usd=Decimal("0.0002"),
    provider="first",
    limit_keys=("k.credits.day:0",),
)


def outcome(usage: Usage | None = None, *, status: int = 200, **changes: Any) -> Outcome:
    """`changes` of Outcome's own fields go there, the others into the reading."""
    own = {name: changes.pop(name) for name in ("broke", "unseen", "client_gone", "cut") if name in changes}
    return Outcome(status=status, reading=Reading(usage=usage, **{"complete": True, **changes}), **own)


def finished(ended: Outcome, place: Candidate = PLACE, call: Call = CALL, who: Principal = WHO) -> tuple[Record, Cost]:
    found = finished_record(INTENT, ended, call, place, BOUND, who)
    assert found is not None
    return found


def tokens(given: int | None, made: int | None, **parts: int) -> Usage:
    return Usage(input_tokens=given, output_tokens=made, **parts)  # type: ignore[arg-type]


ERROR = ProviderError(message="no")

# The table ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ended",
    [
        outcome(status=400, error=ERROR),
        outcome(status=500),
        outcome(broke=True, complete=False),
        outcome(error=ERROR),
        outcome(tokens(5, 5), billable=False),
    ],
    ids=["refused", "failed", "broke", "error event", "not billable"],
)
def test_a_failure_before_any_output_and_without_usage_is_free(ended: Outcome) -> None:
    assert finished_record(INTENT, ended, CALL, PLACE, BOUND, WHO) is None


@pytest.mark.parametrize(
    ("ended", "word"),
    [
        (outcome(tokens(10, 5)), "ok"),
        (outcome(tokens(10, 5), broke=True, complete=False), "upstream_error"),
        (outcome(tokens(10, 5), error=ERROR), "upstream_error"),
        (outcome(tokens(10, 5), status=500), "ok"),
        (outcome(tokens(10, 5), client_gone=True, broke=True), "client_gone"),
        (outcome(tokens(10, 5), complete=False), "truncated"),
    ],
)
def test_usage_is_charged_exactly_however_it_ended(ended: Outcome, word: str) -> None:
    record, cost = finished(ended)
    assert cost.usd == record.cost_usd == Decimal("0.00002")
    assert (record.charge_microcredits, record.estimated, record.outcome) == (20_000, False, word)


def test_delivered_output_without_usage_is_estimated_and_flagged() -> None:
    record, _ = finished(outcome(delivered_tokens=7, broke=True, complete=False))
    assert record.usage == {"input_tokens": LIKELY, "output_tokens": 7}
    assert (record.estimated, record.charge_microcredits) == (True, (LIKELY + 14) * 1000)


def test_what_broke_before_the_client_saw_any_of_it_is_free_unless_the_provider_counted() -> None:
    broken: dict[str, Any] = {"broke": True, "unseen": True, "complete": False}
    assert billable_usage(outcome(delivered_tokens=7, **broken), CALL, BOUND) == (None, False)
    assert billable_usage(outcome(Usage(characters=5), **broken), CALL, BOUND) == (None, False)
    told = outcome(tokens(10, 5), raw_usage=b"{}", **broken)
    assert billable_usage(told, CALL, BOUND) == (tokens(10, 5), False)


def test_an_answer_without_usage_is_charged_for_its_input_at_least() -> None:
    record, _ = finished(outcome())
    assert (record.usage["input_tokens"], record.estimated, record.outcome) == (LIKELY, True, "no_usage")


def test_a_cut_before_any_output_still_owes_the_input() -> None:
    record, _ = finished(outcome(cut=True, broke=True, complete=False, client_gone=True))
    assert record.usage == {"input_tokens": LIKELY, "output_tokens": 0}


def test_the_estimate_of_the_input_never_exceeds_its_bound() -> None:
    record, _ = finished(outcome(), call=replace(CALL, raw_body=b"x" * 10_000))
    assert record.usage["input_tokens"] == BOUND.input_tokens


def test_an_explicit_zero_is_a_value() -> None:
    record, cost = finished(outcome(tokens(0, 0), delivered_tokens=9))
    assert cost.usd == 0
    assert (record.charge_microcredits, record.estimated) == (0, False)
    assert record.usage == {"input_tokens": 0, "output_tokens": 0}


@pytest.mark.parametrize(
    ("usage", "filled"),
    [(tokens(None, 5), (LIKELY, 5)), (tokens(10, None), (10, 3)), (tokens(0, None), (0, 3))],
)
def test_only_the_missing_part_is_filled_and_the_record_is_flagged(usage: Usage, filled: tuple[int, int]) -> None:
    record, _ = finished(outcome(usage, delivered_tokens=3))
    assert (record.usage["input_tokens"], record.usage["output_tokens"], record.estimated) == (*filled, True)


def test_a_placeholder_count_gives_way_to_what_was_delivered() -> None:
    """Anthropic's message_start says 1 output token, whatever comes."""
    record, _ = finished(outcome(tokens(10, 1), output_is_placeholder=True, delivered_tokens=806, complete=False))
    assert (record.usage["output_tokens"], record.estimated) == (806, True)


def test_an_answer_billed_by_other_units_is_not_an_estimate() -> None:
    assert billable_usage(outcome(Usage(images=2)), CALL, BOUND) == (Usage(images=2), False)


# Prices -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("served", "charge", "tier"),
    [
        *((None, 20_000, "default"), ("flex", 10_000, "flex"), ("priority", 40_000, "priority")),
        *(("fast", 40_000, "priority"), ("default", 20_000, "default"), ("scale", 20_000, "default")),
        ("batch", 20_000, "default"),
    ],
)
def test_the_served_tier_sets_the_price(served: str | None, charge: int, tier: str) -> None:
    record, _ = finished(outcome(tokens(10, 5), service_tier=served))
    assert (record.charge_microcredits, record.tier) == (charge, tier)


def test_a_fee_per_request_is_charged_once() -> None:
    card = replace(CARD, rates={**CARD.rates, "request": Decimal("0.01")})
    record, _ = finished(outcome(tokens(10, 5)), replace(PLACE, card=card))
    assert record.cost_usd == Decimal("0.01002")


def test_a_card_without_the_fee_does_not_name_requests() -> None:
    assert "requests" not in finished(outcome(tokens(10, 5)))[0].usage


def test_markup_and_multiplier_are_in_the_charge_not_in_the_cost() -> None:
    who = replace(WHO, markup_percent=Decimal(50), credits_per_usd=Decimal(100))
    record, cost = finished(outcome(tokens(10, 5)), call=replace(CALL, multiplier=Decimal(2)), who=who)
    assert (cost.usd, record.charge_microcredits) == (Decimal("0.00002"), 6_000)


def test_the_record_names_who_served_and_explains_its_price() -> None:
    record, _ = finished(outcome(tokens(10, 5, cached_input_tokens=4), raw_usage=b'{"a":\xff}'))
    assert (record.provider, record.provider_kind, record.card, record.status) == ("p", "openai", CARD, 200)
    assert record.limit_keys == INTENT.limit_keys
    assert ("cached_input", "4", "0.0000001", "0.0000004") in record.lines
    assert sum(Decimal(amount) for *_, amount in record.lines) == record.cost_usd
    assert record.raw_usage == '{"a":\ufffd}'


@pytest.mark.parametrize(
    ("usage", "believed"),
    [
        (tokens(-1, 5), (LIKELY, 5)),
        (tokens(10, -5), (10, 7)),
        (tokens(10, 5, cached_input_tokens=-3), (10, 5)),
        (tokens(2**63, 1), (LIKELY, 1)),
        (tokens(10, 2**62), (10, 7)),
        (Usage(total_tokens=7, images=1), (LIKELY, 7)),
    ],
    ids=repr,
)
def test_counts_that_cannot_be_are_estimated_and_the_others_kept(usage: Usage, believed: tuple[int, int]) -> None:
    record, cost = finished(outcome(usage, delivered_tokens=7))
    assert record.usage == {"input_tokens": believed[0], "output_tokens": believed[1]}
    assert record.estimated
    assert cost.usd > 0


def test_a_model_billed_by_the_request_alone_costs_that_whatever_tokens_it_names() -> None:
    card = replace(CARD, id="fee", rates={"request": Decimal("0.01")})
    bound = replace(BOUND, input_usd=Decimal("0.01"), input_microcredits=10_000_000)
    found = finished_record(INTENT, outcome(tokens(10, 5)), CALL, replace(PLACE, card=card), bound, WHO)
    assert found is not None
    assert (found[0].charge_microcredits, found[1].usd) == (10_000_000, Decimal("0.01"))


@pytest.mark.parametrize("stated", ["-1", "NaN"])
def test_a_stated_cost_that_cannot_be_gives_way_to_the_card(stated: str) -> None:
    place = replace(PLACE, card=replace(CARD, provider_cost=True))
    record, _ = finished(outcome(tokens(10, 5), provider_cost_usd=Decimal(stated), delivered_tokens=5), place)
    assert record.charge_microcredits == (10 + 2 * 5) * 1000


counts = st.none() | st.integers(-(2**64), 2**64) | st.integers(0, 10_000)
COUNTED = (
    *("input_tokens", "output_tokens", "total_tokens", "cached_input_tokens", "cache_write_tokens"),
    *("reasoning_tokens", "audio_output_tokens", "images", "requests", "web_search_requests"),
)
usages = st.none() | st.builds(Usage, **dict.fromkeys(COUNTED, counts))
readings = st.builds(
    Reading,
    usage=usages,
    complete=st.booleans(),
    output_is_placeholder=st.booleans(),
    anomaly=st.none() | st.just("negative_tokens"),
    service_tier=st.sampled_from([None, "flex", "batch", "?"]),
    delivered_tokens=st.integers(0, 10**6),
)
CARDS = [
    CARD,
    replace(CARD, id="free", free=True),
    replace(CARD, id="input", rates={"input": M}),
    replace(CARD, id="request", rates={"request": M}),
]


@given(st.builds(Outcome, status=st.sampled_from([200, 400, 500]), reading=readings), st.sampled_from(CARDS))
def test_no_reading_leaves_a_call_without_a_price_that_can_be_booked(ended: Outcome, card: PriceCard) -> None:
    found = finished_record(INTENT, ended, CALL, replace(PLACE, card=card), BOUND, WHO)
    if found is not None:
        assert 0 <= found[0].charge_microcredits <= MAX_MICROCREDITS


# In flight ----------------------------------------------------------------------------------------------


def worth(reading: Reading, card: PriceCard = CARD) -> int:
    return progress_microcredits(reading, CALL, replace(PLACE, card=card), BOUND, WHO)


def test_a_call_in_flight_is_worth_its_input_and_what_was_delivered() -> None:
    assert worth(Reading()) == LIKELY * 1000
    assert worth(Reading(delivered_tokens=7)) == (LIKELY + 14) * 1000


def test_a_count_in_flight_never_hides_what_was_delivered_already() -> None:
    assert worth(Reading(usage=tokens(10, 1), delivered_tokens=50)) == 110_000
    assert worth(Reading(usage=tokens(10, 60), delivered_tokens=50)) == 130_000


@given(readings, st.sampled_from(CARDS))
def test_progress_never_fails(reading: Reading, card: PriceCard) -> None:
    """It is asked for in the heartbeat of all holds: a provider's odd number must not stop that."""
    assert 0 <= worth(reading, card) <= MAX_MICROCREDITS


# Without an owner ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "charge", "usd"),
    [("progress", 300_000, "0.0003"), ("estimate", 500_000, "0.0005"), ("release", 0, "0")],
)
def test_a_call_nobody_saw_end_is_booked_by_policy(policy: UnconfirmedPolicy, charge: int, usd: str) -> None:
    record = unconfirmed_record(INTENT, 300_000, 500_000, policy)
    assert (record.kind, record.outcome, record.estimated) == ("unconfirmed", "unconfirmed", True)
    assert (record.charge_microcredits, record.cost_usd) == (charge, Decimal(usd))
    assert (record.hold_id, record.limit_keys) == ("h", INTENT.limit_keys)


@pytest.mark.parametrize("policy", ["progress", "estimate", "release"])
def test_a_guard_owes_nothing_by_any_policy(policy: UnconfirmedPolicy) -> None:
    guard = replace(INTENT, hold_kind="guard", charge_microcredits=0, cost_usd=Decimal(0))
    assert unconfirmed_record(guard, 0, 500_000, policy).charge_microcredits == 0


def test_an_unconfirmed_free_call_divides_by_nothing() -> None:
    free = replace(INTENT, charge_microcredits=0, cost_usd=Decimal(0))
    assert unconfirmed_record(free, 0, 0, "progress").cost_usd == 0


def test_a_zero_record_is_an_actual_that_counts_nowhere() -> None:
    keys = ("k.credits.day:0", "k.requests.day:0", "k.tokens.day:0")
    record = zero_record(replace(INTENT, limit_keys=keys, usage={"input_tokens": 5}))
    assert record.cost_usd == 0
    assert (record.kind, record.charge_microcredits, record.outcome) == ("actual", 0, "released")
    assert (record.hold_id, record.limit_keys, record.tokens) == ("h", (keys[0], keys[2]), 0)


def test_usage_is_recorded_without_its_unknowns() -> None:
    usage = Usage(input_tokens=0, audio_seconds=Decimal("1E+1"), custom={"x": Decimal("0.50")})
    assert usage_fields(usage) == {"input_tokens": 0, "audio_seconds": "10", "custom": {"x": "0.50"}}


def test_each_model_that_was_used_is_paid_at_its_own_rates() -> None:
    advisor = replace(CARD, id="x", model="clever", rates={"input": 5 * M, "output": 50 * M})
    parts = {"m-1": Usage(input_tokens=10, output_tokens=4), "clever": Usage(input_tokens=7, output_tokens=3)}
    reading = Reading(usage=Usage(input_tokens=17, output_tokens=7), complete=True, per_model=parts)
    place = replace(PLACE, also={"clever": advisor})
    found = finished_record(INTENT, Outcome(status=200, reading=reading), CALL, place, BOUND, WHO)
    assert found is not None
    record, cost = found
    assert cost.usd == (10 + 2 * 4 + 5 * 7 + 50 * 3) * M
    assert [line[0] for line in record.lines] == ["input", "output", "input (clever)", "output (clever)"]
    assert record.usage == {"input_tokens": 17, "output_tokens": 7}


def test_without_a_card_of_its_own_a_model_is_paid_as_the_one_that_was_asked() -> None:
    parts = {"m-1": Usage(input_tokens=10, output_tokens=4), "odd": Usage(input_tokens=7, output_tokens=3)}
    reading = Reading(usage=Usage(input_tokens=17, output_tokens=7), complete=True, per_model=parts)
    found = finished_record(INTENT, Outcome(status=200, reading=reading), CALL, PLACE, BOUND, WHO)
    assert found is not None
    assert found[1].usd == (17 + 2 * 7) * M


# Sound and pictures -------------------------------------------------------------------------------------

DRAWING = replace(CALL, endpoint="images.generations", body={"n": 2, "quality": "hd", "size": "1792x1024"})
RECORDING = replace(CALL, endpoint="audio.transcriptions", form=Form(model_at=(0, 0), seconds=9, most_seconds=9))


def place(**rates: str) -> Candidate:
    named = {name.replace("__", ":"): Decimal(rate) for name, rate in rates.items()}
    return replace(PLACE, card=replace(CARD, id=str(named), rates=named, tiers={}))


def test_a_picture_whose_tokens_nobody_tells_costs_what_was_held_for_it() -> None:
    record, _ = finished(outcome(), place(input="0", image_output="0.00004", output="0"), DRAWING)
    assert (record.usage["image_output_tokens"], record.estimated) == (1000, True)
    assert record.cost_usd == Decimal("0.04")


@pytest.mark.parametrize(
    ("rates", "usd"),
    [
        ({"image": "0.1"}, "0.2"),
        ({"image": "0.1", "image__hd__1792x1024": "0.12"}, "0.24"),
        ({"image": "0.1", "image__standard__1024x1024": "0.04"}, "0.2"),
        ({"pixel": "0.00000001"}, "0.03670016"),
    ],
)
def test_pictures_are_counted_in_what_the_card_has_a_rate_for(rates: dict[str, str], usd: str) -> None:
    record, _ = finished(outcome(Usage(images=2)), place(**rates), DRAWING)
    assert (record.cost_usd, record.estimated) == (Decimal(usd), False)
    assert record.usage["images"] == 2


def test_no_picture_costs_nothing() -> None:
    record, _ = finished(outcome(Usage(images=0)), place(image="0.1"), DRAWING)
    assert (record.cost_usd, record.estimated) == (Decimal(0), False)


@pytest.mark.parametrize(("guessed", "complete"), [(False, True), (True, True), (False, False)])
def test_a_transcript_that_tells_nothing_costs_the_recordings_length(guessed: bool, complete: bool) -> None:
    assert RECORDING.form is not None
    call = replace(RECORDING, form=replace(RECORDING.form, guessed=guessed))
    record, _ = finished(outcome(complete=complete), place(second="0.0001"), call)
    assert record.cost_usd == Decimal("0.0009")
    assert record.estimated is (guessed or not complete)


def test_a_recording_on_a_card_of_tokens_alone_is_charged_by_its_bound() -> None:
    record, _ = finished(outcome(delivered_tokens=5), place(input="0.000001", output="0.000002"), RECORDING)
    assert (record.usage["input_tokens"], record.usage["output_tokens"], record.estimated) == (200, 5, True)
