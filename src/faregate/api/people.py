"""Who calls by a token: the person, and what is visible to whom in `users`, `memberships` and `services`.

A user belongs to the organization whose key made them, or to the installation when the bootstrap key did. Only the
installation's users can be members of several organizations; for an organization's own nothing else exists.
"""

from __future__ import annotations

from collections.abc import Mapping

from faregate.api.describe import FLAG, MOMENT, TEXT, maybe, named, obj
from faregate.api.fields import iso
from faregate.api.http import Request
from faregate.api.services import Services
from faregate.core.call import Principal
from faregate.errors import PermissionDenied
from faregate.ledger.app_passwords import AppPassword
from faregate.ledger.users import User


def reach(principal: Principal) -> str | None:
    """The organization whose people a key may see; None: all."""
    return None if principal.above_organizations else principal.organization_id


async def changeable(services: Services, request: Request, reference: str) -> User:
    """A user that the key may change: its organization's own. Raises NotFound, PermissionDenied."""
    principal = request.principal
    user = await services.ledger.users.get(reference, seen_by=reach(principal))
    if user.home != principal.organization_id and not principal.above_organizations:
        raise PermissionDenied("this user is the installation's: only the bootstrap admin key may change them")
    return user


USER = named(
    "User",
    obj(
        id=TEXT,
        uuid=TEXT,
        organizationId=maybe(TEXT),
        email=TEXT,
        name=maybe(TEXT),
        subject=maybe(TEXT),
        active=FLAG,
        createdAt=MOMENT,
        updatedAt=MOMENT,
    ),
)
PASSWORD = named(
    "AppPassword",
    obj(
        id=TEXT,
        userId=TEXT,
        name=TEXT,
        expiresAt=maybe(MOMENT),
        revokedAt=maybe(MOMENT),
        lastUsedAt=maybe(MOMENT),
        createdAt=MOMENT,
    ),
)


def user_json(user: User) -> Mapping[str, object]:
    """The user as the API shows them."""
    return {
        "id": user.id,
        "uuid": user.uuid,
        "organizationId": user.home or None,
        "email": user.email,
        "name": user.name,
        "subject": user.subject,
        "active": user.active,
        "createdAt": iso(user.created_us),
        "updatedAt": iso(user.updated_us),
    }


def password_json(password: AppPassword) -> dict[str, object]:
    """The app password as the API shows it: never its token."""
    return {
        "id": password.id,
        "userId": password.user_id,
        "name": password.name,
        "expiresAt": iso(password.expires_us),
        "revokedAt": iso(password.revoked_us),
        "lastUsedAt": iso(password.last_used_us),
        "createdAt": iso(password.created_us),
    }
