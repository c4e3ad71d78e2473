"""The whole book behind one door: what `app.py` opens and everybody else is given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal

from faregate.core.metering import Metered
from faregate.ledger.accounts import Accounts
from faregate.ledger.admin_audit import AdminAudit
from faregate.ledger.app_passwords import AppPasswords
from faregate.ledger.audit import Finding, audit
from faregate.ledger.book import SqlBook
from faregate.ledger.database import Database
from faregate.ledger.engine import wall_us
from faregate.ledger.idempotency import Idempotency
from faregate.ledger.ingested import Ingested
from faregate.ledger.keys import ApiKeys
from faregate.ledger.leases import Leases
from faregate.ledger.memberships import Memberships
from faregate.ledger.organizations import Bootstrap, Organizations
from faregate.ledger.partitions import Partitions
from faregate.ledger.people import People
from faregate.ledger.plans import Plans
from faregate.ledger.prices import Prices
from faregate.ledger.registry import ServiceRegistry
from faregate.ledger.reservations import Reservations
from faregate.ledger.service_usage import ServiceUsage
from faregate.ledger.summary import Summaries
from faregate.ledger.transactions import Transactions
from faregate.ledger.usage import UsageRecords
from faregate.ledger.users import Users


class Ledger:
    """One process's book. Open it after forking, on a database that `schema.prepare` has brought up."""

    def __init__(
        self,
        database_url: str,
        *,
        now_us: Callable[[], int] = wall_us,
        clerk: str | None = None,
        metered: Metered = "off",
    ) -> None:
        """`clerk`, `metered`: as in Database."""
        self.database = Database(database_url, now_us=now_us, clerk=clerk, metered=metered)
        self.book = SqlBook(self.database)
        self.accounts = Accounts(self.database)
        self.organizations = Organizations(self.database)
        self.idempotency = Idempotency(self.database)
        self.keys = ApiKeys(self.database)
        self.prices = Prices(self.database)
        self.reservations = Reservations(self.database)
        self.leases = Leases(self.database)
        self.partitions = Partitions(self.database)
        self.plans = Plans(self.database)
        self.transactions = Transactions(self.database)
        self.usage = UsageRecords(self.database)
        self.ingested = Ingested(self.database)
        self.summaries = Summaries(self.database)
        self.admin_audit = AdminAudit(self.database)
        self.users = Users(self.database)
        self.memberships = Memberships(self.database)
        self.app_passwords = AppPasswords(self.database)
        self.people = People(self.database)
        self.services = ServiceRegistry(self.database)
        self.service_usage = ServiceUsage(self.database)

    async def bootstrap(self, admin_hash: str | None, *, credits_per_usd: Decimal = Decimal(1000)) -> Bootstrap:
        """The bootstrap organization, its account and its admin key's hash; repeatable."""
        return await self.organizations.bootstrap(admin_hash, credits_per_usd=credits_per_usd)

    async def audit(self) -> list[Finding]:
        """Recompute G4; empty is good. Runs beside traffic."""
        return await asyncio.to_thread(audit, self.database.url)

    async def close(self) -> None:
        """Finish what is queued."""
        await self.database.close()
