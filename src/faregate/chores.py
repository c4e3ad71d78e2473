"""What has to be done now and then, by one process for all: credits that come and go by themselves, keys that expire,
months of usage that begin.

Nothing waits for it: whoever touches an account books what is due on it first. This does it for those nobody touches,
at most one interval late, and tells Redis.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from faregate.core.call import Hold, Snapshot, bucket_of
from faregate.errors import BookRefused, BookUnavailable, StoreUnavailable
from faregate.ledger.queries import Ledger

log = logging.getLogger("faregate")

_BATCH = 200
_MONTHS_EVERY_US = 3_600_000_000
_LEASES = 3
"""A lease is this many intervals: when its holder dies, another goes on after them."""


class Settles(Protocol):
    """The part of ports.Gate that is used here."""

    async def settle(self, hold: Hold | None, snapshot: Snapshot, bucket: int) -> None: ...


class Chores:
    """One process's share. `name` is unique to it."""

    def __init__(self, ledger: Ledger, gate: Settles, *, name: str, every_s: float = 5.0) -> None:
        self._ledger = ledger
        self._gate = gate
        self._name = name
        self._every_s = every_s
        self._months_us = 0

    async def run(self) -> None:
        """For the life of the process."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.grants()
                await self.keys()
                await self.months()
            except BookUnavailable as error:
                log.info("chores wait for the book: %s", error)

    async def grants(self) -> int:
        """Book every grant that has started or ended by now. On how many accounts."""
        done, after = 0, (0, "")
        while due := await self._ledger.accounts.due(after=after, limit=_BATCH):
            if not await self._mine("grants"):
                return done
            for account in due:
                done += await self._book(account.id, account.organization_id)
            after = (due[-1].until_us, due[-1].id)
        return done

    async def _book(self, account_id: str, organization_id: str) -> bool:
        try:
            snapshot = await self._ledger.book.apply_due_grants(account_id)
            await self._gate.settle(None, snapshot, bucket_of(organization_id))
        except BookRefused:
            log.exception("what is due on %s cannot be booked", account_id)
            return False
        except BookUnavailable:
            raise
        except StoreUnavailable as error:  # It asks again itself: it knows until when its copy is fresh.
            log.info("a grant of %s is booked, and not yet known to Redis: %s", account_id, error)
        return True

    async def keys(self) -> int:
        """Delete idempotency keys that have expired. How many."""
        if not await self._ledger.idempotency.any_expired() or not await self._mine("keys"):
            return 0
        return await self._ledger.idempotency.purge()

    async def months(self) -> int:
        """Make the tables of months that are near. How many. Asked once an hour, again at once when it failed."""
        now_us = self._ledger.database.now_us()
        if now_us < self._months_us:
            return 0
        made = 0
        if await self._ledger.partitions.wanted():
            if not await self._mine("months"):
                return 0
            made = await self._ledger.partitions.make()
        self._months_us = now_us + _MONTHS_EVERY_US
        return made

    async def _mine(self, what: str) -> bool:
        return await self._ledger.leases.take(what, self._name, int(_LEASES * self._every_s * 1_000_000))
