"""`/v1/reservations...` end to end: the book, a real Valkey, the ASGI app."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from tests.api.conftest import Caller, World, code, exact

from faregate.errors import BookUnavailable, StoreUnavailable

HOUR_US = 3_600_000_000


async def make(caller: Caller, account_id: str, amount: object = "2", **more: Any) -> dict[str, Any]:
    """A new reservation."""
    answer = await caller.post("/v1/reservations/create", {"accountId": account_id, "amount": amount, **more})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = exact(answer)["reservation"]
    return body


async def end(caller: Caller, verb: str, reservation_id: str, **more: object) -> httpx.Response:
    return await caller.post(f"/v1/reservations/{verb}", {"reservationId": reservation_id, **more})


async def confirm(caller: Caller, reservation_id: str, amount: object) -> httpx.Response:
    return await end(caller, "confirm", reservation_id, actualAmount=amount)


async def balance(caller: Caller, account_id: str) -> tuple[str, str, str]:
    """Balance, reserved, available."""
    body = exact(await caller.get("/v1/accounts/balance", accountId=account_id))
    return str(body["balance"]), str(body["reserved"]), str(body["available"])


async def expire_now(world: World, reservation_id: str) -> None:
    """Its deadline has passed, as far as the book is concerned."""

    def move(conn: Any) -> None:
        conn.execute(text("UPDATE reservations SET expires_us = 1 WHERE id = :id"), {"id": reservation_id})

    await world.ledger.database.write(move)


async def states(caller: Caller, **query: object) -> list[str]:
    body = (await caller.get("/v1/reservations", **query)).json()
    return [one["status"] for one in body["reservations"]]


# The way it should go -----------------------------------------------------------------------------------


async def test_a_reservation_holds_and_its_confirmation_charges(world: World) -> None:
    caller, account_id = await world.tenant("10")
    made = await make(caller, account_id, "4", operation="render", model="m", metadata={"job": 7})
    assert made["id"].startswith("res_")
    facts = ("accountId", "amount", "status", "operation", "model", "metadata", "reservationId")
    assert [made[name] for name in facts] == [account_id, 4, "pending", "render", "m", {"job": 7}, None]
    assert await balance(caller, account_id) == ("10", "4", "6")
    body = exact(await confirm(caller, made["id"], "1.5"))
    entry = body.pop("transactionId")
    assert body == {
        "success": True,
        "reservationId": made["id"],
        "accountId": account_id,
        "externalId": "ann",
        "amount": Decimal("1.5"),
        "released": Decimal("2.5"),
        "balance": Decimal("8.5"),
        "status": "settled",
    }
    assert await balance(caller, account_id) == ("8.5", "0", "8.5")
    items = exact(await caller.get("/v1/transactions", include="reservation,usage"))["items"]
    assert (items[0]["id"], items[0]["amount"], items[0]["description"]) == (entry, Decimal("1.5"), "render")
    assert (items[0]["metadata"], items[0]["usage"]) == ({"job": 7}, None)
    shown = items[0]["reservation"]
    assert (shown["id"], shown["status"], shown["actualAmount"]) == (made["id"], "settled", Decimal("1.5"))
    assert await world.ledger.audit() == []


async def test_the_truth_is_charged_even_above_the_balance(world: World) -> None:
    caller, account_id = await world.tenant("3")
    made = await make(caller, account_id, "2")
    body = exact(await confirm(caller, made["id"], 5))
    assert (body["amount"], body["released"], body["balance"]) == (5, 0, -2)
    assert await balance(caller, account_id) == ("-2", "0", "-2")
    again = await caller.post("/v1/reservations/create", {"accountId": account_id, "amount": 1})
    assert code(again) == (402, "insufficient_credits")


async def test_nothing_used_is_confirmed_with_zero(world: World) -> None:
    caller, account_id = await world.tenant("3")
    made = await make(caller, account_id)
    body = (await confirm(caller, made["id"], 0)).json()
    assert (body["amount"], body["released"], body["balance"]) == (0, 2, 3)
    assert body["transactionId"].startswith("txn_")


async def test_a_second_confirm_returns_the_first_result(world: World) -> None:
    caller, account_id = await world.tenant("10")
    made = await make(caller, account_id)
    first, again = await confirm(caller, made["id"], 1), await confirm(caller, made["id"], 2)
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert await balance(caller, account_id) == ("9", "0", "9")


async def test_cancel_gives_the_credits_back_and_can_be_repeated(world: World) -> None:
    caller, account_id = await world.tenant("10")
    made = await make(caller, account_id)
    first, again = await end(caller, "cancel", made["id"]), await end(caller, "cancel", made["id"])
    assert (first.json()["status"], again.json()["status"]) == ("released", "released")
    assert await balance(caller, account_id) == ("10", "0", "10")
    assert code(await confirm(caller, made["id"], 1)) == (409, "reservation_expired")
    assert code(await end(caller, "extend", made["id"])) == (409, "reservation_expired")


async def test_what_is_confirmed_cannot_be_cancelled_or_extended(world: World) -> None:
    caller, account_id = await world.tenant("10")
    made = await make(caller, account_id)
    await confirm(caller, made["id"], 1)
    assert code(await end(caller, "cancel", made["id"])) == (409, "conflict")
    assert code(await end(caller, "extend", made["id"])) == (409, "conflict")
    assert await balance(caller, account_id) == ("9", "0", "9")


async def test_extend_moves_the_deadline_later_only(world: World) -> None:
    caller, account_id = await world.tenant("10")
    made = await make(caller, account_id, ttlSeconds=60)
    later = (await end(caller, "extend", made["id"], ttlSeconds=86_400)).json()
    assert (later["status"], later["expiresAt"]) == ("pending", later["reservation"]["expiresAt"])
    assert later["expiresAt"] > made["expiresAt"]
    assert (await end(caller, "extend", made["id"], ttlSeconds=1)).json()["expiresAt"] == later["expiresAt"]
    await end(caller, "cancel", made["id"])


async def test_the_list_knows_accounts_and_what_is_active(world: World) -> None:
    caller, account_id = await world.tenant("10")
    other = (await caller.post("/v1/accounts/create", {"name": "Bob", "externalId": "bob"})).json()["account"]["id"]
    await caller.post("/v1/accounts/credits/add", {"accountId": other, "amount": 5})
    first, _ = await make(caller, account_id), await make(caller, other, reservationId="mine")
    await end(caller, "cancel", first["id"])
    assert await states(caller) == ["pending", "released"]
    assert await states(caller, externalId="bob") == ["pending"]
    assert await states(caller, accountId=account_id, activeOnly="true") == []
    assert await states(caller, reservationId="mine") == ["pending"]
    page = (await caller.get("/v1/reservations", limit=1)).json()
    assert page["pagination"] == {"limit": 1, "offset": 0, "totalCount": 2, "hasMore": True}
    await end(caller, "cancel", "mine")


# The caller's own id ------------------------------------------------------------------------------------


async def test_a_repeat_with_the_same_id_returns_the_first(world: World) -> None:
    caller, account_id = await world.tenant("3")
    body = {"accountId": account_id, "amount": 2, "reservationId": "order 7"}
    first = await caller.post("/v1/reservations/create", body)
    again = await caller.post("/v1/reservations/create", {**body, "externalId": "ann", "ttlSeconds": 9})
    assert again.json() == first.json()
    assert (again.headers["idempotent-replayed"], first.json()["reservation"]["reservationId"]) == ("true", "order 7")
    assert await balance(caller, account_id) == ("3", "2", "1")
    confirmed = await confirm(caller, "order 7", 1)
    assert confirmed.json()["reservationId"] == "order 7"
    assert (await caller.post("/v1/reservations/create", body)).json()["reservation"]["status"] == "settled"
    assert await balance(caller, account_id) == ("2", "0", "2")


@pytest.mark.parametrize("change", [{"amount": 1}, {"externalId": "bob", "accountId": None}])
async def test_the_same_id_for_something_else_is_409(world: World, change: dict[str, object]) -> None:
    caller, account_id = await world.tenant("10")
    await caller.post("/v1/accounts/create", {"name": "Bob", "externalId": "bob"})
    await make(caller, account_id, reservationId="mine")
    body = {"accountId": account_id, "amount": 2, "reservationId": "mine", **change}
    assert code(await caller.post("/v1/reservations/create", body)) == (409, "idempotency_mismatch")
    assert (await balance(caller, account_id))[1] == "2"
    await end(caller, "cancel", "mine")


async def test_many_at_once_with_one_id_make_one(world: World) -> None:
    caller, account_id = await world.tenant("2")
    made = await asyncio.gather(*(make(caller, account_id, reservationId="mine") for _ in range(8)))
    assert len({one["id"] for one in made}) == 1
    assert await balance(caller, account_id) == ("2", "2", "0")
    await end(caller, "cancel", "mine")


async def test_a_refusal_is_not_remembered(world: World) -> None:
    caller, account_id = await world.tenant("1")
    body = {"accountId": account_id, "amount": 2, "reservationId": "mine"}
    refused = await caller.post("/v1/reservations/create", body)
    assert code(refused) == (402, "insufficient_credits")
    assert refused.headers["x-should-retry"] == "false"
    await caller.post("/v1/accounts/credits/add", {"accountId": account_id, "amount": 1})
    assert (await caller.post("/v1/reservations/create", body)).status_code == 200
    await end(caller, "cancel", "mine")


async def test_two_organizations_may_use_the_same_id(world: World) -> None:
    (ann, first), (bob, second) = await world.tenant("5"), await world.tenant("5")
    made = [await make(ann, first, reservationId="1"), await make(bob, second, reservationId="1")]
    assert made[0]["id"] != made[1]["id"]
    for caller in (ann, bob):
        assert (await confirm(caller, "1", 1)).json()["balance"] == 4


# Idempotency-Key ----------------------------------------------------------------------------------------


async def test_a_key_makes_one_reservation_and_replays_its_answer(world: World) -> None:
    caller, account_id = await world.tenant("3")
    body = {"accountId": account_id, "amount": 2}
    first = await caller.post("/v1/reservations/create", body, idempotency_key="k")
    again = await caller.post("/v1/reservations/create", body, idempotency_key="k")
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    other = await caller.post("/v1/reservations/create", {**body, "amount": 1}, idempotency_key="k")
    assert code(other) == (409, "idempotency_mismatch")
    mine = first.json()["reservation"]["id"]
    done = await caller.post(
        "/v1/reservations/confirm", {"reservationId": mine, "actualAmount": 1}, idempotency_key="c"
    )
    assert done.json()["balance"] == 2
    assert (await balance(caller, account_id))[1:] == ("0", "2")


async def test_a_key_whose_answer_was_lost_finds_what_it_has_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway died after the row was written: the answer was never kept, and the credits suffice only once."""
    caller, account_id = await world.tenant("3")
    body = {"accountId": account_id, "amount": 2}

    async def dies(*_: object) -> None:
        raise BookUnavailable("staged")

    with monkeypatch.context() as patch:
        patch.setattr(world.ledger.idempotency, "complete", dies)
        first = await caller.post("/v1/reservations/create", body, idempotency_key="k")
    again = await caller.post("/v1/reservations/create", body, idempotency_key="k")
    assert again.json() == first.json()
    assert (await balance(caller, account_id))[1] == "2"
    await end(caller, "cancel", first.json()["reservation"]["id"])


# What is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("amount", 0),
        ("amount", "-0"),
        ("amount", -1),
        ("amount", "NaN"),
        ("amount", "Infinity"),
        ("amount", 1e308),
        ("amount", 10**19),
        ("amount", "0.0000001"),
        ("amount", None),
        ("amount", True),
        ("amount", [1]),
        ("amount", "1 "),
        ("ttlSeconds", 0),
        ("ttlSeconds", 86_401),
        ("ttlSeconds", 1.5),
        ("ttlSeconds", "60"),
        ("ttlSeconds", True),
        ("reservationId", ""),
        ("reservationId", "x" * 201),
        ("reservationId", 7),
        ("operation", "x" * 201),
        ("metadata", []),
        ("accountId", ""),
        ("surprise", 1),
    ],
)
async def test_a_wrong_field_is_400_and_named(world: World, field: str, value: object) -> None:
    caller, account_id = await world.tenant("10")
    body = {"accountId": account_id, "amount": 1, field: value}
    answer = await caller.post("/v1/reservations/create", body)
    assert (*code(answer), answer.json()["error"]["param"]) == (400, "invalid_request", field)
    assert await balance(caller, account_id) == ("10", "0", "10")


@pytest.mark.parametrize("value", ["-1", "NaN", "1e309", 10**19, "0.0000001", None, False])
async def test_a_wrong_actual_amount_changes_nothing(world: World, value: object) -> None:
    caller, account_id = await world.tenant("10")
    made = await make(caller, account_id)
    answer = await confirm(caller, made["id"], value)
    assert (*code(answer), answer.json()["error"]["param"]) == (400, "invalid_request", "actualAmount")
    assert await states(caller) == ["pending"]
    await end(caller, "cancel", made["id"])


async def test_a_bare_nan_is_refused_with_its_field(world: World) -> None:
    caller, account_id = await world.tenant("10")
    raw = b'{"accountId": "%s", "amount": NaN}' % account_id.encode()
    answer = await caller.send("POST", "/v1/reservations/create", raw=raw)
    assert (*code(answer), answer.json()["error"]["param"]) == (400, "invalid_request", "amount")


@pytest.mark.parametrize(("given", "kept"), [("1e3", "1000"), ("0.000001", "0.000001"), (1.10, "1.1"), ("+2", "2")])
async def test_odd_amounts_are_taken_exactly(world: World, given: object, kept: str) -> None:
    caller, account_id = await world.tenant("2000")
    made = await make(caller, account_id, given)
    assert format(Decimal(made["amount"]), "f") == kept
    await confirm(caller, made["id"], given)
    left = Decimal(2000) - Decimal(kept)
    assert await balance(caller, account_id) == (f"{left.normalize():f}", "0", f"{left.normalize():f}")


async def test_unknown_and_foreign_reservations_are_404(world: World) -> None:
    (ann, account_id), (bob, _) = await world.tenant("5"), await world.tenant("5")
    made = await make(ann, account_id, reservationId="mine")
    for name in (made["id"], "mine", "res_nothing", "x" * 200):
        assert code(await confirm(bob, name, 1)) == (404, "not_found")
        assert code(await end(bob, "cancel", name)) == (404, "not_found")
        assert code(await end(bob, "extend", name)) == (404, "not_found")
    assert await states(bob) == []
    foreign = await bob.post("/v1/reservations/create", {"accountId": account_id, "amount": 1})
    assert code(foreign) == (404, "not_found")
    assert await balance(ann, account_id) == ("5", "2", "3")
    await end(ann, "cancel", "mine")


async def test_a_bound_key_sees_its_own_account_only(world: World) -> None:
    caller, account_id = await world.tenant("5")
    other = (await caller.post("/v1/accounts/create", {"name": "Bob"})).json()["account"]["id"]
    organization = (await caller.get("/v1/accounts/get", accountId=account_id)).json()["account"]["organizationId"]
    bound = await world.key(organization, "credits:write", accountId=other)
    made = await make(caller, account_id)
    assert code(await confirm(bound, made["id"], 1)) == (404, "not_found")
    assert await states(bound) == []
    assert code(await bound.post("/v1/reservations/create", {"amount": 1})) == (402, "insufficient_credits")
    await end(caller, "cancel", made["id"])


async def test_a_test_key_moves_nothing(world: World) -> None:
    caller = await world.key(None, "credits:write", test=True)
    for verb in ("create", "confirm", "cancel", "extend"):
        answer = await caller.post(f"/v1/reservations/{verb}", {})
        assert code(answer) == (403, "permission_denied")


async def test_the_bootstrap_key_acts_for_a_named_organization(world: World) -> None:
    caller, account_id = await world.tenant("5")
    organization = (await caller.get("/v1/accounts/get", accountId=account_id)).json()["account"]["organizationId"]
    made = await make(world.admin, account_id, organizationId=organization)
    done = await end(world.admin, "confirm", made["id"], actualAmount=1, organizationId=organization)
    assert done.json()["balance"] == 4


async def test_the_keys_limits_count_reservations(world: World) -> None:
    caller, account_id = await world.tenant("50")
    organization = (await caller.get("/v1/accounts/get", accountId=account_id)).json()["account"]["organizationId"]
    limits = [{"kind": "credits", "window": "day", "max": 5}]
    limited = await world.key(organization, "credits:write", limits=limits)
    made = await make(limited, account_id, 4)
    body = {"accountId": account_id, "amount": 2}
    assert code(await limited.post("/v1/reservations/create", body)) == (429, "limit_exceeded")
    await confirm(limited, made["id"], 3)
    made = await make(limited, account_id, 2)
    assert code(await limited.post("/v1/reservations/create", body)) == (429, "limit_exceeded")
    await end(limited, "cancel", made["id"])
    assert await world.ledger.audit() == []


# Time, races and losses ---------------------------------------------------------------------------------


async def test_past_its_deadline_it_is_expired_at_once(world: World) -> None:
    caller, account_id = await world.tenant("10")
    made = await make(caller, account_id)
    await expire_now(world, made["id"])
    assert await states(caller) == ["expired"]
    assert await states(caller, activeOnly="true") == []
    for verb, more in (("confirm", {"actualAmount": 1}), ("cancel", {}), ("extend", {})):
        assert code(await end(caller, verb, made["id"], **more)) == (409, "reservation_expired")
    assert await balance(caller, account_id) == ("10", "0", "10")


async def test_what_nobody_confirms_is_expired_by_the_sweep_once(world: World) -> None:
    caller, account_id = await world.tenant("10")
    made = await make(caller, account_id)
    await expire_now(world, made["id"])
    counts = await asyncio.gather(*(world.services.reserver.expire() for _ in range(4)))
    assert sum(counts) == 1
    assert await balance(caller, account_id) == ("10", "0", "10")


async def test_confirms_at_once_charge_once(world: World) -> None:
    caller, account_id = await world.tenant("10")
    made = await make(caller, account_id)
    answers = await asyncio.gather(*(confirm(caller, made["id"], n) for n in (1, 1, 2, 2, 3)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["transactionId"] for answer in answers}) == 1
    charged = answers[0].json()["amount"]
    assert await balance(caller, account_id) == (str(10 - charged), "0", str(10 - charged))


@pytest.mark.parametrize("rival", ["cancel", "expire", "extend"])
async def test_confirm_and_its_rivals_leave_one_winner(world: World, rival: str) -> None:
    caller, account_id = await world.tenant("100")
    for _ in range(6):
        made = await make(caller, account_id)

        async def against(made: dict[str, Any] = made) -> None:
            if rival == "expire":
                await expire_now(world, made["id"])
                await world.services.reserver.expire()
            else:
                await end(caller, rival, made["id"])

        before = Decimal((await balance(caller, account_id))[0])
        answer, _ = await asyncio.gather(confirm(caller, made["id"], 1), against())
        won = answer.status_code == 200
        assert won or code(answer) == (409, "reservation_expired")
        left = before - (1 if won else 0)
        assert await balance(caller, account_id) == (f"{left:f}", "0", f"{left:f}")
    assert await world.ledger.audit() == []


async def test_a_wiped_redis_holds_them_again(world: World) -> None:
    caller, account_id = await world.tenant("10")
    made = await make(caller, account_id, 6)
    await world.pipe.command((b"FLUSHALL",), 5.0)
    assert await balance(caller, account_id) == ("10", "6", "4")
    bucket = (await world.services.keys.authenticate(caller.secret)).bucket
    await world.gate.calm(bucket, await world.gate.ticket(bucket))
    refused = await caller.post("/v1/accounts/credits/deduct", {"accountId": account_id, "amount": 5})
    assert code(refused) == (402, "insufficient_credits")
    (hold,) = await world.gate.holds(bucket, account_id)
    assert (hold.hold.id, hold.hold.microcredits, hold.hold.kind) == (made["id"], 6_000_000, "api")
    assert (await confirm(caller, made["id"], 6)).json()["balance"] == 4
    assert await balance(caller, account_id) == ("4", "0", "4")


async def test_without_redis_nothing_is_half_done(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    caller, account_id = await world.tenant("10")
    made = await make(caller, account_id)

    async def away(*_: object) -> Any:
        raise StoreUnavailable("staged")

    with monkeypatch.context() as patch:
        patch.setattr(world.pipe, "run", away)
        body = {"accountId": account_id, "amount": 1, "reservationId": "mine"}
        assert code(await caller.post("/v1/reservations/create", body)) == (503, "store_unavailable")
        assert code(await confirm(caller, made["id"], 1)) == (503, "store_unavailable")
        for verb in ("cancel", "extend"):
            assert code(await end(caller, verb, made["id"])) == (503, "store_unavailable")
    assert await states(caller) == ["pending"]
    assert await balance(caller, account_id) == ("10", "2", "8")
    assert (await confirm(caller, made["id"], 1)).json()["balance"] == 9
