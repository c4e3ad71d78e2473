"""Memberships: `/v1/admin/memberships…`: a user's role in an organization.

An organization's key changes those of its own users. Where the installation's users are concerned it may do the same,
but for superadmins: such a user may tell of every organization's usage, so only the bootstrap key makes or changes one.
"""

from __future__ import annotations

from collections.abc import Mapping

from faregate.api.admin import CursorQuery, change, page_of
from faregate.api.describe import CURSOR, FLAG, MOMENT, TEXT, described, many, named, obj, success
from faregate.api.fields import iso
from faregate.api.http import Body, Reply, Request, created, ok
from faregate.api.people import reach
from faregate.api.services import Services
from faregate.api.tenancy import Reference, organization_of
from faregate.core.people import Role
from faregate.errors import Conflict, InvalidRequest, PermissionDenied
from faregate.ledger.memberships import Membership
from faregate.ledger.users import INSTALLATION, User


class NewMembership(Body):
    """POST /v1/admin/memberships. `organizationId` unset: the key's own."""

    user_id: Reference
    organization_id: Reference | None = None
    role: Role
    active: bool = True


class MembershipPatch(Body):
    """PATCH /v1/admin/memberships/{id}."""

    role: Role | None = None
    active: bool | None = None


MEMBERSHIP = named(
    "Membership",
    obj(id=TEXT, userId=TEXT, organizationId=TEXT, role=TEXT, active=FLAG, createdAt=MOMENT, updatedAt=MOMENT),
)


@described(
    body=NewMembership,
    status=201,
    answer=success(membership=MEMBERSHIP),
    rules="what is patched changes something; who and what is named exists and may be changed by this key",
)
async def create(services: Services, request: Request) -> Reply:
    """A role for a user, by id or uuid."""
    body = request.body(NewMembership)
    organization_id = await organization_of(services, request.principal, body.organization_id)
    user = await services.ledger.users.get(body.user_id, seen_by=reach(request.principal))
    if user.home not in (INSTALLATION, organization_id):
        raise Conflict("this user belongs to another organization", param="userId")
    _check_superadmin(request, user, body.role)
    by = change(request, "memberships.create", userId=user.id, role=body.role, active=body.active)
    made = await services.ledger.memberships.create(
        user_id=user.id, organization_id=organization_id, role=body.role, active=body.active, by=by
    )
    return created(membership=membership_json(made))


@described(query=CursorQuery, answer=success(memberships=many(MEMBERSHIP), nextCursor=CURSOR))
async def list_all(services: Services, request: Request) -> Reply:
    """Oldest first; the bootstrap key sees those of all organizations unless it names one."""
    query, principal = request.params(CursorQuery), request.principal
    organization_id = reach(principal)
    if query.organization_id is not None:
        organization_id = await organization_of(services, principal, query.organization_id)
    found = await services.ledger.memberships.list(
        organization_id=organization_id, limit=query.limit + 1, after=query.cursor
    )
    page, cursor = page_of(found, query.limit, lambda membership: membership.id)
    return ok(memberships=[membership_json(membership) for membership in page], nextCursor=cursor)


@described(answer=success(membership=MEMBERSHIP))
async def get(services: Services, request: Request) -> Reply:
    """One membership."""
    return ok(membership=membership_json(await _own(services, request)))


@described(
    body=MembershipPatch,
    answer=success(membership=MEMBERSHIP),
    rules="what is patched changes something; who and what is named exists and may be changed by this key",
)
async def patch(services: Services, request: Request) -> Reply:
    """In force at the user's next request."""
    membership, body = await _own(services, request), request.body(MembershipPatch)
    changes: dict[str, object] = {name: getattr(body, name) for name in body.model_fields_set}
    null = next((name for name, value in changes.items() if value is None), None)
    if null is not None or not changes:
        raise InvalidRequest(f"{null} cannot be null" if null else "nothing to change", param=null)
    await _check_changeable(services, request, membership, body.role)
    by = change(request, "memberships.patch", userId=membership.user_id, **changes)
    return ok(membership=membership_json(await services.ledger.memberships.patch(membership.id, changes, by=by)))


@described(answer=success(membership=MEMBERSHIP))
async def delete(services: Services, request: Request) -> Reply:
    """The user is no member any more."""
    membership = await _own(services, request)
    await _check_changeable(services, request, membership, None)
    by = change(request, "memberships.delete", userId=membership.user_id, role=membership.role)
    return ok(membership=membership_json(await services.ledger.memberships.delete(membership.id, by=by)))


async def _own(services: Services, request: Request) -> Membership:
    return await services.ledger.memberships.get(request.path_params["id"], organization_id=reach(request.principal))


async def _check_changeable(services: Services, request: Request, membership: Membership, role: Role | None) -> None:
    user = await services.ledger.users.get(membership.user_id)
    for one in (membership.role, role):
        _check_superadmin(request, user, one)


def _check_superadmin(request: Request, user: User, role: Role | None) -> None:
    if role == "superadmin" and user.home == INSTALLATION and not request.principal.above_organizations:
        raise PermissionDenied(
            "this user is the installation's: only the bootstrap admin key makes or changes its superadmins",
            param="role",
        )


def membership_json(membership: Membership) -> Mapping[str, object]:
    """The membership as the API shows it."""
    return {
        "id": membership.id,
        "userId": membership.user_id,
        "organizationId": membership.organization_id,
        "role": membership.role,
        "active": membership.active,
        "createdAt": iso(membership.created_us),
        "updatedAt": iso(membership.updated_us),
    }
