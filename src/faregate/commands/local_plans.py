"""Plans on the data directory, beside a server or without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from faregate.clock import SystemClock
from faregate.commands.shapes import assignment_json, plan_json
from faregate.core.call import Snapshot
from faregate.core.money import parse_credits
from faregate.core.periods import Interval
from faregate.errors import InvalidRequest
from faregate.ledger.accounts import Account
from faregate.ledger.plans import Plan
from faregate.ledger.queries import Ledger

_PAGE = 500


@dataclass(frozen=True, slots=True)
class LocalPlans:
    """What `local.LocalDesk` does with them."""

    ledger: Ledger

    async def create(self, organization_id: str, body: Mapping[str, Any]) -> Any:
        interval: Interval = body["interval"]
        if interval not in get_args(Interval):
            raise InvalidRequest(f"the interval must be one of {', '.join(get_args(Interval))}", param="interval")
        plan = await self.ledger.plans.create(
            organization_id,
            name=body["name"],
            amount=parse_credits(body["amount"], "amount"),
            interval=interval,
            occurrences=body["occurrences"],
            accumulate=body["accumulate"],
            active=body["markAsActive"],
        )
        return plan_json(plan)

    async def list(self, organization_id: str) -> Sequence[Any]:
        found: list[Plan] = []
        while True:
            page = await self.ledger.plans.list(organization_id, limit=_PAGE, offset=len(found))
            found += page.items
            if not page.has_more:
                return [plan_json(plan) for plan in found]

    async def archive(self, organization_id: str, plan_id: str) -> Any:
        return plan_json(await self.ledger.plans.set_active(organization_id, plan_id, False))

    async def assign(self, account: Account, body: Mapping[str, Any]) -> tuple[Any, Snapshot]:
        """What was assigned, and what Redis should hear."""
        assignment, snapshot = await self.ledger.plans.assign(
            account.organization_id, account.id, body["planId"], body["startMode"]
        )
        return assignment_json(assignment, SystemClock().now_us()), snapshot
