"""`POST /api/auth/app-login`: an app password for a token that lasts an hour, and who that is."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from faregate.api.describe import ANY_OBJECT, INTEGER, TEXT, described, many, maybe, obj
from faregate.api.http import Body, Reply, Request
from faregate.api.services import Services


class AppLogin(Body):
    """POST /api/auth/app-login."""

    token: Annotated[str, Field(min_length=1, max_length=4096)]


_ROLE = obj(id=TEXT, name=TEXT, role=TEXT)
_LOGIN = obj(
    email=TEXT,
    accessToken=TEXT,
    expiresIn=INTEGER,
    organizationsRoles=many(_ROLE),
    defaultOrganization=maybe(TEXT),
)


@described(body=AppLogin, answer=_LOGIN, error=ANY_OBJECT, example={"token": "app password"})
async def login(services: Services, request: Request) -> Reply:
    """Raises InvalidApiKey for a token that is unknown, revoked or expired, or whose user is not active."""
    done = await services.identity.login(request.body(AppLogin).token)
    person = done.person
    roles = [
        {"id": standing.organization_id, "name": standing.organization_name, "role": standing.role}
        for standing in person.standings
    ]
    answer = {
        "email": person.email,
        "accessToken": done.access_token,
        "expiresIn": done.expires_in_s,
        "organizationsRoles": roles,
        "defaultOrganization": roles[0]["id"] if roles else None,
    }
    return Reply(body=answer)
