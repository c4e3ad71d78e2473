"""Which account a call is charged to: the one it names, within the key's organization, or the key's own.

An account's organization and ids never change, so what was found once stays true: names are kept in a bounded
cache, and only those that exist (a name may be given to a new account any moment).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from faregate.core.call import Principal
from faregate.errors import NotFound, PermissionDenied
from faregate.guard import book_guard
from faregate.ports import Clock

MAX_NAME = 200
"""Characters of an account's id or external id. Longer ones exist nowhere."""


class Named(Protocol):
    """An account, as far as this file cares."""

    @property
    def id(self) -> str: ...


class AccountStore(Protocol):
    """The book's side of accounts."""

    async def get(self, organization_id: str, reference: str) -> Named:
        """By id or external id, within one organization. Raises NotFound, BookUnavailable."""
        ...


class AccountResolver:
    """`ports.Accounts` over the book, with the last `size` names in memory."""

    def __init__(self, store: AccountStore, clock: Clock, *, size: int = 50_000, wait_s: float = 2.0) -> None:
        self._store = store
        self.guard = book_guard(clock, wait_s, "the account cannot be looked up now")
        self._size = size
        self._known: OrderedDict[tuple[str, str], str] = OrderedDict()

    async def resolve(self, principal: Principal, named: str | None) -> str:
        """The id of the account `named` (id or external id), or the key's own.

        Raises PermissionDenied (the key is bound to another account), NotFound, BookUnavailable.
        """
        bound = principal.account_id
        if not named:
            return bound or principal.default_account_id
        if named in (bound, principal.default_account_id) and bound in (None, named):
            return named
        try:
            found = await self._find(principal.organization_id, named)
        except NotFound:
            if bound is None:
                raise
            found = ""
        if bound not in (None, found):
            raise PermissionDenied("this key may act for one account only", param="x-faregate-account")
        return found

    async def _find(self, organization_id: str, named: str) -> str:
        if len(named) > MAX_NAME:
            raise NotFound("no such account", param="x-faregate-account")
        name = (organization_id, named)
        known = self._known.get(name)
        if known is not None:
            self._known.move_to_end(name)
            return known
        found = (await self.guard.run(lambda: self._store.get(organization_id, named))).id
        self._known[name] = found
        if len(self._known) > self._size:
            self._known.popitem(last=False)
        return found
