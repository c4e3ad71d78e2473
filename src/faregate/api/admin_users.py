"""Users: `/v1/admin/users…`. A key makes its organization's own, the bootstrap key the installation's."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from faregate.api.admin import CursorQuery, change, page_of
from faregate.api.describe import CURSOR, described, many, success
from faregate.api.fields import NO_NUL, Name
from faregate.api.http import Body, Reply, Request, created, ok
from faregate.api.people import USER, changeable, reach, user_json
from faregate.api.services import Services
from faregate.api.tenancy import Reference, organization_of
from faregate.errors import InvalidRequest, PermissionDenied
from faregate.ledger.users import INSTALLATION


def _email(value: str) -> str:
    email = value.strip().lower()
    local, _, domain = email.rpartition("@")
    if not local or not domain or any(letter.isspace() or not letter.isprintable() for letter in email):
        raise ValueError("must be an email address")
    return email


Email = Annotated[str, Field(min_length=3, max_length=320, pattern=NO_NUL), AfterValidator(_email)]
Subject = Annotated[str, Field(min_length=1, max_length=255, pattern=NO_NUL)]


class NewUser(Body):
    """POST /v1/admin/users."""

    email: Email
    name: Name | None = None
    organization_id: Reference | None = None
    subject: Subject | None = None


class UserPatch(Body):
    """PATCH /v1/admin/users/{id}. null lifts name and subject."""

    email: Email | None = None
    name: Name | None = None
    subject: Subject | None = None
    active: bool | None = None


@described(
    body=NewUser,
    status=201,
    answer=success(user=USER),
    rules="what is patched changes something; who and what is named exists and may be changed by this key",
)
async def create(services: Services, request: Request) -> Reply:
    """A new user, without any membership."""
    body, principal = request.body(NewUser), request.principal
    home = INSTALLATION
    if body.organization_id is not None or not principal.above_organizations:
        home = await organization_of(services, principal, body.organization_id)
    if body.subject is not None:
        check_subject(home)
    by = change(request, "users.create", email=body.email)
    user = await services.ledger.users.create(home=home, email=body.email, name=body.name, subject=body.subject, by=by)
    return created(user=user_json(user))


@described(query=CursorQuery, answer=success(users=many(USER), nextCursor=CURSOR))
async def list_all(services: Services, request: Request) -> Reply:
    """An organization's own users and its members; the bootstrap key sees all unless it names one."""
    query, principal = request.params(CursorQuery), request.principal
    seen_by = reach(principal)
    if query.organization_id is not None:
        seen_by = await organization_of(services, principal, query.organization_id)
    found = await services.ledger.users.list(seen_by=seen_by, limit=query.limit + 1, after=query.cursor)
    page, cursor = page_of(found, query.limit, lambda user: user.id)
    return ok(users=[user_json(user) for user in page], nextCursor=cursor)


@described(answer=success(user=USER))
async def get(services: Services, request: Request) -> Reply:
    """By id or uuid."""
    user = await services.ledger.users.get(request.path_params["id"], seen_by=reach(request.principal))
    return ok(user=user_json(user))


@described(
    body=UserPatch,
    answer=success(user=USER),
    rules="what is patched changes something; who and what is named exists and may be changed by this key",
)
async def patch(services: Services, request: Request) -> Reply:
    """A user that is not active is nobody from the next request on."""
    user = await changeable(services, request, request.path_params["id"])
    changes = _changes(request.body(UserPatch), user.home)
    by = change(request, "users.patch", fields=sorted(changes))
    return ok(user=user_json(await services.ledger.users.patch(user.id, changes, by=by)))


@described(answer=success(user=USER))
async def delete(services: Services, request: Request) -> Reply:
    """With memberships and app passwords. What was billed stays."""
    user = await changeable(services, request, request.path_params["id"])
    return ok(user=user_json(await services.ledger.users.delete(user.id, by=change(request, "users.delete"))))


def _changes(body: UserPatch, home: str) -> dict[str, object]:
    changes: dict[str, object] = {name: getattr(body, name) for name in body.model_fields_set}
    for name in ("email", "active"):
        if name in changes and changes[name] is None:
            raise InvalidRequest(f"{name} cannot be null", param=name)
    if changes.get("subject") is not None:
        check_subject(home)
    if not changes:
        raise InvalidRequest("nothing to change")
    return changes


def check_subject(home: str) -> None:
    """Raises PermissionDenied. The identity provider is the operator's: it knows the installation's users."""
    if home != INSTALLATION:
        raise PermissionDenied("the identity provider knows the installation's users only", param="subject")
