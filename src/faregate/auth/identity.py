"""Who is it that presents a token: an app password, a token of ours, or one of the operator's identity provider.

    app_…          an app password, as it is
    kid "fg-…"     ours: signed with a key of the book that all processes share, good while its app password is
    any other kid  the identity provider's, by its key set

The user and the memberships are read from the book each time, so what an administrator changes counts at once.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Final, Protocol

from faregate.auth.app_tokens import PREFIX, bad_token, password_id
from faregate.auth.jwks import Fetch, Jwks, JwksTiming
from faregate.auth.keys import MAX_PRESENTED, hash_secret, same
from faregate.core.ids import uuid7
from faregate.core.people import ROLES, Person, Role, SigningKey, StoredPassword
from faregate.ports import Clock

NAME: Final = "faregate"
"""`iss` and `aud` of our own tokens."""
LASTS_S: Final = 3_600
LEEWAY_S: Final = 30
"""How far another clock may be off; our own tokens have none."""
MAX_TOKEN: Final = 16_384
"""Characters: providers write groups and roles into theirs."""
_OWN_KID = "fg-"
_SECOND_US = 1_000_000
_DAY_US = 86_400 * _SECOND_US
RENEW_US: Final = 30 * _DAY_US
"""How long a key of ours signs; it verifies until its last token has ended."""
_DROP_US = RENEW_US + (LASTS_S + 3_600) * _SECOND_US
_NOTED_US = 60 * _SECOND_US
"""How exactly an app password's last use is kept."""
_FAR_S = 10**11


class PeopleStore(Protocol):
    """The book's side (ledger.people.People). Every method raises BookUnavailable."""

    async def password(self, password_id: str) -> StoredPassword | None: ...
    async def touch(self, password_id: str, used_us: int) -> None: ...
    async def known_as(self, subject: str, email: str | None) -> tuple[bool, Person | None]: ...
    async def signing_key(self, key_id: str) -> SigningKey | None: ...
    async def newest_signing_key(self) -> SigningKey | None: ...
    async def add_signing_key(self, key: SigningKey, *, renew_us: int, drop_us: int) -> SigningKey: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderFacts:
    """The operator's identity provider. `issuer` "": any; `roles_claim` "": roles are the memberships' alone."""

    fetch: Fetch
    audience: str
    issuer: str = ""
    roles_claim: str = ""
    timing: JwksTiming | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What an app password was exchanged for."""

    person: Person
    access_token: str
    expires_in_s: int


class Identity:
    """People at the front door. One per process."""

    def __init__(self, people: PeopleStore, clock: Clock, provider: ProviderFacts | None = None) -> None:
        self._people = people
        self._clock = clock
        self._provider = provider
        self._jose: Any = None
        self._jwks: Jwks | None = None

    async def person(self, presented: str) -> Person:
        """Who presents it. Raises InvalidApiKey, StoreUnavailable."""
        if presented.startswith(PREFIX):
            return (await self._password(presented))[1]
        if not 0 < len(presented) <= MAX_TOKEN or presented.count(".") != 2 or not presented.isascii():
            raise bad_token()
        jose = await self._loaded()
        kid: str = jose.key_id(presented)
        return await (self._own(presented, kid) if kid.startswith(_OWN_KID) else self._foreign(presented, kid))

    async def login(self, token: str) -> Login:
        """An access token for an app password. Raises InvalidApiKey, BookUnavailable."""
        stored, person = await self._password(token)
        now_s = self._clock.now_us() // _SECOND_US
        lasts_s = LASTS_S
        if stored.expires_us is not None:
            lasts_s = max(1, min(LASTS_S, stored.expires_us // _SECOND_US - now_s))
        key = await self._signing_key()
        claims = {
            "iss": NAME,
            "aud": NAME,
            "sub": person.id,
            "email": person.email,
            "apw": stored.id,
            "iat": now_s,
            "exp": now_s + lasts_s,
            "jti": secrets.token_hex(8),
        }
        access_token: str = (await self._loaded()).sign(claims, key.secret, key.id)
        return Login(person=person, access_token=access_token, expires_in_s=lasts_s)

    # App passwords --------------------------------------------------------------------------------------

    async def _password(self, token: str) -> tuple[StoredPassword, Person]:
        if len(token) > MAX_PRESENTED:
            raise bad_token()
        stored = await self._people.password(password_id(token))
        if stored is None or not same(hash_secret(token), stored.secret_hash):
            raise bad_token()
        return stored, await self._admitted(stored)

    async def _admitted(self, stored: StoredPassword) -> Person:
        """Whose it is, unless it has ended; its use is noted now and then."""
        now_us = self._clock.now_us()
        if stored.revoked or stored.person is None or (stored.expires_us is not None and now_us >= stored.expires_us):
            raise bad_token()
        if stored.last_used_us is None or now_us - stored.last_used_us >= _NOTED_US:
            await self._people.touch(stored.id, now_us)
        return stored.person

    # Tokens ---------------------------------------------------------------------------------------------

    async def _own(self, token: str, kid: str) -> Person:
        key = await self._verifying_key(kid)
        if key is None:
            raise bad_token()
        claims = self._jose.read_own(token, key.secret, name=NAME)
        self._check_moments(claims, 0)
        stored = await self._people.password(str(claims.get("apw")))
        if stored is None or stored.person is None or stored.person.id != claims.get("sub"):
            raise bad_token()
        return await self._admitted(stored)

    async def _foreign(self, token: str, kid: str) -> Person:
        provider = self._provider
        if provider is None:
            raise bad_token()
        key = await self._key_set(provider).key(kid)
        if key is None:
            raise bad_token()
        claims = self._jose.read_foreign(token, key, audience=provider.audience, issuer=provider.issuer)
        self._check_moments(claims, LEEWAY_S)
        return await self._person_of(claims, provider.roles_claim)

    async def _person_of(self, claims: Mapping[str, Any], roles_claim: str) -> Person:
        subject, email = claims.get("sub"), claims.get("email")
        if not isinstance(subject, str) or not 0 < len(subject) <= 255:
            raise bad_token()
        if not isinstance(email, str) or not 0 < len(email) <= 320 or claims.get("email_verified") is False:
            email = None  # One that anybody may have typed in is nobody's.
        email = None if email is None else email.strip().lower()
        known, found = await self._people.known_as(subject, email)
        if found is None and (known or not roles_claim):
            raise bad_token()
        if not roles_claim and found is not None:
            return found
        role = role_in(claims, roles_claim)
        if found is None:
            return Person(id=None, uuid=None, email=email or subject, home=None, claimed=role)
        standings = tuple(replace(one, role=role) for one in found.standings) if role is not None else ()
        return replace(found, standings=standings, claimed=role)

    def _check_moments(self, claims: Mapping[str, Any], leeway_s: int) -> None:
        """`exp` must be there; `nbf` and `iat`, if they are, must have come."""
        now_s = self._clock.now_us() / _SECOND_US
        if now_s >= _seconds(claims.get("exp")) + leeway_s:
            raise bad_token()
        for name in ("nbf", "iat"):
            if claims.get(name) is not None and _seconds(claims[name]) > now_s + leeway_s + 1:
                raise bad_token()

    # Keys -----------------------------------------------------------------------------------------------

    async def _signing_key(self) -> SigningKey:
        """The newest, or a new one for all when that has signed long enough."""
        now_us = self._clock.now_us()
        newest = await self._people.newest_signing_key()
        if newest is not None and newest.created_us > now_us - RENEW_US:
            return newest
        made = SigningKey(id=f"{_OWN_KID}{uuid7().hex}", secret=secrets.token_hex(32), created_us=now_us)
        return await self._people.add_signing_key(made, renew_us=now_us - RENEW_US, drop_us=now_us - _DROP_US)

    async def _verifying_key(self, kid: str) -> SigningKey | None:
        """Read each time: a key that is deleted from the book verifies nothing from then on."""
        key = await self._people.signing_key(kid)
        return key if key is not None and key.created_us > self._clock.now_us() - _DROP_US else None

    def _key_set(self, provider: ProviderFacts) -> Jwks:
        if self._jwks is None:
            self._jwks = Jwks(provider.fetch, self._jose.read_keys, self._clock, provider.timing)
        return self._jwks

    async def _loaded(self) -> Any:
        if self._jose is None:
            self._jose = await asyncio.to_thread(import_module, "faregate.auth.jose")
        return self._jose


def role_in(claims: Mapping[str, Any], name: str) -> Role | None:
    """The strongest of our roles in a claim: a text (by spaces or commas) or a list; None: there is none.

    `name` is a claim's, or a path of claims with dots between them (`realm_access.roles`).
    """
    found: Any = claims.get(name)
    if found is None:
        found = claims
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    said: Iterable[object] = found.replace(",", " ").split() if isinstance(found, str) else found or ()
    words = {word for word in said if isinstance(word, str)} if isinstance(said, list | tuple) else set[str]()
    return next((role for role in ROLES if role in words), None)


def _seconds(value: object) -> float:
    """A NumericDate. Raises InvalidApiKey: NaN compares with nothing, and would never end."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _FAR_S:
        raise bad_token()
    return value
