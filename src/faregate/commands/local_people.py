"""Users, memberships and services on the data directory: the bootstrap key's reach, the API's checks and shapes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faregate.api.admin_memberships import NewMembership, membership_json
from faregate.api.admin_services import NewService, service_json
from faregate.api.admin_users import NewUser, check_subject
from faregate.api.http import validated
from faregate.api.people import user_json
from faregate.errors import Conflict
from faregate.ledger.admin_audit import Change
from faregate.ledger.organizations import BOOTSTRAP_ORGANIZATION_ID
from faregate.ledger.queries import Ledger
from faregate.ledger.users import INSTALLATION

_PAGE = 500


@dataclass(frozen=True, slots=True)
class LocalPeople:
    """What `local.LocalDesk` does with them."""

    ledger: Ledger
    who: str

    async def create(self, kind: str, body: Mapping[str, Any]) -> Any:
        given = {name: value for name, value in body.items() if value is not None}
        makers = {"users": self._user, "memberships": self._membership, "services": self._service}
        return await makers[kind](given)

    async def list(self, kind: str, organization: str | None) -> Sequence[Any]:
        whose = None if organization is None else (await self.ledger.organizations.get(organization)).id
        if kind == "users":
            users = self.ledger.users
            return await _all(lambda after: users.list(seen_by=whose, limit=_PAGE, after=after), user_json)
        if kind == "services":
            services = self.ledger.services
            return await _all(lambda after: services.list(home=whose, limit=_PAGE, after=after), service_json)
        members = self.ledger.memberships
        return await _all(lambda after: members.list(organization_id=whose, limit=_PAGE, after=after), membership_json)

    async def _user(self, given: Mapping[str, Any]) -> Any:
        body = validated(NewUser, given)
        home = await self._home(body.organization_id)
        if body.subject is not None:
            check_subject(home)
        by = Change(who=self.who, what="users.create", detail={"email": body.email})
        made = await self.ledger.users.create(home=home, email=body.email, name=body.name, subject=body.subject, by=by)
        return user_json(made)

    async def _service(self, given: Mapping[str, Any]) -> Any:
        body = validated(NewService, given)
        by = Change(who=self.who, what="services.create", detail={"name": body.name})
        home = await self._home(body.organization_id)
        return service_json(await self.ledger.services.create(home=home, name=body.name, by=by))

    async def _membership(self, given: Mapping[str, Any]) -> Any:
        body = validated(NewMembership, given)
        organization = await self.ledger.organizations.get(body.organization_id or BOOTSTRAP_ORGANIZATION_ID)
        user = await self.ledger.users.get(body.user_id)
        if user.home not in (INSTALLATION, organization.id):
            raise Conflict("this user belongs to another organization", param="userId")
        detail = {"userId": user.id, "role": body.role, "active": body.active}
        by = Change(who=self.who, what="memberships.create", detail=detail)
        made = await self.ledger.memberships.create(
            user_id=user.id, organization_id=organization.id, role=body.role, active=body.active, by=by
        )
        return membership_json(made)

    async def _home(self, organization: str | None) -> str:
        return INSTALLATION if organization is None else (await self.ledger.organizations.get(organization)).id


async def _all(page: Callable[[str | None], Awaitable[Sequence[Any]]], shape: Callable[[Any], Any]) -> Sequence[Any]:
    found: list[Any] = []
    while True:
        more = await page(found[-1].id if found else None)
        found += more
        if len(more) < _PAGE:
            return [shape(one) for one in found]
