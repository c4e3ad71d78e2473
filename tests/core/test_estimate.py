from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.core.call import Call, Candidate, Hold, Principal
from faregate.core.ceiling import ceiling
from faregate.core.estimate import CallEstimator, EstimateSettings, charge_factor, charge_up
from faregate.core.price import PriceCard
from faregate.errors import InvalidRequest

PRINCIPAL = Principal(
    key_id="k",
    rev=1,
    organization_id="org_1",
    account_id="acc_1",
    default_account_id="acc_1",
    scopes=frozenset({"proxy"}),
)


def call(endpoint: str = "chat.completions", *, multiplier: Decimal = Decimal(1), **body: Any) -> Call:
    body = {"model": "m", **body}
    return Call(
        id="h",
        request_id="r",
        endpoint=endpoint,
        model="m",
        body=body,
        raw_body=orjson.dumps(body),
        stream=False,
        wants_usage=False,
        account_id="acc_1",
        multiplier=multiplier,
    )


def candidate(input_usd: str = "1", output_usd: str = "10", *, most: int | None = 1000, name: str = "p") -> Candidate:
    """Rates per million tokens."""
    rates = {"input": Decimal(input_usd).scaleb(-6), "output": Decimal(output_usd).scaleb(-6)}
    card = PriceCard(
        id=f"{name}{rates}{most}", provider=name, model="m", rates=rates, source="test", max_output_tokens=most
    )
    return Candidate(provider=name, kind="openai", model="m", card=card)


def hold(microcredits: int, tokens: int | None = None) -> Hold:
    return Hold(
        id="h",
        kind="call",
        organization_id="org_1",
        account_id="acc_1",
        bucket=0,
        microcredits=microcredits,
        tokens=tokens,
        limit_keys=(),
    )


def chat(text: str = "hello", **body: Any) -> Call:
    return call(messages=[{"role": "user", "content": text}], **body)


ESTIMATOR = CallEstimator()


def output_of(asked: Call, *candidates: Candidate) -> int:
    return ESTIMATOR.estimate(asked, candidates or (candidate(),), PRINCIPAL).output_tokens


def input_of(asked: Call) -> int:
    return ESTIMATOR.estimate(asked, (candidate(),), PRINCIPAL).input_tokens


def test_input_is_half_the_bodys_bytes_rounded_up() -> None:
    asked = chat("x" * 1001)
    assert input_of(asked) == -(-asked.body_bytes // 2)


def test_strict_mode_counts_every_byte() -> None:
    asked = chat("x" * 1001)
    strict = CallEstimator(EstimateSettings(bytes_per_token=Decimal(1)))
    assert strict.estimate(asked, (candidate(),), PRINCIPAL).input_tokens == asked.body_bytes


def image(url: str) -> Mapping[str, object]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_a_base64_image_is_an_allowance_not_its_bytes() -> None:
    asked = call(messages=[{"role": "user", "content": [image("data:image/png;base64," + "A" * 1_000_000)]}])
    assert 16_384 < input_of(asked) < 16_500


def test_a_linked_image_has_the_allowance_too() -> None:
    asked = call(messages=[{"role": "user", "content": [image("https://x.test/a.png")] * 3}])
    assert input_of(asked) > 3 * 16_384


def test_a_small_files_pages_are_counted_by_its_size() -> None:
    file = {"type": "file", "file": {"filename": "a.pdf", "file_data": "A" * 4_000}}
    assert 2 * 18_000 < input_of(call(messages=[{"role": "user", "content": [file]}])) < 2 * 18_500


def test_a_file_that_is_elsewhere_fills_the_context_at_most() -> None:
    asked = call(messages=[{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}])
    one = candidate()
    known = Candidate(provider="p", kind="openai", model="m", card=replace(one.card, id="w", context_window=128_000))
    assert ESTIMATOR.estimate(asked, (known,), PRINCIPAL).input_tokens < 129_000
    assert ESTIMATOR.estimate(asked, (one,), PRINCIPAL).input_tokens > 10_000_000


def test_audio_is_counted_by_the_seconds_it_can_last() -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "A" * 4_000_000, "format": "mp3"}}
    assert 96_000 <= input_of(call(messages=[{"role": "user", "content": [sound]}])) < 96_100


def test_token_arrays_are_counted() -> None:
    generous = CallEstimator(EstimateSettings(bytes_per_token=Decimal(16)))
    asked = call("embeddings", input=[[1, 2, 3], [4, 5]] * 100)
    assert generous.estimate(asked, (candidate(),), PRINCIPAL).input_tokens == 500


@pytest.mark.parametrize(
    ("body", "output_tokens"),
    [
        ({}, 1000),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 9}, 9),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 7, "n": 3}, 21),
        ({"max_tokens": None, "n": None}, 1000),
        ({"n": 2}, 2000),
    ],
)
def test_chat_output_is_what_the_client_allows(body: dict[str, Any], output_tokens: int) -> None:
    assert output_of(chat(**body)) == output_tokens


def test_without_any_bound_the_default_holds() -> None:
    assert output_of(chat(), candidate(most=None)) == 32_768


def test_the_longest_model_decides_when_nothing_is_asked() -> None:
    assert output_of(chat(), candidate(most=10), candidate(most=99)) == 99


@pytest.mark.parametrize(
    ("body", "output_tokens"),
    [
        ({"prompt": "a"}, 16),
        ({"prompt": ["a", "b"], "max_tokens": 5}, 10),
        ({"prompt": [[1, 2], [3]], "max_tokens": 5, "n": 2, "best_of": 3}, 30),
        ({"prompt": [1, 2, 3], "max_tokens": 5}, 5),
        ({"prompt": "a", "max_tokens": 0}, 0),
    ],
)
def test_completions_output_counts_prompts_and_candidates(body: dict[str, Any], output_tokens: int) -> None:
    assert output_of(call("completions", **body)) == output_tokens


def test_embeddings_have_no_output() -> None:
    estimate = ESTIMATOR.estimate(call("embeddings", input="a"), (candidate(),), PRINCIPAL)
    assert (estimate.output_tokens, estimate.cappable) == (0, False)
    assert estimate.want_microcredits == estimate.floor_microcredits == estimate.input_microcredits > 0


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n"])
@pytest.mark.parametrize("value", [-1, 0, True, 1.5, "7", 2**63, [], float("nan")])
def test_a_bound_that_cannot_be_meant_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ESTIMATOR.estimate(chat(**dict[str, Any]({name: value})), (candidate(),), PRINCIPAL)
    assert caught.value.param == name


def test_more_than_any_account_can_hold_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        ESTIMATOR.estimate(chat(max_tokens=9_999_999, n=128), (candidate("1", "10000"),), PRINCIPAL)
    assert caught.value.param == "max_tokens"


def test_the_dearest_candidate_is_priced() -> None:
    cheap, dear = candidate("1", "1"), candidate("1", "50")
    both = ESTIMATOR.estimate(chat(), (cheap, dear), PRINCIPAL)
    assert both.want_microcredits == ESTIMATOR.estimate(chat(), (dear,), PRINCIPAL).want_microcredits


def test_charges_are_rounded_up() -> None:
    assert charge_up(Decimal("0.0000000011"), Decimal(1_000_000_000)) == 2


def test_markup_and_multiplier_are_in_the_charge() -> None:
    principal = Principal(
        key_id="k",
        rev=1,
        organization_id="o",
        account_id=None,
        default_account_id="a",
        scopes=frozenset(),
        markup_percent=Decimal(50),
    )
    assert charge_factor(principal, Decimal(2)) == 3 * charge_factor(PRINCIPAL, Decimal(1))


def test_the_floor_is_the_input_and_a_little_output() -> None:
    estimate = ESTIMATOR.estimate(chat(n=2), (candidate(),), PRINCIPAL)
    assert estimate.floor_output_tokens == 128
    assert estimate.input_microcredits < estimate.floor_microcredits < estimate.want_microcredits


def test_a_small_wish_is_its_own_floor() -> None:
    estimate = ESTIMATOR.estimate(chat(max_tokens=5), (candidate(),), PRINCIPAL)
    assert estimate.floor_microcredits == estimate.want_microcredits


def test_with_refuse_the_floor_is_the_want() -> None:
    refusing = CallEstimator(EstimateSettings(cap=False))
    estimate = refusing.estimate(chat(), (candidate(),), PRINCIPAL)
    assert estimate.floor_microcredits == estimate.want_microcredits
    assert estimate.floor_tokens == estimate.want_tokens


def cap_of(asked: Call, microcredits: int | None, tokens: int | None = None) -> int | None:
    candidates = (candidate(),)
    estimate = ESTIMATOR.estimate(asked, candidates, PRINCIPAL)
    granted = estimate.want_microcredits if microcredits is None else microcredits
    return ESTIMATOR.output_cap(asked, candidates, PRINCIPAL, estimate, hold(granted, tokens))


def test_a_hold_of_the_worst_case_caps_nothing() -> None:
    assert cap_of(chat(), None) is None


def test_token_limits_cap_too() -> None:
    asked = chat()
    assert cap_of(asked, None, input_of(asked) + 100) == 100


def test_the_cap_is_per_choice() -> None:
    asked = chat(n=4)
    assert cap_of(asked, None, input_of(asked) + 103) == 25


def test_an_endpoint_without_a_bound_is_never_capped() -> None:
    assert cap_of(call("embeddings", input="a"), 0) is None


rates = st.decimals(min_value=0, max_value=1000, places=3, allow_nan=False, allow_infinity=False).map(str)
places = st.builds(lambda i, o, m: candidate(i, o, most=m), rates, rates, st.one_of(st.none(), st.integers(1, 40_000)))


def possible_output(place: Candidate, bound: int | None, cap: int | None) -> int:
    """What one choice can hold when the call is sent as capped."""
    if bound is not None:
        return bound if cap is None else cap
    most = place.card.max_output_tokens
    return min(number for number in (most, cap, 32_768 if most is cap is None else None) if number is not None)


@given(
    candidates=st.lists(places, min_size=1, max_size=3),
    share=st.fractions(min_value=0, max_value=1),
    choices=st.integers(1, 8),
    bound=st.one_of(st.none(), st.integers(1, 50_000)),
    multiplier=st.decimals(min_value=1, max_value=10, places=2),
    tokens=st.one_of(st.none(), st.integers(0, 100_000)),
)
def test_what_is_granted_covers_the_capped_call_on_every_candidate(
    candidates: list[Candidate],
    share: Any,
    choices: int,
    bound: int | None,
    multiplier: Decimal,
    tokens: int | None,
) -> None:
    asked = call(multiplier=multiplier, messages=[], n=choices, max_tokens=bound)
    estimate = ESTIMATOR.estimate(asked, candidates, PRINCIPAL)
    spare = estimate.want_microcredits - estimate.floor_microcredits
    granted = estimate.floor_microcredits + int(spare * share)
    held = hold(granted, None if tokens is None else estimate.floor_tokens + tokens)
    cap = ESTIMATOR.output_cap(asked, candidates, PRINCIPAL, estimate, held)
    if cap is not None:
        assert cap * choices >= estimate.floor_output_tokens
        assert held.tokens is None or estimate.input_tokens + cap * choices <= held.tokens
    factor = charge_factor(PRINCIPAL, multiplier)
    for place in candidates:
        output_tokens = possible_output(place, bound, cap) * choices
        usd = ceiling(place.card, input_tokens=estimate.input_tokens, output_tokens=output_tokens)
        assert charge_up(usd, factor) <= granted
