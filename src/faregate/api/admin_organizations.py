"""Organizations: `/v1/admin/organizations…`. Only the bootstrap key makes them or sees more than its own."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from faregate.api.admin import CursorQuery, change, page_of, spread
from faregate.api.auth import require_bootstrap
from faregate.api.describe import CURSOR, FLAG, MOMENT, NUMBER, TEXT, described, many, maybe, named, obj, success
from faregate.api.fields import Amount, Name, bounded_decimal, iso
from faregate.api.http import Body, Reply, Request, created, ok
from faregate.api.services import Services
from faregate.api.tenancy import Reference, organization_of
from faregate.core.money import plain
from faregate.errors import InvalidRequest
from faregate.ledger.keys import KeyInfo
from faregate.ledger.organizations import Organization

_PAGE = 500
_MOST_MARKUP = Decimal(100_000)
_MOST_CREDITS_PER_USD = Decimal(1_000_000_000)
_LEAST_CREDITS_PER_USD = Decimal("0.000001")


class NewOrganization(Body):
    """POST /v1/admin/organizations."""

    name: Name
    external_id: Reference | None = None
    credits_per_usd: Amount = None
    markup_percent: Amount = 0
    ingest_charges: bool = False
    stripe_customer_id: Reference | None = None


class OrganizationPatch(Body):
    """PATCH /v1/admin/organizations/{id}; `creditsPerUsd` is set once, since every balance depends on it."""

    name: Name | None = None
    external_id: Reference | None = None
    markup_percent: Amount = None
    ingest_charges: bool | None = None
    stripe_customer_id: Reference | None = None


ORGANIZATION = named(
    "Organization",
    obj(
        id=TEXT,
        uuid=TEXT,
        externalId=maybe(TEXT),
        name=TEXT,
        creditsPerUsd=NUMBER,
        markupPercent=NUMBER,
        ingestCharges=FLAG,
        stripeCustomerId=maybe(TEXT),
        defaultAccountId=TEXT,
        createdAt=MOMENT,
        updatedAt=MOMENT,
    ),
)
_RULES = "rates and percents have at most six decimal places and their bounds; something changes"


@described(
    body=NewOrganization,
    status=201,
    answer=success(organization=ORGANIZATION),
    rules=_RULES,
    example={"name": "Acme", "markupPercent": 20},
)
async def create(services: Services, request: Request) -> Reply:
    """A new organization with its default account."""
    require_bootstrap(request.principal)
    body = request.body(NewOrganization)
    rate = services.credits_per_usd if body.credits_per_usd is None else body.credits_per_usd
    organization = await services.ledger.organizations.create(
        name=body.name,
        external_id=body.external_id,
        credits_per_usd=bounded_decimal(rate, "creditsPerUsd", _LEAST_CREDITS_PER_USD, _MOST_CREDITS_PER_USD),
        markup_percent=_markup(body.markup_percent),
        ingest_charges=body.ingest_charges,
        stripe_customer_id=body.stripe_customer_id,
        by=change(request, "organizations.create", name=body.name),
    )
    return created(organization=organization_json(organization))


@described(query=CursorQuery, answer=success(organizations=many(ORGANIZATION), nextCursor=CURSOR))
async def list_all(services: Services, request: Request) -> Reply:
    """All of them for the bootstrap key, its own for any other."""
    query = request.params(CursorQuery)
    if query.organization_id is not None or not request.principal.above_organizations:
        own = await organization_of(services, request.principal, query.organization_id)
        found = [await services.ledger.organizations.get(own)]
    else:
        found = await services.ledger.organizations.list(limit=query.limit + 1, after=query.cursor)
    page, cursor = page_of(found, query.limit, lambda organization: organization.id)
    return ok(organizations=[organization_json(organization) for organization in page], nextCursor=cursor)


@described(answer=success(organization=ORGANIZATION))
async def get(services: Services, request: Request) -> Reply:
    """By id or uuid."""
    organization_id = await organization_of(services, request.principal, request.path_params["id"])
    return ok(organization=organization_json(await services.ledger.organizations.get(organization_id)))


@described(
    body=OrganizationPatch, answer=success(organization=ORGANIZATION), rules=_RULES, example={"markupPercent": 25}
)
async def patch(services: Services, request: Request) -> Reply:
    """Change some facts. Every key of the organization carries them, so each gets a new rev, everywhere."""
    organization_id = await organization_of(services, request.principal, request.path_params["id"])
    body = request.body(OrganizationPatch)
    changes = _changes(body)
    by = change(request, "organizations.patch", fields=sorted(changes))
    organization = await services.ledger.organizations.patch(organization_id, changes, by=by)
    await spread(services, await _keys(services, organization.id))
    return ok(organization=organization_json(organization))


async def _keys(services: Services, organization_id: str) -> list[KeyInfo]:
    found: list[KeyInfo] = []
    while True:
        after = found[-1].id if found else None
        some = await services.ledger.keys.list(organization_id=organization_id, limit=_PAGE, after=after)
        found += some
        if len(some) < _PAGE:
            return found


def _changes(body: OrganizationPatch) -> dict[str, object]:
    changes: dict[str, object] = {name: getattr(body, name) for name in body.model_fields_set}
    for name in ("name", "markup_percent", "ingest_charges"):
        if name in changes and changes[name] is None:
            raise InvalidRequest(f"{name} cannot be null", param=name)
    if "markup_percent" in changes:
        changes["markup_percent"] = _markup(body.markup_percent)
    if not changes:
        raise InvalidRequest("nothing to change")
    return changes


def _markup(value: object) -> Decimal:
    return bounded_decimal(value, "markupPercent", Decimal(0), _MOST_MARKUP)


def organization_json(organization: Organization) -> Mapping[str, object]:
    """The organization as the API shows it."""
    return {
        "id": organization.id,
        "uuid": organization.uuid,
        "externalId": organization.external_id,
        "name": organization.name,
        "creditsPerUsd": plain(organization.credits_per_usd),
        "markupPercent": plain(organization.markup_percent),
        "ingestCharges": organization.ingest_charges,
        "stripeCustomerId": organization.stripe_customer_id,
        "defaultAccountId": organization.default_account_id,
        "createdAt": iso(organization.created_us),
        "updatedAt": iso(organization.updated_us),
    }
