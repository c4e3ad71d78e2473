from __future__ import annotations

import asyncio
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from tests.api.conftest import Caller, World, code, exact

from faregate.api import money
from faregate.api.fields import iso
from faregate.core.call import Committed, Record, bucket_of
from faregate.errors import BookUnavailable, StoreUnavailable

HOSTILE: list[bytes] = [
    *(b"0", b"-0", b"-0.0", b"-1", b"1e308", b"-1e308", b"1e-400", b"10000000000000000000", b"0.0000001"),
    *(b"NaN", b"Infinity", b"-Infinity", b"true", b"null", b"[]", b"{}", b'""', b'"NaN"', b'"Infinity"', b'"-5"'),
    *(b'"1e308"', b'"0.0000001"', b'" 5"', b'"5 "', b'"1_000"', b'"0x10"', b'"five"', b'"9007199254.740993"'),
    *(b"9007199254.740993", b'"1e99999999999"', b'"1e-99999999999"', b"9" * 70),
]


async def _balance(caller: Caller, account_id: str) -> dict[str, Any]:
    answer = await caller.get("/v1/accounts/balance", accountId=account_id)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = exact(answer)
    return found


async def test_an_account_is_made_listed_and_found_by_either_id(world: World) -> None:
    caller = await world.key(await world.organization(), "credits:write")
    body = {"name": "Ann", "externalId": "ann-1", "email": "ann@example.com", "metadata": {"plan": "pro", "seats": 3}}
    made = (await caller.post("/v1/accounts/create", body)).json()
    account = made["account"]
    assert made["success"] is True
    assert account["id"].startswith("acc_")
    assert {name: account[name] for name in body} == body
    assert account["balance"] == 0
    assert account["createdAt"].endswith("Z")
    for params in ({"accountId": account["id"]}, {"externalId": "ann-1"}, {"accountId": "ann-1"}):
        assert (await caller.get("/v1/accounts/get", **params)).json()["account"] == account
    listed = (await caller.get("/v1/accounts", limit=1, offset=1)).json()
    assert [found["id"] for found in listed["accounts"]] == [account["id"]]
    assert listed["pagination"] == {"limit": 1, "offset": 1, "totalCount": 2, "hasMore": False}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": 5},
        {"name": "x" * 201},
        {"name": "x", "metadata": [1]},
        {"name": "x", "metadata": {"a": 1e400}},
        {"name": "x", "metadata": {"a": "x" * 20_000}},
        {"name": "x", "externalId": ""},
    ],
)
async def test_a_wrong_account_is_400(world: World, body: dict[str, object]) -> None:
    caller = await world.key(None, "credits:write")
    raw = None
    if body.get("metadata") == {"a": float("inf")}:
        raw = b'{"name":"x","metadata":{"a":1e400}}'
    assert code(await caller.send("POST", "/v1/accounts/create", body, raw=raw)) == (400, "invalid_request")


async def test_an_external_id_is_an_organization_s_own(world: World) -> None:
    (ann, _), (bob, _) = await world.tenant(), await world.tenant()
    again = await ann.post("/v1/accounts/create", {"name": "Ann", "externalId": "ann"})
    assert code(again) == (409, "conflict")
    own = (await bob.get("/v1/accounts/get", externalId="ann")).json()["account"]
    assert own["id"] != (await ann.get("/v1/accounts/get", externalId="ann")).json()["account"]["id"]


async def test_another_organization_s_account_does_not_exist(world: World) -> None:
    (caller, _), (_, foreign) = await world.tenant(), await world.tenant("5")
    named = {"accountId": foreign, "amount": 1}
    assert code(await caller.get("/v1/accounts/get", accountId=foreign)) == (404, "not_found")
    assert code(await caller.get("/v1/accounts/balance", accountId=foreign)) == (404, "not_found")
    assert code(await caller.post("/v1/accounts/credits/add", named)) == (404, "not_found")
    assert code(await caller.post("/v1/accounts/credits/deduct", named)) == (404, "not_found")


async def test_another_organization_cannot_be_named(world: World) -> None:
    (caller, _), other = await world.tenant(), await world.organization()
    for named in (other, "org_nobody", "org_bootstrap"):
        for path in ("/v1/accounts", "/v1/accounts/get", "/v1/transactions", "/v1/usage", "/v1/admin/keys"):
            answer = await caller.get(path, organizationId=named)
            assert code(answer) == (403, "permission_denied"), path
    body = {"name": "x", "organizationId": other}
    assert code(await caller.post("/v1/accounts/create", body)) == (403, "permission_denied")


async def test_the_bootstrap_key_may_name_one_and_charge_in_it(world: World) -> None:
    _, account_id = await world.tenant("5")
    organization = (await world.ledger.organizations.list(limit=10))[0].id
    body = {"accountId": account_id, "amount": 2, "organizationId": organization}
    answer = await world.admin.post("/v1/accounts/credits/deduct", body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["balance"] == 3


async def test_naming_no_account_or_two_is_400(world: World) -> None:
    caller, account_id = await world.tenant()
    await caller.post("/v1/accounts/create", {"name": "Bob", "externalId": "bob"})
    assert code(await caller.get("/v1/accounts/get")) == (400, "invalid_request")
    both = await caller.get("/v1/accounts/get", accountId=account_id, externalId="bob")
    assert code(both) == (400, "invalid_request")


async def test_a_key_of_one_account_sees_and_charges_only_that(world: World) -> None:
    owner, account_id = await world.tenant("5")
    organization = (await owner.get("/v1/accounts/get", externalId="ann")).json()["account"]["organizationId"]
    bob = (await owner.post("/v1/accounts/create", {"name": "Bob"})).json()["account"]["id"]
    caller = await world.key(organization, "credits:write", "usage:read", accountId=account_id)
    listed = (await caller.get("/v1/accounts")).json()["accounts"]
    assert [account["id"] for account in listed] == [account_id]
    assert (await caller.get("/v1/accounts/get")).json()["account"]["id"] == account_id
    for named in (bob, "nobody"):
        assert code(await caller.get("/v1/accounts/get", accountId=named)) == (403, "permission_denied")
        assert code(await caller.get("/v1/usage", accountId=named)) == (403, "permission_denied")
        charge = {"accountId": named, "amount": 1}
        assert code(await caller.post("/v1/accounts/credits/deduct", charge)) == (403, "permission_denied")
    assert code(await caller.post("/v1/accounts/create", {"name": "x"})) == (403, "permission_denied")


async def test_credits_come_in_and_redis_knows(world: World) -> None:
    caller, account_id = await world.tenant()
    body = {"externalId": "ann", "amount": "12.345678", "description": "top-up", "paymentMethod": "card"}
    added = exact(await caller.post("/v1/accounts/credits/add", body))
    assert (added["accountId"], added["externalId"]) == (account_id, "ann")
    assert (added["balance"], added["added"]) == (Decimal("12.345678"), Decimal("12.345678"))
    assert added["transactionId"].startswith("txn_")
    assert await _balance(caller, account_id) == {
        "success": True,
        "accountId": account_id,
        "externalId": "ann",
        "balance": Decimal("12.345678"),
        "reserved": 0,
        "available": Decimal("12.345678"),
    }


@pytest.mark.parametrize("amount", HOSTILE, ids=lambda raw: raw[:24].decode())
@pytest.mark.parametrize("way", ["add", "deduct"])
async def test_hostile_amounts_are_400_and_move_nothing(world: World, way: str, amount: bytes) -> None:
    caller, account_id = await world.tenant("5")
    raw = b'{"externalId":"ann","amount":' + amount + b"}"
    answer = await caller.send("POST", f"/v1/accounts/credits/{way}", raw=raw)
    assert code(answer) == (400, "invalid_request")
    assert (await _balance(caller, account_id))["balance"] == 5


@pytest.mark.parametrize(
    ("amount", "credits"), [("1e3", "1000"), ("0.000001", "0.000001"), ("3.10", "3.1"), (2, "2"), ("1e-6", "0.000001")]
)
async def test_amounts_are_read_exactly(world: World, amount: object, credits: str) -> None:
    caller, account_id = await world.tenant()
    answer = await caller.post("/v1/accounts/credits/add", {"accountId": account_id, "amount": amount})
    assert f'"added":{credits}' in answer.text


async def test_a_balance_cannot_grow_beyond_what_can_be_counted(world: World) -> None:
    caller, account_id = await world.tenant("9007199254")
    answer = await caller.post("/v1/accounts/credits/add", {"accountId": account_id, "amount": 1})
    assert code(answer) == (400, "invalid_request")


async def test_credits_may_expire_but_not_in_the_past(world: World) -> None:
    caller, account_id = await world.tenant()
    now = datetime.now(UTC)
    for wrong in ((now - timedelta(1)).isoformat(), "tomorrow", "2026-13-01", "9999-12-31T23:59:59-23:59", 5):
        body = {"accountId": account_id, "amount": 1, "expiresAt": wrong}
        assert code(await caller.post("/v1/accounts/credits/add", body)) == (400, "invalid_request")
    body = {"accountId": account_id, "amount": 1, "expiresAt": (now + timedelta(seconds=1)).isoformat()}
    assert (await caller.post("/v1/accounts/credits/add", body)).status_code == 200
    await asyncio.sleep(1.1)
    assert (await _balance(caller, account_id))["balance"] == 0
    taken = await caller.post("/v1/accounts/credits/deduct", {"accountId": account_id, "amount": 1})
    assert code(taken) == (402, "insufficient_credits")


async def test_a_deduction_answers_with_what_is_left(world: World) -> None:
    caller, account_id = await world.tenant("5")
    body = {"accountId": account_id, "amount": "1.5", "description": "export", "metadata": {"order": "7", "n": 2}}
    answer = exact(await caller.post("/v1/accounts/credits/deduct", body))
    assert (answer["balance"], answer["deducted"]) == (Decimal("3.5"), Decimal("1.5"))
    shown = (await caller.get("/v1/transactions", accountId=account_id, type="debit")).json()["items"][0]
    assert shown["id"] == answer["transactionId"]
    assert (shown["description"], shown["metadata"]) == ("export", {"order": "7", "n": 2})
    assert (await _balance(caller, account_id))["reserved"] == 0


async def test_what_does_not_fit_is_402_and_moves_nothing(world: World) -> None:
    caller, account_id = await world.tenant("5")
    answer = await caller.post("/v1/accounts/credits/deduct", {"accountId": account_id, "amount": "5.000001"})
    assert code(answer) == (402, "insufficient_credits")
    assert answer.headers["x-should-retry"] == "false"
    assert (await _balance(caller, account_id))["available"] == 5


async def test_fifty_deductions_at_once_on_a_balance_for_ten(world: World) -> None:
    caller, account_id = await world.tenant("10")
    body = {"accountId": account_id, "amount": 1}
    answers = await asyncio.gather(*(caller.post("/v1/accounts/credits/deduct", body) for _ in range(50)))
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(402)) == (10, 40)
    assert sorted(answer.json()["balance"] for answer in answers if answer.status_code == 200) == list(range(10))
    assert (await _balance(caller, account_id))["available"] == 0
    assert await world.ledger.audit() == []


async def test_deductions_and_additions_at_once_keep_the_sum(world: World) -> None:
    caller, account_id = await world.tenant("100")
    ways = ["add", "deduct"] * 20
    body = {"accountId": account_id, "amount": "0.5"}
    answers = await asyncio.gather(*(caller.post(f"/v1/accounts/credits/{way}", body) for way in ways))
    assert {answer.status_code for answer in answers} == {200}
    assert (await _balance(caller, account_id))["available"] == 100
    assert await world.ledger.audit() == []


async def test_a_repeated_key_returns_the_first_result(world: World) -> None:
    caller, account_id = await world.tenant("5")
    body = {"accountId": account_id, "amount": 3, "metadata": {"a": 1}}
    first = await caller.post("/v1/accounts/credits/deduct", body, idempotency_key="k1")
    again = await caller.post("/v1/accounts/credits/deduct", body, idempotency_key="k1")
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert (again.status_code, again.json()) == (200, first.json())
    assert (await _balance(caller, account_id))["balance"] == 2


def _several_processes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in memory keeps requests of one key apart."""
    monkeypatch.setattr(world.services.once, "alone", lambda *_: nullcontext())


@pytest.mark.parametrize("apart", [False, True])
async def test_a_repeated_key_at_once_charges_once(world: World, monkeypatch: pytest.MonkeyPatch, apart: bool) -> None:
    caller, account_id = await world.tenant("5")
    if apart:
        _several_processes(world, monkeypatch)
    body = {"accountId": account_id, "amount": 3}
    answers = await asyncio.gather(
        *(caller.post("/v1/accounts/credits/deduct", body, idempotency_key="k1") for _ in range(10))
    )
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert {code(answer)[1] for answer in answers if answer.status_code == 409} <= {"in_progress"}
    assert len({answer.text for answer in answers if answer.status_code == 200}) == 1
    assert (await _balance(caller, account_id))["balance"] == 2
    again = await caller.post("/v1/accounts/credits/deduct", body, idempotency_key="k1")
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")


@pytest.mark.parametrize("change", [{"amount": 2}, {"description": "other"}, {"metadata": {"a": "1"}}])
async def test_the_same_key_with_another_body_is_409(world: World, change: dict[str, object]) -> None:
    caller, account_id = await world.tenant("50")
    body = {"accountId": account_id, "amount": 3, "metadata": {"a": 1}}
    await caller.post("/v1/accounts/credits/deduct", body, idempotency_key="k1")
    answer = await caller.post("/v1/accounts/credits/deduct", {**body, **change}, idempotency_key="k1")
    assert code(answer) == (409, "idempotency_mismatch")
    assert (await _balance(caller, account_id))["available"] == 47


async def test_a_refusal_is_not_remembered_and_keys_are_an_organization_s_own(world: World) -> None:
    (ann, of_ann), (bob, of_bob) = await world.tenant("1"), await world.tenant("9")
    body = {"accountId": of_ann, "amount": 3}
    refused = await ann.post("/v1/accounts/credits/deduct", body, idempotency_key="k1")
    assert refused.status_code == 402
    await ann.post("/v1/accounts/credits/add", {"accountId": of_ann, "amount": 5})
    assert (await ann.post("/v1/accounts/credits/deduct", body, idempotency_key="k1")).status_code == 200
    other = await bob.post("/v1/accounts/credits/deduct", {"accountId": of_bob, "amount": 4}, idempotency_key="k1")
    assert (other.status_code, other.json()["balance"]) == (200, 5)


async def test_a_slow_book_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    caller, account_id = await world.tenant("5")
    monkeypatch.setattr(world.owner, "_settle_wait_s", 0.0)
    for left in (3, 1):
        answer = await caller.post("/v1/accounts/credits/deduct", {"accountId": account_id, "amount": 2})
        assert (answer.status_code, answer.json()["balance"]) == (200, left)
        assert "idempotent-replayed" not in answer.headers
    assert await world.owner.drain(5.0)
    assert (await _balance(caller, account_id))["reserved"] == 0


async def test_a_book_that_is_away_is_said_and_the_deduction_is_booked_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, account_id = await world.tenant("5")
    monkeypatch.setattr(world.owner, "_settle_wait_s", 0.0)
    monkeypatch.setattr(money, "_BOOK_PATIENCE_S", 0.05)
    commit, away = world.ledger.database.commit, True

    async def slow(record: Record) -> Committed:
        if away:
            raise BookUnavailable("down")
        return await commit(record)

    monkeypatch.setattr(world.ledger.database, "commit", slow)
    body = {"accountId": account_id, "amount": 2}
    refused = await caller.post("/v1/accounts/credits/deduct", body, idempotency_key="k1")
    assert code(refused) == (503, "store_unavailable")
    assert "Idempotency-Key" in refused.json()["error"]["message"]
    assert (await _balance(caller, account_id))["reserved"] == 2
    away = False
    assert await world.owner.drain(5.0)
    again = await caller.post("/v1/accounts/credits/deduct", body, idempotency_key="k1")
    assert (again.status_code, again.json()["balance"]) == (200, 3)
    assert (await _balance(caller, account_id))["available"] == 3


async def test_a_key_s_own_limit_counts_deductions(world: World) -> None:
    owner, account_id = await world.tenant("50")
    organization = (await owner.get("/v1/accounts/get", externalId="ann")).json()["account"]["organizationId"]
    limits = [{"kind": "credits", "window": "day", "max": 4}]
    caller = await world.key(organization, "credits:write", limits=limits)
    body = {"accountId": account_id, "amount": 3}
    assert (await caller.post("/v1/accounts/credits/deduct", body)).status_code == 200
    refused = await caller.post("/v1/accounts/credits/deduct", body)
    assert code(refused) == (429, "limit_exceeded")
    assert int(refused.headers["retry-after"]) > 0


async def test_a_test_key_moves_no_credits(world: World) -> None:
    owner, account_id = await world.tenant("5")
    organization = (await owner.get("/v1/accounts/get", externalId="ann")).json()["account"]["organizationId"]
    caller = await world.key(organization, "credits:write", test=True)
    for way in ("add", "deduct"):
        answer = await caller.post(f"/v1/accounts/credits/{way}", {"accountId": account_id, "amount": 1})
        assert code(answer) == (403, "permission_denied")


async def test_an_open_hold_is_reserved(world: World) -> None:
    caller, account_id = await world.tenant("5")
    body = {"accountId": account_id, "amount": 2}
    await caller.post("/v1/accounts/credits/deduct", body)
    organization = (await caller.get("/v1/accounts/get", externalId="ann")).json()["account"]["organizationId"]
    key = f"fg:{{b{bucket_of(organization):03d}}}:acct:{account_id}"
    await world.pipe.command((b"HINCRBY", key, b"held", b"1250000"), 5.0)
    found = await _balance(caller, account_id)
    assert (found["balance"], found["reserved"], found["available"]) == (3, Decimal("1.25"), Decimal("1.75"))
    await world.pipe.command((b"HINCRBY", key, b"held", b"-1250000"), 5.0)


async def test_without_redis_nothing_is_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    caller, account_id = await world.tenant("5")
    await world.pipe.close()

    async def down(*_: object) -> None:
        raise StoreUnavailable("down")

    monkeypatch.setattr(world.pipe, "command", down)
    body = {"accountId": account_id, "amount": 2}
    assert code(await caller.post("/v1/accounts/credits/deduct", body)) == (503, "store_unavailable")
    assert code(await caller.get("/v1/accounts/balance", accountId=account_id)) == (503, "store_unavailable")
    assert (await caller.post("/v1/accounts/credits/add", body)).json()["balance"] == 7
    monkeypatch.undo()
    await asyncio.sleep(0.3)
    await world.owner.beat()
    for held in list(world.owner._live.values()):
        held.last_ok = 0.0
    await world.owner.beat()
    for held in list(world.owner._live.values()):
        held.last_ok = 0.0
    await world.owner.beat()
    assert (await _balance(caller, account_id))["available"] == 7


@pytest.mark.parametrize("path", ["/v1/accounts/credits/add", "/v1/transactions/create"])
async def test_a_repeated_key_at_once_adds_once(world: World, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    caller, account_id = await world.tenant("5")
    kind = {"type": "credit"} if path.endswith("create") else {}
    _several_processes(world, monkeypatch)
    body = {"accountId": account_id, "amount": 3, **kind}
    answers = await asyncio.gather(*(caller.post(path, body, idempotency_key="k1") for _ in range(5)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    done = [answer for answer in answers if answer.status_code == 200]
    assert len({answer.text for answer in done}) == 1
    assert ["idempotent-replayed" in answer.headers for answer in done].count(False) == 1
    assert (await _balance(caller, account_id))["available"] == 8


@pytest.mark.parametrize(
    "change",
    [{"amount": 2}, {"description": "other"}, {"paymentMethod": "cash"}, {"metadata": {"a": "1"}}],
)
async def test_the_same_key_adds_nothing_else(world: World, change: dict[str, object]) -> None:
    caller, account_id = await world.tenant()
    body = {"accountId": account_id, "amount": 3, "paymentMethod": "card", "metadata": {"a": 1}}
    first = await caller.post("/v1/accounts/credits/add", body, idempotency_key="k1")
    answer = await caller.post("/v1/accounts/credits/add", {**body, **change}, idempotency_key="k1")
    assert code(answer) == (409, "idempotency_mismatch")
    again = await caller.post("/v1/accounts/credits/add", body, idempotency_key="k1")
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    assert (await _balance(caller, account_id))["balance"] == 3


async def test_two_bodies_with_one_key_at_once_in_two_processes_take_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, account_id = await world.tenant("50")
    _several_processes(world, monkeypatch)
    answers = await asyncio.gather(
        *(
            caller.post("/v1/accounts/credits/deduct", {"accountId": account_id, "amount": n}, idempotency_key="k1")
            for n in (3, 4, 5)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409]
    assert (await _balance(caller, account_id))["available"] in (47, 46, 45)
    assert world.owner.open_holds == 0


async def test_a_past_balance_is_recomputed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    caller, account_id = await world.tenant("5")
    now_us = world.services.clock.now_us()
    hour = 3_600_000_000
    soon = {"accountId": account_id, "amount": 2, "expiresAt": iso(now_us + hour)}
    await caller.post("/v1/accounts/credits/add", soon)
    monkeypatch.setattr(world.ledger.database, "now_us", lambda: now_us + 2 * hour)
    found = {}
    for hours in (-1, 0.5, 1, 1.5):
        answer = await caller.get("/v1/accounts/balance", externalId="ann", at=iso(now_us + int(hours * hour)))
        found[hours] = exact(answer)["balance"]
    assert found == {-1: 0, 0.5: 7, 1: 5, 1.5: 5}
    assert answer.json().keys() == {"success", "accountId", "externalId", "balance", "at"}


@pytest.mark.parametrize("at", ["9999-01-01", "yesterday", "", "2024-13-01"])
async def test_a_balance_at_no_past_moment_is_400(world: World, at: str) -> None:
    caller, account_id = await world.tenant("5")
    answer = await caller.get("/v1/accounts/balance", accountId=account_id, at=at)
    assert (code(answer), answer.json()["error"]["param"]) == ((400, "invalid_request"), "at")


async def test_the_bootstrap_key_names_any_organizations_account_and_reservation_by_id_alone(world: World) -> None:
    made = (await world.admin.post("/v1/admin/organizations", {"name": "Elsewhere"})).json()["organization"]
    account = {"accountId": made["defaultAccountId"]}
    added = await world.admin.post("/v1/accounts/credits/add", {**account, "amount": 10})
    assert (added.status_code, added.json()["balance"]) == (200, 10)
    held = await world.admin.post("/v1/reservations/create", {**account, "amount": 4})
    body = {"reservationId": held.json()["reservation"]["id"], "actualAmount": 3}
    assert (await world.admin.post("/v1/reservations/confirm", body)).json()["balance"] == 7
    assert (await world.admin.get("/v1/transactions", **account)).json()["pagination"]["totalCount"] == 2
    other = await world.key(await world.organization("Third"), "credits:write")
    assert (await other.post("/v1/accounts/credits/add", {**account, "amount": 1})).status_code == 404
