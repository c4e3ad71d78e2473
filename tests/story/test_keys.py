"""Who may call what, and on whose account."""

from __future__ import annotations

import time

import pytest

from faregate.core.call import bucket_of
from faregate.ledger.keys import ApiKeys
from tests.story.house import CREDIT, INPUT, OUTPUT, Caller, House
from tests.upstreams.scripted import Scripted

FARE = 10 * INPUT + 5 * OUTPUT


async def code(house: House, by: Caller, model: str = "up/m") -> tuple[int, str]:
    got = await house.call(model, by=by)
    return got.status_code, got.json().get("error", {}).get("code", "")


async def revoke(house: House, caller: Caller) -> None:
    """As the admin API does: the book, then Redis."""
    info = await ApiKeys(house.runtime.ledger.database).revoke(caller.key_id)
    await house.runtime.gate.set_rev(bucket_of(caller.organization.id), caller.key_id, info.rev)


@pytest.mark.parametrize(
    "headers", [{"authorization": ""}, {"authorization": "Bearer fg_live_0_x"}, {"authorization": "Basic a"}]
)
async def test_no_key_or_no_good_one_is_401(house: House, upstream: Scripted, headers: dict[str, str]) -> None:
    got = await house.call(headers=headers)
    assert (got.status_code, got.json()["error"]["code"]) == (401, "invalid_api_key")
    assert upstream.served == []


async def test_a_key_may_come_as_x_api_key(house: House) -> None:
    got = await house.call(headers={"authorization": "", "x-api-key": house.me.secret})
    assert got.status_code == 200


async def test_a_revoked_key_stops_at_its_next_call(house: House) -> None:
    key = await house.caller(of=house.me)
    assert await code(house, key) == (200, "")
    await revoke(house, key)
    assert await code(house, key) == (401, "invalid_api_key")


async def test_an_expired_key_is_401(house: House) -> None:
    key = await house.caller(of=house.me, expires_us=time.time_ns() // 1000 - 1)
    assert await code(house, key) == (401, "invalid_api_key")


async def test_a_key_for_some_models_calls_no_other(house: House) -> None:
    key = await house.caller(of=house.me, models=("up/m*",))
    assert await code(house, key, "up/mine") == (200, "")
    assert await code(house, key, "up/other") == (403, "permission_denied")


async def test_a_key_without_the_scope_may_not_call(house: House) -> None:
    key = await house.caller(of=house.me, scopes=frozenset({"usage:read"}))
    assert await code(house, key) == (403, "permission_denied")


async def test_a_test_key_only_reaches_the_sandbox_and_spends_nothing(house: House, upstream: Scripted) -> None:
    key = await house.caller(CREDIT, test=True)
    got = await house.call(by=key)
    assert (got.status_code, got.headers["x-faregate-provider"]) == (200, "sandbox")
    assert got.headers["x-faregate-credits-charged"] == "0"
    await house.settled(key)
    assert (await house.balance(key), upstream.served) == (CREDIT, [])


async def test_a_test_key_works_without_a_credit(house: House) -> None:
    key = await house.caller(0, test=True)
    assert await code(house, key) == (200, "")


async def test_a_call_is_charged_to_the_account_it_names(house: House) -> None:
    await house.account("customer-7", CREDIT)
    assert (await house.call(headers={"x-faregate-account": "customer-7"})).status_code == 200
    assert await house.balance() == 1000 * CREDIT
    assert (await house.call(headers={"x-faregate-account": "nobody"})).status_code == 404


async def test_a_key_bound_to_an_account_charges_it_and_no_other(house: House) -> None:
    account = await house.account("customer-7", CREDIT)
    key = await house.caller(of=house.me, account_id=account.id)
    assert await code(house, key) == (200, "")
    assert await house.balance(key) == CREDIT - FARE
    got = await house.call(by=key, headers={"x-faregate-account": house.me.account_id})
    assert got.status_code == 403


async def test_an_account_of_another_organization_does_not_exist(house: House) -> None:
    other = await house.caller()
    got = await house.call(headers={"x-faregate-account": other.account_id})
    assert got.status_code == 404


async def test_unknown_and_unpriced_models_are_refused(house: House, upstream: Scripted) -> None:
    assert await code(house, house.me, "nobody") == (404, "model_not_found")
    assert await code(house, house.me, "nobody/m") == (404, "model_not_found")
    assert await code(house, house.me, "bare/unheard-of-model") == (400, "model_not_priced")
    assert upstream.served == []
