"""Plans and who has which: `/v1/plans…`, `/v1/accounts/plans…`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from faregate.api.accounts import AccountQuery
from faregate.api.auth import require_live, require_organization_wide
from faregate.api.describe import (
    CREDITS,
    FLAG,
    INTEGER,
    MOMENT,
    PAGINATION,
    TEXT,
    choice,
    described,
    many,
    maybe,
    named,
    obj,
    success,
)
from faregate.api.fields import Amount, Limit, Name, Offset, iso, pagination
from faregate.api.http import Body, Reply, Request, ok
from faregate.api.money import told
from faregate.api.services import Services
from faregate.api.tenancy import Reference, account_of, organization_around, organization_of
from faregate.core.money import credits, parse_credits
from faregate.core.periods import Interval
from faregate.ledger.plans import Assignment, Plan

MAX_OCCURRENCES = 10_000


class PlansQuery(Body):
    """GET /v1/plans."""

    limit: Limit = 1000
    offset: Offset = 0
    organization_id: Reference | None = None


class NewPlan(Body):
    """POST /v1/plans/create."""

    name: Name
    amount: Amount
    interval: Interval
    occurrences: Annotated[int, Field(ge=1, le=MAX_OCCURRENCES)] | None = None
    accumulate: bool = False
    mark_as_active: bool = True
    organization_id: Reference | None = None


class NamedPlan(Body):
    """POST /v1/plans/archive and /v1/plans/activate."""

    plan_id: Reference
    organization_id: Reference | None = None


class Assign(AccountQuery):
    """POST /v1/accounts/plans/assign."""

    plan_id: Reference
    start_mode: Literal["now", "next_interval"] = "now"


PLAN = named(
    "Plan",
    obj(
        id=TEXT,
        name=TEXT,
        credits=CREDITS,
        interval=choice("1d", "week", "month"),
        occurrences=maybe(INTEGER),
        accumulate=FLAG,
        isActive=FLAG,
        createdAt=MOMENT,
        updatedAt=MOMENT,
    ),
)
ASSIGNMENT = named(
    "AssignedPlan",
    obj(
        id=TEXT,
        accountId=TEXT,
        planId=TEXT,
        active=FLAG,
        startedAt=MOMENT,
        expiresAt=maybe(MOMENT),
        plan=PLAN,
    ),
)


@described(query=PlansQuery, answer=success(plans=many(PLAN), pagination=PAGINATION))
async def list_all(services: Services, request: Request) -> Reply:
    """The organization's plans, oldest first, archived ones included."""
    query = request.params(PlansQuery)
    organization_id = await organization_of(services, request.principal, query.organization_id)
    page = await services.ledger.plans.list(organization_id, limit=query.limit, offset=query.offset)
    return ok(plans=[plan_json(plan) for plan in page.items], pagination=pagination(page))


@described(
    body=NewPlan,
    answer=success(plan=PLAN),
    rules="amounts have at most six decimal places",
    example={"name": "Pro", "amount": 1000, "interval": "month"},
)
async def create(services: Services, request: Request) -> Reply:
    """A new plan. Nobody has it yet."""
    require_organization_wide(request.principal)
    body = request.body(NewPlan)
    amount = parse_credits(body.amount, "amount")
    plan = await services.ledger.plans.create(
        await organization_of(services, request.principal, body.organization_id),
        name=body.name,
        amount=amount,
        interval=body.interval,
        occurrences=body.occurrences,
        accumulate=body.accumulate,
        active=body.mark_as_active,
    )
    return ok(plan=plan_json(plan))


@described(body=NamedPlan, answer=success(plan=PLAN))
async def archive(services: Services, request: Request) -> Reply:
    """No account gets it any more; accounts that have it keep it."""
    return await _set_active(services, request, active=False)


@described(body=NamedPlan, answer=success(plan=PLAN))
async def activate(services: Services, request: Request) -> Reply:
    """It may be assigned (again)."""
    return await _set_active(services, request, active=True)


async def _set_active(services: Services, request: Request, *, active: bool) -> Reply:
    require_organization_wide(request.principal)
    body = request.body(NamedPlan)
    organization_id = await organization_of(services, request.principal, body.organization_id)
    return ok(plan=plan_json(await services.ledger.plans.set_active(organization_id, body.plan_id, active)))


@described(
    body=Assign,
    answer=success(plans=many(ASSIGNMENT)),
    rules="accountId or externalId, unless the key is bound to an account",
)
async def assign(services: Services, request: Request) -> Reply:
    """The account gets the plan in place of the one it has."""
    require_live(request.principal)
    body = request.body(Assign)
    organization_id = await organization_around(services, request.principal, body)
    account = await account_of(services, request.principal, organization_id, body)
    assignment, snapshot = await services.ledger.plans.assign(
        organization_id, account.id, body.plan_id, body.start_mode
    )
    await told(services, account, snapshot)
    return ok(plans=[assignment_json(assignment, services.clock.now_us())])


@described(
    query=AccountQuery,
    answer=success(plans=many(ASSIGNMENT)),
    rules="accountId or externalId, unless the key is bound to an account",
)
async def of_account(services: Services, request: Request) -> Reply:
    """The account's plan, then those it had before, newest first."""
    query = request.params(AccountQuery)
    organization_id = await organization_around(services, request.principal, query)
    account = await account_of(services, request.principal, organization_id, query)
    found = await services.ledger.plans.of_account(account.id)
    return ok(plans=[assignment_json(each, services.clock.now_us()) for each in found])


def plan_json(plan: Plan) -> Mapping[str, object]:
    """A plan as the API shows it."""
    return {
        "id": plan.id,
        "name": plan.name,
        "credits": credits(plan.amount),
        "interval": plan.interval,
        "occurrences": plan.occurrences,
        "accumulate": plan.accumulate,
        "isActive": plan.active,
        "createdAt": iso(plan.created_us),
        "updatedAt": iso(plan.updated_us),
    }


def assignment_json(assignment: Assignment, now_us: int) -> Mapping[str, object]:
    """A plan of an account as the API shows it."""
    return {
        "id": assignment.id,
        "accountId": assignment.account_id,
        "planId": assignment.plan.id,
        "active": assignment.active_at(now_us),
        "startedAt": iso(assignment.started_us),
        "expiresAt": iso(assignment.expires_us),
        "plan": plan_json(assignment.plan),
    }
