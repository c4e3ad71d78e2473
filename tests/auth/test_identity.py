from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
from tests.upstreams.keyset import AUDIENCE, ISSUER, KeySet, Pair, pair

from faregate.auth.app_tokens import make
from faregate.auth.identity import LASTS_S, RENEW_US, Identity, ProviderFacts, role_in
from faregate.auth.jwks import JwksTiming
from faregate.clock import SystemClock
from faregate.core.people import Person
from faregate.errors import InvalidApiKey, StoreUnavailable
from faregate.ledger.admin_audit import Change
from faregate.ledger.app_passwords import NewAppPassword
from faregate.ledger.queries import Ledger
from faregate.ledger.schema import prepare
from faregate.providers.documents import fetch
from faregate.providers.upstream import Upstream

BY = Change(who="test", what="test", detail={})
RSA, EC, ED = pair("RS256", "rsa-1"), pair("ES256", "ec-1"), pair("EdDSA", "ed-1")


class Clock(SystemClock):
    """One that can be moved."""

    ahead_s = 0.0

    def now_us(self) -> int:
        return super().now_us() + int(self.ahead_s * 1_000_000)

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


@dataclass
class Desk:
    """One process's identity, on a book of its own, beside a provider."""

    ledger: Ledger
    upstream: Upstream
    provider: KeySet
    clock: Clock = field(default_factory=Clock)

    def identity(self, **facts: Any) -> Identity:
        timing = facts.pop("timing", JwksTiming(retry_s=0.0))
        known = {"audience": AUDIENCE, "issuer": ISSUER, "timing": timing, **facts}
        got = partial(fetch, self.upstream, self.provider.url, most_bytes=100_000, total_s=0.5)
        return Identity(self.ledger.people, self.clock, ProviderFacts(fetch=got, **known))

    def claims(self, **more: Any) -> dict[str, Any]:
        now = self.clock.now_us() // 1_000_000
        good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann-1", "email": "Ann@example.com", "iat": now, "exp": now + 60}
        return {name: value for name, value in {**good, **more}.items() if value is not None}

    async def user(self, email: str = "ann@example.com", **facts: Any) -> str:
        return (await self.ledger.users.create(home=facts.pop("home", ""), email=email, by=BY, **facts)).id

    async def password(self, user_id: str, expires_us: int | None = None) -> str:
        new = make()
        facts = NewAppPassword(id=new.id, secret_hash=new.secret_hash, user_id=user_id, name="p", expires_us=expires_us)
        await self.ledger.app_passwords.create(facts, by=BY)
        return new.token


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    url = f"sqlite:///{tmp_path}/book.db"
    prepare(url)
    ledger, upstream = Ledger(url), Upstream()
    async with KeySet([RSA, EC, ED]) as provider:
        yield Desk(ledger, upstream, provider)
    await upstream.close()
    await ledger.close()


async def refused(identity: Identity, token: str) -> None:
    with pytest.raises(InvalidApiKey) as caught:
        await identity.person(token)
    assert caught.value.message == "invalid token"
    assert caught.value.__cause__ is None


# The provider's tokens ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=lambda key: key.algorithm)
async def test_a_providers_token_is_its_user(desk: Desk, key: Pair) -> None:
    user_id = await desk.user()
    person = await desk.identity().person(desk.provider.token(desk.claims(), key))
    assert (person.id, person.email, person.superadmin) == (user_id, "ann@example.com", False)


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "another-app"},
        {"aud": None},
        {"aud": ["a", "b"]},
        {"iss": "https://evil.example.com"},
        {"iss": None},
        {"exp": None},
        {"exp": 1},
        {"exp": "tomorrow"},
        {"exp": True},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"exp": 10**30},
        {"nbf": 9_999_999_999},
        {"nbf": float("nan")},
        {"iat": 9_999_999_999},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 300},
        {"email": None},
        {"email_verified": False},
        {"email": "bob@example.com"},
    ],
    ids=str,
)
async def test_a_claim_that_is_wrong_is_401(desk: Desk, change: dict[str, Any]) -> None:
    await desk.user()
    claims = {**desk.claims(), **change}
    await refused(desk.identity(), desk.provider.token({n: v for n, v in claims.items() if v is not None}))


async def test_clocks_may_differ_a_little(desk: Desk) -> None:
    await desk.user()
    now = desk.clock.now_us() // 1_000_000
    for shift in (-20, 20):
        claims = desk.claims(exp=now + max(shift, -20), nbf=now + shift, iat=now + shift)
        assert (await desk.identity().person(desk.provider.token(claims))).id
    await refused(desk.identity(), desk.provider.token(desk.claims(exp=now - 31)))


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    parts = [urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)]
    return ".".join([*parts, ""])


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
async def test_without_a_signature_it_is_nobodys(desk: Desk, name: str) -> None:
    await desk.user()
    await refused(desk.identity(), unsigned({"alg": name, "kid": RSA.kid}, desk.claims()))


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=lambda key: key.algorithm)
async def test_a_public_key_signs_nothing(desk: Desk, key: Pair) -> None:
    await desk.user()
    secret = key.pem
    head = {"alg": "HS256", "kid": key.kid, "typ": "JWT"}
    body = unsigned(head, desk.claims()).rstrip(".")
    signature = jwt.get_algorithm_by_name("HS256").sign(body.encode(), secret)
    await refused(desk.identity(), f"{body}.{urlsafe_b64encode(signature).rstrip(b'=').decode()}")


async def test_keys_of_others_sign_nothing(desk: Desk) -> None:
    await desk.user()
    stranger = pair("RS256", RSA.kid)
    await refused(desk.identity(), desk.provider.token(desk.claims(), stranger))
    await refused(desk.identity(), desk.provider.token(desk.claims(), Pair(EC.kid, "RS256", RSA.private)))
    embedded = {"jwk": stranger.jwk, "jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/"}
    await refused(desk.identity(), desk.provider.token(desk.claims(), stranger, **embedded))


async def test_a_key_says_which_algorithm_is_right(desk: Desk) -> None:
    await desk.user()
    token = desk.provider.token(desk.claims(), Pair(RSA.kid, "PS512", RSA.private))
    assert (await desk.identity().person(token)).id
    desk.provider.document = json.dumps({"keys": [{**RSA.jwk, "alg": "RS256"}]}).encode()
    await refused(desk.identity(), token)


@pytest.mark.parametrize("kid", [None, "", "unknown", 5, "x" * 300, "fg-" + "0" * 32])
async def test_a_token_names_its_key(desk: Desk, kid: object) -> None:
    await desk.user()
    header = {"alg": "RS256", "typ": "JWT", **({} if kid is None else {"kid": kid})}
    body = unsigned(header, desk.claims()).rstrip(".")
    signature = jwt.get_algorithm_by_name("RS256").sign(body.encode(), RSA.private)
    await refused(desk.identity(), f"{body}.{urlsafe_b64encode(signature).rstrip(b'=').decode()}")


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "e30.e30.e30", "x" * 20_000, "é.é.é", "W10.W10.W10", "app_"])
async def test_what_is_no_token_is_401(desk: Desk, token: str) -> None:
    await refused(desk.identity(), token)


async def test_symmetric_weak_and_foreign_keys_of_a_set_are_left_out(desk: Desk) -> None:
    await desk.user()
    secret = urlsafe_b64encode(b"s" * 32).decode().rstrip("=")
    odd = [
        {"kty": "oct", "kid": "s", "k": secret, "alg": "HS256"},
        {"kty": "oct", "kid": "s2", "k": secret, "use": "sig"},
        {**RSA.jwk, "kid": "enc", "use": "enc"},
        {**RSA.jwk, "kid": "broken", "n": "!"},
        {**EC.jwk, "kid": "p", "crv": ["P-256"]},
        {"kid": "x"},
        {"kty": 5, "kid": "y"},
        7,
    ]
    desk.provider.document = json.dumps({"keys": [*odd, ED.jwk]}).encode()
    identity = desk.identity()
    for kid in ("s", "s2"):
        token = jwt.encode(desk.claims(), b"s" * 32, algorithm="HS256", headers={"kid": kid})
        await refused(identity, token)
    for kid in ("enc", "broken", "x"):
        await refused(identity, desk.provider.token(desk.claims(), Pair(kid, "RS256", RSA.private)))
    assert (await identity.person(desk.provider.token(desk.claims(), ED))).id


# Who that is --------------------------------------------------------------------------------------------


async def test_a_subject_comes_before_an_email(desk: Desk) -> None:
    await desk.user("ann@example.com")
    bob = await desk.user("bob@example.com", subject="ann-1")
    assert (await desk.identity().person(desk.provider.token(desk.claims()))).id == bob


async def test_an_email_is_not_enough_for_a_user_with_another_subject(desk: Desk) -> None:
    await desk.user(subject="somebody-else")
    await refused(desk.identity(), desk.provider.token(desk.claims()))


async def test_an_organizations_own_user_is_not_the_providers(desk: Desk) -> None:
    await desk.ledger.bootstrap("0" * 64)
    await desk.user(home="org_bootstrap")
    await refused(desk.identity(), desk.provider.token(desk.claims()))


async def test_a_user_who_is_not_active_is_nobody_whatever_the_provider_says(desk: Desk) -> None:
    user_id = await desk.user()
    await desk.ledger.users.patch(user_id, {"active": False}, by=BY)
    token = desk.provider.token(desk.claims(roles=["superadmin"]))
    await refused(desk.identity(), token)
    await refused(desk.identity(roles_claim="roles"), token)


async def test_without_a_roles_claim_the_memberships_count(desk: Desk) -> None:
    await member(desk, "superadmin")
    assert (await desk.identity().person(desk.provider.token(desk.claims(roles=["member"])))).superadmin


async def member(desk: Desk, role: Any) -> None:
    await desk.ledger.bootstrap("0" * 64)
    await desk.ledger.memberships.create(
        user_id=await desk.user(), organization_id="org_bootstrap", role=role, active=True, by=BY
    )


@pytest.mark.parametrize(("said", "superadmin"), [(["superadmin"], True), (["admin"], False), (None, False)])
async def test_with_a_roles_claim_the_provider_counts(desk: Desk, said: Any, superadmin: bool) -> None:
    await member(desk, "superadmin")
    person = await desk.identity(roles_claim="roles").person(desk.provider.token(desk.claims(roles=said)))
    assert person.superadmin is superadmin


async def test_the_provider_may_vouch_for_somebody_new(desk: Desk) -> None:
    person = await desk.identity(roles_claim="roles").person(desk.provider.token(desk.claims(roles="superadmin")))
    assert person == Person(id=None, uuid=None, email="ann@example.com", home=None, claimed="superadmin")


@pytest.mark.parametrize(
    ("claims", "name", "role"),
    [
        ({"roles": ["x", "member", "admin"]}, "roles", "admin"),
        ({"roles": "offline admin"}, "roles", "admin"),
        ({"roles": "superadmin,member"}, "roles", "superadmin"),
        ({"realm_access": {"roles": ["service"]}}, "realm_access.roles", "service"),
        ({"https://a.b/roles": ["member"]}, "https://a.b/roles", "member"),
        ({"roles": ["Superadmin", "super admin", 5, None, ["superadmin"]]}, "roles", None),
        ({"roles": {"superadmin": True}}, "roles", None),
        ({"roles": 5}, "roles", None),
        ({"a": 1}, "a.b", None),
    ],
)
def test_roles_in_claims(claims: dict[str, Any], name: str, role: str | None) -> None:
    assert role_in(claims, name) == role


# The provider's keys ------------------------------------------------------------------------------------


async def test_keys_are_fetched_once(desk: Desk) -> None:
    await desk.user()
    identity = desk.identity(timing=JwksTiming())
    token = desk.provider.token(desk.claims())
    await asyncio.gather(*(identity.person(token) for _ in range(10)))
    assert desk.provider.asked == 1


async def test_a_new_key_is_found_and_an_old_one_dropped(desk: Desk) -> None:
    await desk.user()
    identity, new = desk.identity(), pair("ES384", "ec-2")
    old = desk.provider.token(desk.claims())
    assert (await identity.person(old)).id
    desk.provider.keys = [new]
    assert (await identity.person(desk.provider.token(desk.claims()))).id
    await refused(identity, old)


async def test_keys_nobody_knows_are_asked_for_now_and_then_only(desk: Desk) -> None:
    await desk.user()
    identity = desk.identity(timing=JwksTiming(retry_s=10.0))
    for number in range(20):
        await refused(identity, desk.provider.token(desk.claims(), Pair(f"k{number}", "RS256", RSA.private)))
    assert desk.provider.asked == 1
    desk.clock.ahead_s = 11
    await refused(identity, desk.provider.token(desk.claims(), Pair("k", "RS256", RSA.private)))
    assert desk.provider.asked == 2


async def test_old_keys_are_fetched_again_in_the_background(desk: Desk) -> None:
    await desk.user()
    identity = desk.identity(timing=JwksTiming(fresh_s=60.0))
    await identity.person(desk.provider.token(desk.claims()))
    desk.clock.ahead_s, desk.provider.delay_s = 61, 0.2
    assert (await identity.person(desk.provider.token(desk.claims()))).id
    await asyncio.sleep(0.4)
    assert desk.provider.asked == 2


@pytest.mark.parametrize(
    ("status", "document"),
    [(500, b""), (302, b""), (200, b"nonsense"), (200, b"[]"), (200, b'{"keys":5}'), (200, b"x" * 200_000)],
)
async def test_a_provider_that_is_ill_keeps_its_keys(desk: Desk, status: int, document: bytes) -> None:
    await desk.user()
    identity = desk.identity()
    token = desk.provider.token(desk.claims())
    assert (await identity.person(token)).id
    desk.provider.status, desk.provider.document = status, document
    await refused(identity, desk.provider.token(desk.claims(), Pair("k", "RS256", RSA.private)))
    assert desk.provider.asked == 2
    assert (await identity.person(token)).id


async def test_a_provider_that_is_down_or_slow_is_503_until_it_is_back(desk: Desk) -> None:
    await desk.user()
    identity, token = desk.identity(), desk.provider.token(desk.claims())
    await desk.provider.__aexit__()
    with pytest.raises(StoreUnavailable):
        await identity.person(token)
    await desk.provider.__aenter__()
    desk.provider.delay_s = 2
    with pytest.raises(StoreUnavailable):
        await identity.person(token)
    desk.provider.delay_s = 0
    assert (await identity.person(token)).id


async def test_keys_of_a_provider_that_is_gone_end_one_day(desk: Desk) -> None:
    await desk.user()
    identity = desk.identity()
    await identity.person(desk.provider.token(desk.claims()))
    await desk.provider.__aexit__()
    desk.clock.ahead_s = 86_000
    assert (await identity.person(desk.provider.token(desk.claims()))).id
    desk.clock.ahead_s = 86_500
    with pytest.raises(StoreUnavailable):
        await identity.person(desk.provider.token(desk.claims()))


async def test_without_a_provider_its_tokens_are_nothing(desk: Desk) -> None:
    await desk.user()
    await refused(Identity(desk.ledger.people, desk.clock), desk.provider.token(desk.claims(), RSA))


# Our own ------------------------------------------------------------------------------------------------


async def test_our_token_is_good_in_every_process_until_it_ends(desk: Desk) -> None:
    user_id = await desk.user()
    login = await desk.identity().login(await desk.password(user_id))
    other = Identity(desk.ledger.people, desk.clock)
    assert (await other.person(login.access_token)).id == user_id
    desk.clock.ahead_s = LASTS_S
    await refused(other, login.access_token)


async def test_a_token_lasts_no_longer_than_its_app_password(desk: Desk) -> None:
    user_id = await desk.user()
    token = await desk.password(user_id, desk.clock.now_us() + 100_000_000)
    assert (await desk.identity().login(token)).expires_in_s in (99, 100)
    desk.clock.ahead_s = 101
    for identity in (desk.identity(),):
        await refused(identity, token)
        with pytest.raises(InvalidApiKey):
            await identity.login(token)


async def test_keys_turn_over_and_tokens_of_the_last_one_go_on(desk: Desk) -> None:
    user_id = await desk.user()
    password = await desk.password(user_id)
    first = (await desk.identity().login(password)).access_token
    desk.clock.ahead_s = RENEW_US / 1_000_000 - 1800
    second = (await desk.identity().login(password)).access_token
    desk.clock.ahead_s = RENEW_US / 1_000_000
    third = (await desk.identity().login(password)).access_token
    kids = [jwt.get_unverified_header(token)["kid"] for token in (first, second, third)]
    assert kids[0] == kids[1] != kids[2]
    for token in (second, third):
        assert (await desk.identity().person(token)).id == user_id


async def test_many_processes_make_one_key(desk: Desk) -> None:
    password = await desk.password(await desk.user())
    logins = await asyncio.gather(*(desk.identity().login(password) for _ in range(8)))
    assert len({jwt.get_unverified_header(login.access_token)["kid"] for login in logins}) == 1


async def test_a_forged_token_of_ours_is_401(desk: Desk) -> None:
    user_id = await desk.user()
    good = (await desk.identity().login(await desk.password(user_id))).access_token
    kid = jwt.get_unverified_header(good)["kid"]
    claims = jwt.decode(good, options={"verify_signature": False})
    head, body, signature = good.split(".")
    await refused(desk.identity(), jwt.encode(claims, b"x" * 32, algorithm="HS256", headers={"kid": kid}))
    await refused(desk.identity(), unsigned({"alg": "none", "kid": kid}, claims))
    await refused(desk.identity(), f"{head}.{body}.{signature[:-4]}AAAA")
    await refused(desk.identity(), desk.provider.token(claims, Pair(kid, "RS256", RSA.private)))
    other = await desk.user("bob@example.com")
    key = await desk.ledger.people.signing_key(kid)
    assert key is not None
    for change in ({"sub": other}, {"apw": "apw_x"}, {"aud": "x"}, {"iss": "x"}, {"exp": 1}):
        forged = jwt.encode({**claims, **change}, bytes.fromhex(key.secret), algorithm="HS256", headers={"kid": kid})
        await refused(desk.identity(), forged)


async def test_a_deleted_signing_key_verifies_nothing(desk: Desk) -> None:
    login = await desk.identity().login(await desk.password(await desk.user()))

    def forget(conn: Any) -> None:
        conn.exec_driver_sql("DELETE FROM signing_keys")

    await desk.ledger.database.write(forget)
    await refused(desk.identity(), login.access_token)


async def test_last_use_is_noted_by_the_minute(desk: Desk) -> None:
    user_id = await desk.user()
    token = await desk.password(user_id)

    async def last() -> int | None:
        return (await desk.ledger.app_passwords.list(user_id=user_id, limit=1))[0].last_used_us

    assert await last() is None
    await desk.identity().person(token)
    first = await last()
    await desk.identity().person(token)
    assert await last() == first
    desk.clock.ahead_s = 61
    await desk.identity().person(token)
    assert (await last() or 0) > (first or 0)


def test_what_signs_is_loaded_when_it_is_needed() -> None:
    code = "import sys, faregate.app; print('jwt' in sys.modules, 'cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "False"
