from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import pytest

from faregate.auth.keys import NewKey, hash_secret, make, make_admin
from faregate.auth.principals import CacheBounds, Principals
from faregate.auth.scopes import ALL_SCOPES
from faregate.core.call import Limit, Principal, bucket_of
from faregate.core.keys import BOOTSTRAP_KEY_ID, StoredKey
from faregate.errors import BookUnavailable, InvalidApiKey, StoreUnavailable

START_S = 1_700_000_000


class Clock:
    """A clock the test moves."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0

    def now_us(self) -> int:
        return int((START_S + self.elapsed_s) * 1_000_000)

    def monotonic(self) -> float:
        return self.elapsed_s


class Store:
    """A book of keys that can be away or slow."""

    def __init__(self) -> None:
        self.rows: dict[str, StoredKey] = {}
        self.reads: list[str] = []
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def by_id(self, key_id: str) -> StoredKey | None:
        self.reads.append(key_id)
        row = self.rows.get(key_id)
        await self.gate.wait()
        if self.away:
            raise BookUnavailable("away")
        return row


class Revs:
    """What Redis was told."""

    def __init__(self) -> None:
        self.revs: dict[tuple[int, str], int] = {}
        self.away = False

    async def set_rev(self, bucket: int, key_id: str, rev: int) -> None:
        if self.away:
            raise StoreUnavailable("away")
        self.revs[bucket, key_id] = max(rev, self.revs.get((bucket, key_id), 0))


def row(key: NewKey, **changes: object) -> StoredKey:
    stored = StoredKey(
        id=key.id,
        rev=1,
        secret_hash=key.secret_hash,
        organization_id="org_1",
        default_account_id="acc_1",
        scopes=frozenset({"proxy"}),
    )
    return replace(stored, **changes)  # type: ignore[arg-type]


@dataclass
class World:
    """One process's principals over a book, Redis and a clock."""

    clock: Clock
    store: Store
    revs: Revs
    keys: Principals

    def add(self, **changes: object) -> NewKey:
        key = make(test=bool(changes.get("test", False)))
        self.store.rows[key.id] = row(key, **changes)
        return key

    def change(self, key: NewKey, **changes: object) -> None:
        stored = self.store.rows[key.id]
        self.store.rows[key.id] = replace(stored, **{"rev": stored.rev + 1, **changes})  # type: ignore[arg-type]


def world_of(bounds: CacheBounds | None = None, admin: str | None = None) -> World:
    clock, store, revs = Clock(), Store(), Revs()
    admin_hash = hash_secret(admin) if admin else None
    return World(clock, store, revs, Principals(store, revs, clock, admin_hash=admin_hash, bounds=bounds))


@pytest.fixture
async def world() -> World:
    return world_of()


async def refused(world: World, secret: str) -> None:
    with pytest.raises(InvalidApiKey, match=r"^invalid API key$"):
        await world.keys.authenticate(secret)


async def test_a_good_key_gives_all_the_book_says(world: World) -> None:
    limit = Limit(id="k.requests.day", kind="requests", window="day", max=3)
    key = world.add(test=True, account_id="acc_2", models=("fast",), limits=(limit,))
    principal = await world.keys.authenticate(key.secret)
    assert (principal.key_id, principal.rev, principal.test, principal.models) == (key.id, 1, True, ("fast",))
    assert (principal.account_id, principal.default_account_id, principal.limits) == (
        "acc_2",
        "acc_1",
        (limit,),
    )


async def test_a_known_key_is_not_read_again_within_a_minute(world: World) -> None:
    key = world.add()
    for world.clock.elapsed_s in (0, 30, 59.9):
        await world.keys.authenticate(key.secret)
    assert len(world.store.reads) == 1


async def test_a_known_key_is_read_again_after_a_minute(world: World) -> None:
    key = world.add()
    await world.keys.authenticate(key.secret)
    world.change(key, revoked=True)
    world.clock.elapsed_s = 60
    await refused(world, key.secret)


@pytest.mark.parametrize("secret", ["", "sk-" + "x" * 40, "x" * 10_000, "fg_live_", "\udcff" * 40])
async def test_a_malformed_key_never_reaches_the_book(world: World, secret: str) -> None:
    await refused(world, secret)
    assert world.store.reads == []


async def test_the_right_id_with_another_secret_is_refused(world: World) -> None:
    key = world.add()
    await world.keys.authenticate(key.secret)
    await refused(world, make(key_id=key.id).secret)


async def test_a_secret_that_shares_a_long_prefix_is_refused(world: World) -> None:
    key = world.add()
    await world.keys.authenticate(key.secret)
    await refused(world, key.secret[:-1] + ("a" if key.secret[-1] != "a" else "b"))


async def test_a_live_key_does_not_pass_as_a_test_key(world: World) -> None:
    key = world.add()
    await refused(world, key.secret.replace("fg_live_", "fg_test_"))


async def test_a_revoked_key_is_refused(world: World) -> None:
    await refused(world, world.add(revoked=True).secret)


async def test_an_unknown_key_is_asked_for_once_in_a_while(world: World) -> None:
    secret = make().secret
    for world.clock.elapsed_s in (0, 1, 4.9):
        await refused(world, secret)
    assert len(world.store.reads) == 1
    world.clock.elapsed_s = 5
    await refused(world, secret)
    assert len(world.store.reads) == 2


async def test_expiry_is_checked_at_each_use(world: World) -> None:
    key = world.add(expires_at=float(START_S + 10))
    world.clock.elapsed_s = 9.999
    await world.keys.authenticate(key.secret)
    world.clock.elapsed_s = 10
    await refused(world, key.secret)


async def test_an_expiry_moved_on_is_seen_soon(world: World) -> None:
    key = world.add(expires_at=float(START_S))
    await refused(world, key.secret)
    world.change(key, expires_at=None)
    world.clock.elapsed_s = 5
    await world.keys.authenticate(key.secret)


async def test_many_at_once_read_the_book_once(world: World) -> None:
    key = world.add()
    principals = await asyncio.gather(*(world.keys.authenticate(key.secret) for _ in range(50)))
    assert len(world.store.reads) == 1
    assert len({principal.key_id for principal in principals}) == 1


async def test_many_bad_secrets_of_one_key_at_once_read_the_book_once(world: World) -> None:
    key = world.add()
    secrets = [make(key_id=key.id).secret for _ in range(50)]
    results = await asyncio.gather(*map(world.keys.authenticate, secrets), return_exceptions=True)
    assert all(isinstance(result, InvalidApiKey) for result in results)
    assert len(world.store.reads) == 1


async def test_both_caches_are_bounded() -> None:
    world = world_of(CacheBounds(size=2, unknown_size=2))
    good, bad = [world.add() for _ in range(3)], [make() for _ in range(3)]
    for key in good:
        await world.keys.authenticate(key.secret)
    for key in bad:
        await refused(world, key.secret)
    await world.keys.authenticate(good[0].secret)
    await refused(world, bad[0].secret)
    assert world.store.reads == [key.id for key in (*good, *bad, good[0], bad[0])]


async def test_the_least_recently_used_is_forgotten_first() -> None:
    world = world_of(CacheBounds(size=2))
    first, second, third = (world.add() for _ in range(3))
    for key in (first, second, first, third, first):
        await world.keys.authenticate(key.secret)
    assert world.store.reads == [first.id, second.id, third.id]


async def test_refresh_sees_the_change_and_tells_redis(world: World) -> None:
    key = world.add()
    principal = await world.keys.authenticate(key.secret)
    world.change(key, models=("fast",))
    fresh = await world.keys.refresh(principal)
    assert (fresh.rev, fresh.models) == (2, ("fast",))
    assert world.revs.revs == {(bucket_of("org_1"), key.id): 2}
    assert await world.keys.authenticate(key.secret) == fresh


async def test_a_revoked_key_stops_at_refresh_and_stays_out(world: World) -> None:
    key = world.add()
    principal = await world.keys.authenticate(key.secret)
    world.change(key, revoked=True)
    with pytest.raises(InvalidApiKey):
        await world.keys.refresh(principal)
    await refused(world, key.secret)
    assert world.revs.revs == {(bucket_of("org_1"), key.id): 2}


async def test_refresh_refuses_a_rotated_secret_though_the_new_one_is_known(world: World) -> None:
    old = world.add()
    principal = await world.keys.authenticate(old.secret)
    new = make(key_id=old.id)
    world.change(old, secret_hash=new.secret_hash)
    await world.keys.authenticate(new.secret)
    with pytest.raises(InvalidApiKey):
        await world.keys.refresh(principal)
    assert (await world.keys.authenticate(new.secret)).rev == 2


async def test_refresh_of_a_key_that_is_gone(world: World) -> None:
    key = world.add()
    principal = await world.keys.authenticate(key.secret)
    del world.store.rows[key.id]
    with pytest.raises(InvalidApiKey):
        await world.keys.refresh(principal)


async def test_refresh_takes_a_principal_from_elsewhere(world: World) -> None:
    key = world.add()
    principal = Principal(
        key_id=key.id,
        rev=0,
        organization_id="org_1",
        account_id=None,
        default_account_id="acc_1",
        scopes=frozenset(),
    )
    assert (await world.keys.refresh(principal)).scopes == {"proxy"}


async def test_refresh_does_not_take_a_read_begun_before_it(world: World) -> None:
    key = world.add()
    principal = await world.keys.authenticate(key.secret)
    world.store.gate.clear()
    early = asyncio.create_task(world.keys.refresh(principal))
    await asyncio.sleep(0.01)
    world.change(key)
    late = asyncio.create_task(world.keys.refresh(principal))
    await asyncio.sleep(0.01)
    world.store.gate.set()
    assert ((await early).rev, (await late).rev) == (1, 2)


async def test_refresh_fails_when_redis_cannot_be_told(world: World) -> None:
    key = world.add()
    principal = await world.keys.authenticate(key.secret)
    world.revs.away = True
    with pytest.raises(StoreUnavailable):
        await world.keys.refresh(principal)


async def test_without_sql_a_known_key_goes_on_for_a_while(world: World) -> None:
    key = world.add()
    await world.keys.authenticate(key.secret)
    world.store.away = True
    world.clock.elapsed_s = 3599
    await world.keys.authenticate(key.secret)
    world.clock.elapsed_s = 3610
    with pytest.raises(StoreUnavailable):
        await world.keys.authenticate(key.secret)


async def test_without_sql_a_known_key_does_not_wait_for_it_at_every_call(world: World) -> None:
    key = world.add()
    await world.keys.authenticate(key.secret)
    world.store.away = True
    for world.clock.elapsed_s in (60, 61, 62, 64.9):
        await world.keys.authenticate(key.secret)
    assert len(world.store.reads) == 2


async def test_without_sql_an_unknown_key_is_not_called_invalid(world: World) -> None:
    key = world.add()
    world.store.away = True
    with pytest.raises(StoreUnavailable):
        await world.keys.authenticate(key.secret)
    world.store.away = False
    await world.keys.authenticate(key.secret)


async def test_without_sql_refresh_fails_closed(world: World) -> None:
    key = world.add()
    principal = await world.keys.authenticate(key.secret)
    world.store.away = True
    with pytest.raises(StoreUnavailable):
        await world.keys.refresh(principal)


async def test_a_book_that_hangs_is_not_waited_for() -> None:
    world = world_of(CacheBounds(read_timeout_s=0.01))
    key = world.add()
    world.store.gate.clear()
    with pytest.raises(StoreUnavailable):
        await world.keys.authenticate(key.secret)


async def test_the_admin_key_is_any_string_and_stands_above_organizations() -> None:
    secret = "correct horse battery staple, thirty-two and more"
    world = world_of(admin=secret)
    bootstrap = replace(make(), id=BOOTSTRAP_KEY_ID)
    world.store.rows[BOOTSTRAP_KEY_ID] = row(bootstrap, scopes=ALL_SCOPES, above_organizations=True)
    principal = await world.keys.authenticate(secret)
    assert principal.above_organizations
    assert (await world.keys.refresh(principal)).rev == 1
    await refused(world, secret + "!")


async def test_no_other_secret_opens_the_bootstrap_row() -> None:
    world = world_of(admin=make_admin())
    world.store.rows[BOOTSTRAP_KEY_ID] = row(replace(make(), id=BOOTSTRAP_KEY_ID))
    await refused(world, "")
    await refused(world, BOOTSTRAP_KEY_ID)


async def test_a_principal_never_shows_its_hash(world: World) -> None:
    key = world.add()
    assert key.secret_hash not in repr(await world.keys.authenticate(key.secret))
