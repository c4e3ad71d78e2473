from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from tests.ledger.conftest import NOW_US, World

from faregate.core.people import ROLES, SigningKey
from faregate.errors import Conflict, NotFound
from faregate.ledger.admin_audit import AdminAudit, Change
from faregate.ledger.app_passwords import AppPasswords, NewAppPassword
from faregate.ledger.ingested import Arrival, Ingested
from faregate.ledger.memberships import Memberships
from faregate.ledger.people import People
from faregate.ledger.registry import ServiceRegistry
from faregate.ledger.service_usage import ServiceLink, ServiceUsage
from faregate.ledger.users import INSTALLATION, Users

BY = Change(who="key-1", what="users.create", detail={"email": "a@b.c"})
DAY_US = 86_400_000_000


async def test_users_memberships_and_passwords_make_a_person(world: World) -> None:
    users, people = Users(world.database), People(world.database)
    user = await users.create(home=INSTALLATION, email="a@b.c", subject="s-1", by=BY)
    membership = await Memberships(world.database).create(
        user_id=user.id, organization_id=world.organization_id, role="admin", active=True, by=BY
    )
    new = NewAppPassword(id="apw_1", secret_hash="0" * 64, user_id=user.id, name="p", expires_us=None)
    await AppPasswords(world.database).create(new, by=BY)
    stored = await people.password("apw_1")
    assert stored is not None
    assert stored.person is not None
    assert [standing.role for standing in stored.person.standings] == ["admin"]
    assert await people.known_as("s-1", None) == (True, stored.person)
    assert await people.known_as("s-2", "a@b.c") == (False, None)
    await Memberships(world.database).patch(membership.id, {"active": False}, by=BY)
    known, person = await people.known_as("s-1", None)
    assert known
    assert person is not None
    assert person.standings == ()
    await users.patch(user.id, {"active": False}, by=BY)
    assert await people.known_as("s-1", None) == (True, None)


async def test_what_is_taken_is_a_conflict_and_changes_nothing(world: World) -> None:
    users, services = Users(world.database), ServiceRegistry(world.database)
    first = await users.create(home=INSTALLATION, email="a@b.c", by=BY)
    other = await users.create(home=world.organization_id, email="a@b.c", by=BY)
    await services.create(home=INSTALLATION, name="s", by=BY)
    with pytest.raises(Conflict):
        await users.create(home=INSTALLATION, email="a@b.c", by=BY)
    with pytest.raises(Conflict):
        await services.create(home=INSTALLATION, name="s", by=BY)
    assert [user.id for user in await users.list(seen_by=None, limit=9)] == [first.id, other.id]
    assert [user.id for user in await users.list(seen_by=world.organization_id, limit=9)] == [other.id]
    assert len(await AdminAudit(world.database).list(organization_id=None, limit=9)) == 3


async def test_every_role_can_be_kept(world: World) -> None:
    memberships = Memberships(world.database)
    user = await Users(world.database).create(home=INSTALLATION, email="a@b.c", by=BY)
    made = await memberships.create(
        user_id=user.id, organization_id=world.organization_id, role="member", active=True, by=BY
    )
    for role in ROLES:
        assert (await memberships.patch(made.id, {"role": role}, by=BY)).role == role
    with pytest.raises(Conflict):
        await memberships.create(
            user_id=user.id, organization_id=world.organization_id, role="admin", active=True, by=BY
        )


async def test_an_organizations_service_comes_before_the_installations(world: World) -> None:
    services = ServiceRegistry(world.database)
    general = await services.create(home=INSTALLATION, name="s", by=BY)
    assert await services.named("s", world.organization_id) == general
    own = await services.create(home=world.organization_id, name="s", by=BY)
    assert await services.named("s", world.organization_id) == own
    assert await services.named("s", "org_other") == general
    assert await services.named("t", world.organization_id) is None


async def test_a_user_that_is_deleted_takes_all_along(world: World) -> None:
    users = Users(world.database)
    user = await users.create(home=INSTALLATION, email="a@b.c", by=BY)
    new = NewAppPassword(id="apw_1", secret_hash="0" * 64, user_id=user.id, name="p", expires_us=None)
    await AppPasswords(world.database).create(new, by=BY)
    await users.delete(user.id, by=BY)
    assert await People(world.database).password("apw_1") is None
    with pytest.raises(NotFound):
        await users.get(user.id)


async def test_of_many_new_signing_keys_one_is_kept_and_old_ones_go(world: World) -> None:
    people = People(world.database)

    async def add(name: str, created_us: int) -> SigningKey:
        key = SigningKey(id=name, secret="ab", created_us=created_us)
        return await people.add_signing_key(key, renew_us=created_us - DAY_US, drop_us=created_us - 2 * DAY_US)

    made = await asyncio.gather(*(add(f"k{number}", NOW_US) for number in range(5)))
    assert len({key.id for key in made}) == 1
    assert (await add("later", NOW_US + 2 * DAY_US)).id == "later"
    assert await people.signing_key(made[0].id) is not None
    assert (await add("last", NOW_US + 4 * DAY_US)).id == "last"
    assert await people.signing_key(made[0].id) is None
    assert await people.newest_signing_key() == SigningKey(id="last", secret="ab", created_us=NOW_US + 4 * DAY_US)


async def test_what_a_service_tells_is_written_with_its_record_or_not_at_all(world: World) -> None:
    usage, ingested = ServiceUsage(world.database), Ingested(world.database)

    def link(billed: str) -> ServiceLink:
        facts: dict[str, Any] = {"service_id": "svc", "service_name": "s", "user_id": "usr", "reported_by": "usr"}
        return ServiceLink(**facts, channel="c", billed=Decimal(billed))

    for number, billed in enumerate(("0.1", "0.2", "0.1")):
        arrival = Arrival(record=world.record(hold_id=f"ext_{number}", kind="ingested"), own_id=f"own-{number % 2}")
        arrived = await ingested.write(world.organization_id, "x", [arrival], frozenset(), usage.linked(link(billed)))
        assert arrived.records[0][1] is (number < 2)
    found = await usage.of_user("usr", start_us=None, end_us=None, limit=1)
    assert (found.total, len(found.uses), found.more) == (Decimal("0.3"), 1, True)
    assert (await usage.of_record(arrived.records[0][0])).billed == Decimal("0.1")
    with pytest.raises(NotFound):
        await usage.of_record("usage_none")
    assert (await usage.of_user("usr", start_us=NOW_US + 1, end_us=None, limit=1)).uses == ()
