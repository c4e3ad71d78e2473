"""What the administration's handlers share: lists by cursor, the audit trail, and changes that must reach Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from faregate.api.fields import Limit
from faregate.api.http import Body, Request
from faregate.api.services import Services
from faregate.api.tenancy import Reference
from faregate.core.call import bucket_of
from faregate.errors import StoreUnavailable
from faregate.ledger.admin_audit import Change
from faregate.ledger.keys import KeyInfo

T = TypeVar("T")
_AT_ONCE = 200


class CursorQuery(Body):
    """A page of a list, from where the last one ended."""

    limit: Limit = 100
    cursor: Reference | None = None
    organization_id: Reference | None = None


def page_of(found: Sequence[T], limit: int, name: Callable[[T], str]) -> tuple[Sequence[T], str | None]:
    """Of `limit` + 1 items read: those of the page, and the cursor of the next."""
    if len(found) <= limit:
        return found, None
    return found[:limit], name(found[limit - 1])


def change(request: Request, what: str, **detail: object) -> Change:
    """The line of the audit trail that a change leaves, in its own transaction: which fields; never a secret."""
    who = request.person.who if request.caller is None else request.caller.key_id
    return Change(who=who, what=what, detail={**detail, "requestId": request.request_id})


async def spread(services: Services, keys: Iterable[KeyInfo]) -> None:
    """Tell Redis the keys' revs, so that what the book says holds everywhere at the next call.

    Raises StoreUnavailable: the book has the change, Redis not yet. Repeating the request repeats this.
    """
    waiting = list(keys)
    try:
        while waiting:
            some, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
            await asyncio.gather(
                *(services.gate.set_rev(bucket_of(key.organization_id), key.id, key.rev) for key in some)
            )
    except StoreUnavailable:
        raise StoreUnavailable(
            "the change is in the book, but not yet in force everywhere: the credit store does not answer; "
            "repeat the request",
            retry_after_s=1,
        ) from None
