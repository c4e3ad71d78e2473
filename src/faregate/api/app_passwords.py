"""App passwords: a user's own at `/api/auth/app-passwords`, and any user's at `/v1/admin/users/{id}/app-passwords`.

A token is shown once, when it is made; the book keeps its hash.
"""

from __future__ import annotations

from faregate.api.admin import change, page_of
from faregate.api.describe import CURSOR, TEXT, described, many, success, with_fields
from faregate.api.fields import Limit, Moment, Name, expiry
from faregate.api.http import Body, Reply, Request, created, ok
from faregate.api.people import PASSWORD, changeable, password_json
from faregate.api.services import Services
from faregate.api.tenancy import Reference
from faregate.auth.app_tokens import make
from faregate.errors import PermissionDenied
from faregate.ledger.app_passwords import NewAppPassword


class NewPassword(Body):
    """POST …/app-passwords."""

    name: Name = "app password"
    expires_at: Moment | None = None


class PasswordsQuery(Body):
    """GET …/app-passwords."""

    limit: Limit = 100
    cursor: Reference | None = None


# A user's own -------------------------------------------------------------------------------------------


@described(
    body=NewPassword,
    status=201,
    answer=success(appPassword=with_fields(PASSWORD, optional={"token": TEXT})),
    rules="expiresAt lies in the future",
)
async def create_own(services: Services, request: Request) -> Reply:
    """A new one for who is logged in."""
    return await _create(services, request, _me(request))


@described(
    query=PasswordsQuery,
    answer=success(appPasswords=many(PASSWORD), nextCursor=CURSOR),
    rules="a cursor is of an earlier page",
)
async def list_own(services: Services, request: Request) -> Reply:
    """Revoked ones included; never a token."""
    return await _list(services, request, _me(request))


@described(answer=success(appPassword=PASSWORD))
async def revoke_own(services: Services, request: Request) -> Reply:
    """It, and what it was exchanged for, stops at its next request."""
    return await _revoke(services, request, _me(request), request.path_params["id"])


def _me(request: Request) -> str:
    if request.person.id is None:
        raise PermissionDenied("the identity provider knows you, but this installation has no such user")
    return request.person.id


# An administrator's -------------------------------------------------------------------------------------


@described(
    body=NewPassword,
    status=201,
    answer=success(appPassword=with_fields(PASSWORD, optional={"token": TEXT})),
    rules="expiresAt lies in the future",
)
async def create(services: Services, request: Request) -> Reply:
    """A new one for a user."""
    return await _create(services, request, await _user(services, request))


@described(
    query=PasswordsQuery,
    answer=success(appPasswords=many(PASSWORD), nextCursor=CURSOR),
    rules="a cursor is of an earlier page",
)
async def list_all(services: Services, request: Request) -> Reply:
    """A user's, revoked ones included; never a token."""
    return await _list(services, request, await _user(services, request))


@described(answer=success(appPassword=PASSWORD))
async def get(services: Services, request: Request) -> Reply:
    """One of a user's."""
    user_id = await _user(services, request)
    password = await services.ledger.app_passwords.get(request.path_params["passwordId"], user_id=user_id)
    return ok(appPassword=password_json(password))


@described(answer=success(appPassword=PASSWORD))
async def revoke(services: Services, request: Request) -> Reply:
    """Stops at its next request."""
    return await _revoke(services, request, await _user(services, request), request.path_params["passwordId"])


async def _user(services: Services, request: Request) -> str:
    """Whoever has a user's app password is that user: only who may change the user gets at them."""
    return (await changeable(services, request, request.path_params["id"])).id


# Both ---------------------------------------------------------------------------------------------------


async def _create(services: Services, request: Request, user_id: str) -> Reply:
    body = request.body(NewPassword) if request.raw_body else NewPassword()
    made = make()
    new = NewAppPassword(
        id=made.id,
        secret_hash=made.secret_hash,
        user_id=user_id,
        name=body.name,
        expires_us=expiry(services.clock.now_us(), body.expires_at),
    )
    by = change(request, "app_passwords.create", userId=user_id, name=body.name)
    stored = await services.ledger.app_passwords.create(new, by=by)
    return created(appPassword={**password_json(stored), "token": made.token})


async def _list(services: Services, request: Request, user_id: str) -> Reply:
    query = request.params(PasswordsQuery)
    found = await services.ledger.app_passwords.list(user_id=user_id, limit=query.limit + 1, after=query.cursor)
    page, cursor = page_of(found, query.limit, lambda password: password.id)
    return ok(appPasswords=[password_json(password) for password in page], nextCursor=cursor)


async def _revoke(services: Services, request: Request, user_id: str, password_id: str) -> Reply:
    by = change(request, "app_passwords.revoke", userId=user_id)
    return ok(
        appPassword=password_json(await services.ledger.app_passwords.revoke(password_id, user_id=user_id, by=by))
    )
