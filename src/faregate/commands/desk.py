"""Where a command works: on the data directory, or, with --url and --key, on a server. Both speak the API's JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from faregate.commands.local import LocalDesk, opened
from faregate.commands.remote import Api, RemoteDesk
from faregate.errors import ConfigError
from faregate.settings import load

Row = Mapping[str, Any]


class Desk(Protocol):
    """What commands ask for. Amounts are credits (Decimal), moments ISO 8601 text; None in a body means left out."""

    async def create_key(self, body: Row) -> tuple[Row, str]:
        """The key and its secret, which is never shown again."""
        ...

    async def keys(self, organization: str | None) -> Sequence[Row]: ...

    async def rotate_key(self, key_id: str) -> tuple[Row, str]: ...

    async def revoke_key(self, key_id: str) -> None: ...

    async def create_account(self, body: Row) -> Row: ...

    async def accounts(self, organization: str | None) -> Sequence[Row]: ...

    async def account(self, organization: str | None, reference: str) -> Row:
        """With what is reserved and available, when Redis can say."""
        ...

    async def balance(self, organization: str | None, reference: str, at: str | None) -> Row:
        """What is there now, or what was at a past moment."""
        ...

    async def create_plan(self, body: Row) -> Row: ...

    async def plans(self, organization: str | None) -> Sequence[Row]: ...

    async def archive_plan(self, organization: str | None, plan_id: str) -> Row: ...

    async def assign_plan(self, organization: str | None, reference: str, body: Row) -> Row: ...

    async def grant(self, organization: str | None, reference: str, body: Row) -> Row: ...

    async def reserve(self, organization: str | None, reference: str, body: Row) -> Row: ...

    async def reservations(self, organization: str | None, query: Row) -> Sequence[Row]: ...

    async def end_reservation(self, organization: str | None, verb: str, body: Row) -> Row:
        """`verb` is confirm, cancel or extend; the body is the API's."""
        ...

    async def create_person(self, kind: str, body: Row) -> Row:
        """`kind` is users, memberships or services; the body is the API's."""
        ...

    async def people(self, kind: str, organization: str | None) -> Sequence[Row]: ...

    async def prices(self, organization: str | None) -> Sequence[Row]:
        """Cards that were made over the API: an organization's, or (None) all."""
        ...

    async def usage(self, query: Row) -> Sequence[Row]: ...

    async def usage_page(self, query: Row, cursor: str | None) -> tuple[Sequence[Row], str | None]:
        """One organization's records as the API's list shows them, newest first, and where the next page begins."""
        ...

    async def usage_summary(self, query: Row) -> Row: ...

    async def holds(self) -> Sequence[Row]: ...


@asynccontextmanager
async def desk(config: Path | None, url: str | None, key: str | None, *, create: bool = False) -> AsyncIterator[Desk]:
    """The desk that the options name. `create`: a data directory without a book gets one."""
    if (url is None) != (key is None):
        raise ConfigError("--url and --key go together")
    if url is not None and key is not None:
        yield RemoteDesk(Api(url, key))
        return
    async with opened(load(config), create=create) as book:
        yield LocalDesk(book)
