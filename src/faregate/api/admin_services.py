"""Services that tell of their usage: `/v1/admin/services…`, by a name that is unique where they belong."""

from __future__ import annotations

from collections.abc import Mapping

from faregate.api.admin import CursorQuery, change, page_of
from faregate.api.describe import CURSOR, MOMENT, TEXT, described, many, maybe, named, obj, success
from faregate.api.fields import Name, iso
from faregate.api.http import Body, Reply, Request, created, ok
from faregate.api.people import reach
from faregate.api.services import Services
from faregate.api.tenancy import Reference, organization_of
from faregate.ledger.registry import Service
from faregate.ledger.users import INSTALLATION


class NewService(Body):
    """POST /v1/admin/services. Without organizationId the bootstrap key makes one for all organizations."""

    name: Name
    organization_id: Reference | None = None


class ServicePatch(Body):
    """PATCH /v1/admin/services/{id}."""

    name: Name


SERVICE = named("Service", obj(id=TEXT, name=TEXT, organizationId=maybe(TEXT), createdAt=MOMENT, updatedAt=MOMENT))


@described(
    body=NewService,
    status=201,
    answer=success(service=SERVICE),
    rules="what is patched changes something; who and what is named exists and may be changed by this key",
)
async def create(services: Services, request: Request) -> Reply:
    """A new service."""
    body, principal = request.body(NewService), request.principal
    home = INSTALLATION
    if body.organization_id is not None or not principal.above_organizations:
        home = await organization_of(services, principal, body.organization_id)
    by = change(request, "services.create", name=body.name)
    return created(service=service_json(await services.ledger.services.create(home=home, name=body.name, by=by)))


@described(query=CursorQuery, answer=success(services=many(SERVICE), nextCursor=CURSOR))
async def list_all(services: Services, request: Request) -> Reply:
    """An organization's own; the bootstrap key sees all unless it names one."""
    query, principal = request.params(CursorQuery), request.principal
    home = reach(principal)
    if query.organization_id is not None:
        home = await organization_of(services, principal, query.organization_id)
    found = await services.ledger.services.list(home=home, limit=query.limit + 1, after=query.cursor)
    page, cursor = page_of(found, query.limit, lambda service: service.id)
    return ok(services=[service_json(service) for service in page], nextCursor=cursor)


@described(answer=success(service=SERVICE))
async def get(services: Services, request: Request) -> Reply:
    """One service."""
    return ok(service=service_json(await _own(services, request)))


@described(
    body=ServicePatch,
    answer=success(service=SERVICE),
    rules="what is patched changes something; who and what is named exists and may be changed by this key",
)
async def patch(services: Services, request: Request) -> Reply:
    """Another name; usage keeps the one it was told by."""
    own, body = await _own(services, request), request.body(ServicePatch)
    by = change(request, "services.patch", fields=["name"], name=body.name)
    return ok(service=service_json(await services.ledger.services.rename(own.id, body.name, by=by)))


@described(answer=success(service=SERVICE))
async def delete(services: Services, request: Request) -> Reply:
    """It can tell of nothing any more; what it told stays."""
    own = await _own(services, request)
    by = change(request, "services.delete", name=own.name)
    return ok(service=service_json(await services.ledger.services.delete(own.id, by=by)))


async def _own(services: Services, request: Request) -> Service:
    return await services.ledger.services.get(request.path_params["id"], home=reach(request.principal))


def service_json(service: Service) -> Mapping[str, object]:
    """The service as the API shows it."""
    return {
        "id": service.id,
        "name": service.name,
        "organizationId": service.home or None,
        "createdAt": iso(service.created_us),
        "updatedAt": iso(service.updated_us),
    }
