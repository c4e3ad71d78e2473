"""Who calls, and may they: a key, checked against the book at every control-plane request, and its scopes.

A call takes a hold, which compares the key's `rev`; most requests here take none. So the key is read from the book
each time (well under a millisecond): a revoked key stops at its next request, whatever this process has cached.
While the book is away a cached key goes on, as nothing can be revoked without it.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from faregate.api.services import Services
from faregate.auth.keys import bad_key
from faregate.auth.scopes import Scope
from faregate.core.call import Principal
from faregate.core.people import Person
from faregate.errors import BookUnavailable, InvalidApiKey, PermissionDenied


async def authenticate(services: Services, secret: str, scopes: Collection[Scope]) -> Principal:
    """The principal of a presented key with at least one of `scopes`. Raises InvalidApiKey, PermissionDenied."""
    principal = await services.keys.authenticate(secret)
    with suppress(BookUnavailable):
        stored = await services.ledger.keys.by_id(principal.key_id)
        if stored is None or stored.revoked:
            raise bad_key()
        if stored.rev != principal.rev:
            principal = await services.keys.refresh(principal)
    require_any(principal, scopes)
    if "admin" in scopes:
        require_organization_wide(principal)
    return principal


async def authenticate_person(services: Services, presented: str) -> Person:
    """Whose app password or token it is. Raises InvalidApiKey, and PermissionDenied for a key that is good."""
    try:
        return await services.identity.person(presented)
    except InvalidApiKey:
        await services.keys.authenticate(presented)  # Raises the same for what is no key either.
    raise PermissionDenied("this is a user's to ask: keys have no role, log in with an app password")


def require_any(principal: Principal, scopes: Collection[Scope]) -> None:
    """Raises PermissionDenied, naming what would do, unless the key has one of the scopes."""
    if not principal.scopes.intersection(scopes):
        wanted = " or ".join(repr(scope) for scope in scopes)
        raise PermissionDenied(f"this key lacks the scope {wanted}")


def require_organization_wide(principal: Principal) -> None:
    """Raises PermissionDenied for a key that is bound to one account."""
    if principal.account_id is not None:
        raise PermissionDenied("a key bound to one account may not act for its organization")


def require_bootstrap(principal: Principal) -> None:
    """Raises PermissionDenied unless it is the bootstrap admin key."""
    if not principal.above_organizations:
        raise PermissionDenied("only the bootstrap admin key stands above organizations")


def require_live(principal: Principal) -> None:
    """Raises PermissionDenied for a test key: it never touches real credits."""
    if principal.test:
        raise PermissionDenied("a test key cannot move credits")
