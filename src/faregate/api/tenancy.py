"""Whose data a request is about: its organization, and the account it names. Others' do not exist."""

from __future__ import annotations

from typing import Annotated, Protocol

from pydantic import Field

from faregate.api.services import Services
from faregate.core.call import Principal
from faregate.errors import InvalidRequest, NotFound, PermissionDenied
from faregate.ledger.accounts import Account

Reference = Annotated[str, Field(min_length=1, max_length=200)]
"""An id of ours, or somebody's own."""


class NamesAccount(Protocol):
    """A body or query that may name an account."""

    @property
    def account_id(self) -> str | None: ...
    @property
    def external_id(self) -> str | None: ...


class NamesOrganization(NamesAccount, Protocol):
    """The same, and it may name an organization."""

    @property
    def organization_id(self) -> str | None: ...


async def organization_of(services: Services, principal: Principal, named: str | None) -> str:
    """The id of the organization a request is about: the key's own, or any other for the bootstrap key.

    Raises PermissionDenied for another's, whether it exists or not; NotFound only to the bootstrap key.
    """
    if named is None or named == principal.organization_id:
        return principal.organization_id
    try:
        found = (await services.ledger.organizations.get(named)).id
    except NotFound:
        if principal.above_organizations:
            raise
        found = ""
    if found != principal.organization_id and not principal.above_organizations:
        raise PermissionDenied("this key may not name another organization", param="organizationId")
    return found


async def organization_around(services: Services, principal: Principal, named: NamesOrganization) -> str:
    """The same for a request that may name an account: to the bootstrap key, which stands above organizations, an
    account's id says whose it is. An external id does not: two organizations may have it."""
    reference = named.account_id or named.external_id
    if principal.above_organizations and named.organization_id is None and reference is not None:
        home = await services.ledger.accounts.home(reference)
        if home is not None:
            return home
    return await organization_of(services, principal, named.organization_id)


async def account_of(services: Services, principal: Principal, organization_id: str, named: NamesAccount) -> Account:
    """The account that is named by id or external id. Raises InvalidRequest, NotFound, PermissionDenied."""
    found = await find_account(services, principal, organization_id, named)
    if found is None:
        raise InvalidRequest("accountId or externalId is required", param="accountId")
    return found


async def find_account(
    services: Services, principal: Principal, organization_id: str, named: NamesAccount
) -> Account | None:
    """The same; None when none is named, unless the key is bound to one: then that."""
    bound = principal.account_id
    reference = named.account_id or named.external_id or bound
    if reference is None:
        return None
    try:
        account = await services.ledger.accounts.get(organization_id, reference)
    except NotFound:
        if bound is None:
            raise
        raise _only_one() from None
    if bound not in (None, account.id):
        raise _only_one()
    if named.account_id and named.external_id and named.external_id not in (account.external_id, account.id):
        raise InvalidRequest("accountId and externalId name two accounts", param="externalId")
    return account


def _only_one() -> PermissionDenied:
    return PermissionDenied("this key may act for one account only", param="accountId")
