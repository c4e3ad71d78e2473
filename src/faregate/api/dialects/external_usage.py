"""External service usage: `POST /api/billing/external-usage` tells of a service's use of a model, for a user.

Only superadmins tell. What they tell of has happened: it is never refused for lack of credits. In order: the service,
the model's price, its cost, the organization's markup, the record linked to the service, the amount for Stripe's
meter; the last two and the charge are one transaction.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field

from faregate.api.counted import MOST_COUNTED, Counted, Payer, record_of
from faregate.api.describe import ANY_OBJECT, FLAG, USD, described, many, obj
from faregate.api.errors import error_reply
from faregate.api.fields import NO_NUL, Limit, Name, iso, parse_moment
from faregate.api.http import Body, Reply, Request
from faregate.api.ingest import book_all
from faregate.api.services import Services
from faregate.api.tenancy import Reference
from faregate.api.usage_record import placed
from faregate.core.call import Principal, Record
from faregate.core.ids import uuid7_hex
from faregate.core.money import billed_usd, credits, plain
from faregate.core.people import Person
from faregate.core.price import PriceCard
from faregate.core.usage import Usage
from faregate.errors import (
    FaregateError,
    InvalidRequest,
    ModelNotPriced,
    NotFound,
    PermissionDenied,
    UnknownModel,
    UnknownOrganization,
    UnknownService,
    UnknownUser,
)
from faregate.ledger.ingested import Arrival
from faregate.ledger.organizations import Organization
from faregate.ledger.registry import Service
from faregate.ledger.service_usage import BilledUse, ServiceLink
from faregate.ledger.users import INSTALLATION, User

ENDPOINT = "external.usage"
SOURCE = "external"
_CODES = {401: "unauthorized", 403: "forbidden"}


def _id(prefix: str, what: str) -> AfterValidator:
    def check(value: str) -> str:
        if value.startswith(prefix):
            return value
        try:
            return str(UUID(value))
        except ValueError:
            raise ValueError(f"must be the uuid or id of {what}") from None

    return AfterValidator(check)


_Count = Annotated[int | None, Field(ge=0, le=MOST_COUNTED)]
_Channel = Annotated[str, Field(min_length=1, max_length=100, pattern=NO_NUL)]


class SnakeBody(Body):
    """This dialect's names are written with underscores."""

    model_config = ConfigDict(alias_generator=None)


class ExternalUsage(SnakeBody):
    """POST /api/billing/external-usage."""

    user_id: Annotated[Reference, _id("usr_", "a user")]
    organization_id: Annotated[Reference, _id("org_", "an organization")]
    model_name: Reference
    input_tokens: _Count = None
    prompt_tokens: _Count = None
    output_tokens: _Count = None
    completion_tokens: _Count = None
    service_name: Name
    channel: _Channel = "external_api"


class BillingQuery(SnakeBody):
    """GET /api/billing/user."""

    start_date: Reference | None = None
    end_date: Reference | None = None
    limit: Limit = 1000


# Telling ------------------------------------------------------------------------------------------------


@described(
    body=ExternalUsage,
    status=201,
    answer=ANY_OBJECT,
    error=ANY_OBJECT,
    rules="one of the two names of each count; who and what is named exists",
)
async def post(services: Services, request: Request) -> Reply:
    """Price the use, charge it, record it, queue it for the meter."""
    person = request.person
    if not person.superadmin:
        raise PermissionDenied("only a superadmin may tell of a service's usage")
    body = request.body(ExternalUsage)
    counted = _counted(services, body)
    organization = await _organization(services, person, body.organization_id)
    service = await services.ledger.services.named(
        body.service_name, INSTALLATION if organization is None else organization.id
    )
    if service is None:
        raise UnknownService(f"no service is called {body.service_name!r}", param="service_name")
    billed = replace(request, caller=_principal(organization))
    card, counted, kind = _priced(services, billed, counted)
    if organization is None:
        raise UnknownOrganization("no such organization", param="organization_id")
    user = await _user(services, body.user_id, organization)
    record = record_of(
        card,
        counted,
        _payer(organization, request),
        hold_id=f"api_{uuid7_hex()}",
        charges=True,
        kind=kind,
    )
    return await _booked(services, billed, record, _link(service, user, person, body, record))


def _counted(services: Services, body: ExternalUsage) -> Counted:
    return Counted(
        model=body.model_name,
        usage=Usage(
            input_tokens=_one_of(body, "input_tokens", "prompt_tokens"),
            output_tokens=_one_of(body, "output_tokens", "completion_tokens"),
        ),
        occurred_us=services.clock.now_us(),
        endpoint=ENDPOINT,
        attribution={"service": body.service_name, "channel": body.channel},
    )


def _one_of(body: ExternalUsage, name: str, alias: str) -> int:
    """A count by either of its names. Raises InvalidRequest when neither is there, or both are and differ."""
    given = {value for value in (getattr(body, name), getattr(body, alias)) if value is not None}
    if len(given) != 1:
        problem = f"{name} and {alias} are one count, and differ" if given else f"{name} is required"
        raise InvalidRequest(problem, param=name)
    count: int = given.pop()
    return count


async def _organization(services: Services, person: Person, named: str) -> Organization | None:
    """None when there is none, or (for an organization's own user) when it is another."""
    try:
        found = await services.ledger.organizations.get(named)
    except NotFound:
        return None
    return found if person.home in (None, found.id) else None


def _priced(services: Services, request: Request, counted: Counted) -> tuple[PriceCard, Counted, str]:
    try:
        return placed(services, request, request.principal.organization_id, counted)
    except ModelNotPriced as error:
        raise UnknownModel(error.message, param="model_name") from None


async def _user(services: Services, named: str, organization: Organization) -> User:
    """A user of the organization's own, or of the installation."""
    try:
        user = await services.ledger.users.get(named)
    except NotFound:
        user = None
    if user is None or user.home not in (INSTALLATION, organization.id):
        raise UnknownUser("no such user", param="user_id")
    return user


def _principal(organization: Organization | None) -> Principal:
    """Whoever tells, the organization pays, as if by a key of its own."""
    organization_id = INSTALLATION if organization is None else organization.id
    return Principal(
        key_id="",
        rev=0,
        organization_id=organization_id,
        account_id=None,
        default_account_id="" if organization is None else organization.default_account_id,
        scopes=frozenset({"usage:write"}),
    )


def _payer(organization: Organization, request: Request) -> Payer:
    return Payer(
        organization_id=organization.id,
        account_id=organization.default_account_id,
        key_id=None,
        request_id=request.request_id,
        credits_per_usd=organization.credits_per_usd,
        markup_percent=organization.markup_percent,
    )


def _link(service: Service, user: User, person: Person, body: ExternalUsage, record: Record) -> ServiceLink:
    return ServiceLink(
        service_id=service.id,
        service_name=service.name,
        user_id=user.id,
        reported_by=person.who,
        channel=body.channel,
        billed=billed_usd(record.cost_usd, record.markup_percent),
    )


async def _booked(services: Services, request: Request, record: Record, link: ServiceLink) -> Reply:
    """Once for each Idempotency-Key, whatever happens in between."""
    name = await services.ledger.idempotency.claim()
    arrival = Arrival(record=record, own_id=None if name is None else f"request:{name}")
    also = services.ledger.service_usage.linked(link)
    arrived = await book_all(services, request, record.organization_id, SOURCE, [arrival], also)
    ((usage_id, new),) = arrived.records
    stored = (await services.ledger.usage.get(usage_id, organization_id=record.organization_id)).record
    use = await services.ledger.service_usage.of_record(usage_id)
    answer = {
        "id": usage_id,
        "serviceCost": plain(stored.cost_usd),
        "billedCost": plain(use.billed),
        "creditsCharged": credits(stored.charge_microcredits),
        "currency": "usd",
        "stripe": {"status": "queued" if use.metered else "disabled"},
    }
    return Reply(body=answer, status=201, headers={} if new else {"idempotent-replayed": "true"})


# Reading ------------------------------------------------------------------------------------------------


@described(
    query=BillingQuery,
    answer=obj(totalBilledCost=USD, billingLogs=many(ANY_OBJECT), hasMore=FLAG),
    error=ANY_OBJECT,
    rules="dates are ISO 8601, start before end",
)
async def billing(services: Services, request: Request) -> Reply:
    """What services told of the user's own use, newest first, and what all of it in the span is billed at."""
    query, person = request.params(BillingQuery), request.person
    if person.id is None:
        raise PermissionDenied("the identity provider knows you, but this installation has no such user")
    start_us = None if query.start_date is None else parse_moment(query.start_date, "start_date")
    end_us = None if query.end_date is None else parse_moment(query.end_date, "end_date", end=True)
    if start_us is not None and end_us is not None and start_us >= end_us:
        raise InvalidRequest("start_date must be before end_date", param="end_date")
    found = await services.ledger.service_usage.of_user(person.id, start_us=start_us, end_us=end_us, limit=query.limit)
    logs = [_log_json(use) for use in found.uses]
    return Reply(body={"totalBilledCost": plain(found.total), "billingLogs": logs, "hasMore": found.more})


def _log_json(use: BilledUse) -> dict[str, object]:
    return {
        "modelName": use.model,
        "promptTokens": use.input_tokens,
        "completionTokens": use.output_tokens,
        "billedCost": plain(use.billed),
        "serviceName": use.service_name,
        "createdAt": iso(use.occurred_us),
    }


def say(error: FaregateError) -> Reply:
    """`{"error": text, "code"}`."""
    body = {"error": error.message, "code": _CODES.get(error.status, error.code)}
    return Reply(body=body, status=error.status, headers=error_reply(error).headers)
