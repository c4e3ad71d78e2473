"""Price cards: `/v1/admin/prices…`. The fields of a prices file; no PATCH, since a past card is never edited."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from faregate.api.admin import CursorQuery, change, page_of
from faregate.api.describe import CURSOR, MOMENT, TEXT, described, many, maybe, named, obj, success
from faregate.api.fields import iso
from faregate.api.http import Reply, Request, created, encode, ok, parse_object
from faregate.api.services import Services
from faregate.api.tenancy import organization_of
from faregate.errors import BookUnavailable, InvalidRequest, NotFound
from faregate.ledger.prices import NewPrice, StoredPrice
from faregate.pricing.entries import build_from_api

_MOST_BYTES = 16_384


PRICE = named(
    "PriceCard",
    {
        **obj(id=TEXT, organizationId=maybe(TEXT), createdAt=MOMENT, deletedAt=maybe(MOMENT)),
        "additionalProperties": True,
        "description": "The fields it was made of, and what became of it.",
    },
)
_NEW = {
    "type": "object",
    "description": "An entry of a prices file: provider, model and rates; organizationId besides.",
    "properties": {"organizationId": {"type": "string"}, "provider": {"type": "string"}, "model": {}},
    "required": ["provider", "model"],
}


@described(
    body=_NEW,
    status=201,
    answer=success(price=PRICE),
    rules="what a prices file must keep",
    example={"provider": "openai", "model": "gpt-4.1-mini", "per_million": {"input": 0.4, "output": 1.6}},
)
async def create(services: Services, request: Request) -> Reply:
    """A card of the key's organization; the bootstrap key makes cards for everybody, or for whom it names."""
    fields = parse_object(request.raw_body)
    named = fields.pop("organizationId", None)
    if named is not None and not isinstance(named, str):
        raise InvalidRequest("organizationId must be an id or uuid", param="organizationId")
    organization_id = await _whose(services, request, named)
    entry = build_from_api(fields, organization_id=organization_id)
    body = encode(fields).decode()
    if len(body) > _MOST_BYTES:
        raise InvalidRequest(f"a price card has at most {_MOST_BYTES} bytes", param="aliases")
    stored = await services.ledger.prices.create(
        NewPrice(
            organization_id=organization_id,
            provider=entry.provider,
            model=entry.names[0],
            tier=entry.tier,
            effective_us=entry.effective_from_us,
            body=body,
        ),
        by=change(request, "prices.create", provider=entry.provider, model=entry.names[0]),
    )
    await _in_force(services)
    return created(price=price_json(stored))


@described(query=CursorQuery, answer=success(prices=many(PRICE), nextCursor=CURSOR))
async def list_all(services: Services, request: Request) -> Reply:
    """Oldest first: its organization's cards; for the bootstrap key all, or those of the organization it names."""
    query, principal = request.params(CursorQuery), request.principal
    every = principal.above_organizations and query.organization_id is None
    organization_id = None if every else await organization_of(services, principal, query.organization_id)
    found = await services.ledger.prices.list(organization_id, every=every, limit=query.limit + 1, after=query.cursor)
    page, cursor = page_of(found, query.limit, lambda price: price.id)
    return ok(prices=[price_json(price) for price in page], nextCursor=cursor)


@described(answer=success(price=PRICE))
async def get(services: Services, request: Request) -> Reply:
    """One card."""
    return ok(price=price_json(await _own(services, request)))


@described(answer=success(price=PRICE))
async def delete(services: Services, request: Request) -> Reply:
    """No longer in force: what it has priced keeps its rates, and other layers decide from now on."""
    stored = await _own(services, request)
    gone = await services.ledger.prices.delete(stored.id, by=change(request, "prices.delete"))
    await _in_force(services)
    return ok(price=price_json(gone))


async def _whose(services: Services, request: Request, named: str | None) -> str | None:
    if named is None and request.principal.above_organizations:
        return None
    return await organization_of(services, request.principal, named)


async def _own(services: Services, request: Request) -> StoredPrice:
    stored = await services.ledger.prices.get(request.path_params["id"])
    if stored.organization_id != request.principal.organization_id and not request.principal.above_organizations:
        raise NotFound("no such price card")
    return stored


async def _in_force(services: Services) -> None:
    """Here at once, elsewhere within seconds."""
    with suppress(BookUnavailable):
        await services.prices.refresh()


def price_json(stored: StoredPrice) -> Mapping[str, object]:
    """The card as it was given, and what became of it."""
    fields = parse_object(stored.body.encode())
    start = fields.get("effective_from") or (iso(stored.effective_us) if stored.effective_us else None)
    return {
        "id": stored.id,
        "organizationId": stored.organization_id,
        **fields,
        "effective_from": start,
        "createdAt": iso(stored.created_us),
        "deletedAt": iso(stored.deleted_us),
    }
