"""Agent queries: `POST /api/usage/increment-agent-queries` charges a use, `GET /api/consumption-events…` show them.

The key's organization is charged on its default account, with a checked hold: what does not fit is 402, and nothing
is recorded. An event is a usage record; its id is the record's, under this dialect's prefix.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from faregate.api.counted import MOST_COUNTED, Counted, Payer, attributes, card_for, record_of
from faregate.api.describe import (
    ANY,
    CREDITS,
    INTEGER,
    MOMENT,
    NUMBER,
    TEXT,
    by_name,
    described,
    many,
    maybe,
    named,
    obj,
)
from faregate.api.errors import error_reply
from faregate.api.fields import Amount, Metadata, Moment, Text, bounded_decimal, iso, span, whole
from faregate.api.http import Body, Reply, Request
from faregate.api.ingest import book_one, hold_of
from faregate.api.services import Services
from faregate.api.tenancy import Reference
from faregate.core.call import Principal, Record
from faregate.core.money import credits, plain
from faregate.core.usage import Usage
from faregate.errors import FaregateError, InvalidRequest, ModelNotPriced, PermissionDenied
from faregate.ledger.usage import UsageOrder, UsageRecord
from faregate.ledger.usage_filter import UsageFilter

PROVIDERS = ("azure", "azure-2", "openai", "gemini", "deepseek", "bedrock")
ENDPOINT = "agent.query"
GroupBy = Literal["agent", "feature", "provider", "model", "day", "week", "month"]
_TIMES = ("day", "week", "month")
_TYPES = {400: "INVALID_REQUEST", 401: "UNAUTHORIZED", 402: "USAGE_LIMIT", 403: "FORBIDDEN", 429: "RATE_LIMIT"}
_ORDERS: dict[str, UsageOrder] = {
    "occurredAt_asc": ("occurred", False),
    "occurredAt_desc": ("occurred", True),
    "creditsCharged_asc": ("charge", False),
    "creditsCharged_desc": ("charge", True),
}
_Count = Annotated[int, Field(ge=0, le=MOST_COUNTED)]


class AgentQuery(Body):
    """POST /api/usage/increment-agent-queries."""

    provider: Reference
    model_name: Reference
    input_tokens: _Count
    output_tokens: _Count
    multiplier: Amount = 1
    feature: Annotated[Text, Field(min_length=1)] = "agent_run"
    agent_id: Reference | None = None
    metadata: Metadata | None = None


class SummaryQuery(Body):
    """GET /api/consumption-events/summary."""

    start_date: Moment
    end_date: Moment
    group_by: GroupBy
    agent_id: Reference | None = None
    feature: Reference | None = None
    provider: Reference | None = None


class EventsQuery(Body):
    """GET /api/consumption-events."""

    start_date: Moment | None = None
    end_date: Moment | None = None
    agent_id: Reference | None = None
    feature: Reference | None = None
    provider: Reference | None = None
    model: Reference | None = None
    page: Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(whole)] = 1
    page_size: Annotated[int, Field(ge=1, le=100), BeforeValidator(whole)] = 20
    sort: Literal["occurredAt_asc", "occurredAt_desc", "creditsCharged_asc", "creditsCharged_desc"] = "occurredAt_desc"


# Charging -----------------------------------------------------------------------------------------------


_ERROR = named("AgentQueryError", obj(error=obj(type=TEXT, message=TEXT)))
_CHARGED = obj(
    success={"const": True},
    organizationId=TEXT,
    eventId=TEXT,
    credits=obj(charged=CREDITS, requested=CREDITS),
    model=obj(provider=TEXT, modelName=TEXT),
    tokens=obj(inputTokens=INTEGER, outputTokens=INTEGER),
)
_GROUP = obj(
    groupKey=TEXT,
    totalCreditsCharged=CREDITS,
    totalInputTokens=INTEGER,
    totalOutputTokens=INTEGER,
    eventCount=INTEGER,
)
_EVENT = named(
    "ConsumptionEvent",
    obj(
        id=TEXT,
        organizationId=TEXT,
        agentId=maybe(TEXT),
        feature=maybe(TEXT),
        provider=TEXT,
        model=TEXT,
        inputTokens=maybe(INTEGER),
        outputTokens=maybe(INTEGER),
        creditsCharged=CREDITS,
        multiplier=NUMBER,
        metadata=by_name(ANY),
        occurredAt=MOMENT,
    ),
)
_PAGES = obj(page=INTEGER, pageSize=INTEGER, totalCount=INTEGER, totalPages=INTEGER)
_DATES = "dates are ISO 8601, start before end"


@described(
    body=AgentQuery,
    answer=_CHARGED,
    error=_ERROR,
    rules="the provider and the model are known and priced; the multiplier is from 1 to 10",
    example={
        "provider": "openai",
        "modelName": "gpt-4.1-mini",
        "inputTokens": 900,
        "outputTokens": 120,
        "agentId": "writer",
    },
)
async def increment(services: Services, request: Request) -> Reply:
    """Price the use, take its credits, record it."""
    body, principal = request.body(AgentQuery), request.principal
    counted = _counted(services, body)
    payer = _payer(principal, request)
    hold_id, keyed = await hold_of(services)
    record = _record(services, counted, payer, hold_id)
    stored, replayed = await book_one(services, request, record, keyed=keyed)
    answer = {
        "success": True,
        "organizationId": principal.organization_id,
        "eventId": _event_id(stored),
        "credits": {"charged": credits(stored.charge_microcredits), "requested": credits(record.charge_microcredits)},
        "model": {"provider": body.provider, "modelName": body.model_name},
        "tokens": {"inputTokens": body.input_tokens, "outputTokens": body.output_tokens},
    }
    return Reply(body=answer, headers={"idempotent-replayed": "true"} if replayed else {})


def _counted(services: Services, body: AgentQuery) -> Counted:
    if body.provider not in PROVIDERS and body.provider not in services.catalog.kinds:
        allowed = ", ".join(PROVIDERS)
        raise InvalidRequest(f"provider must be one of {allowed}, or a configured provider", param="provider")
    attribution = {**attributes(body.metadata or {}), "feature": body.feature}
    if body.agent_id is not None:
        attribution["agent"] = body.agent_id
    return Counted(
        provider=body.provider,
        model=body.model_name,
        usage=Usage(input_tokens=body.input_tokens, output_tokens=body.output_tokens),
        occurred_us=services.clock.now_us(),
        endpoint=ENDPOINT,
        multiplier=bounded_decimal(body.multiplier, "multiplier", Decimal(1), Decimal(10)),
        attribution=attribution,
    )


def _payer(principal: Principal, request: Request) -> Payer:
    if principal.account_id not in (None, principal.default_account_id):
        raise PermissionDenied("this key is bound to another account than its organization's default account")
    return Payer(
        organization_id=principal.organization_id,
        account_id=principal.default_account_id,
        key_id=principal.key_id,
        request_id=request.request_id,
        credits_per_usd=principal.credits_per_usd,
        markup_percent=principal.markup_percent,
    )


def _record(services: Services, counted: Counted, payer: Payer, hold_id: str) -> Record:
    try:
        card = card_for(services.catalog, counted, payer.organization_id)
    except ModelNotPriced as error:
        raise ModelNotPriced(f"modelName: {error.message}", param="modelName") from None
    kind = services.catalog.kinds.get(counted.provider, "")
    return record_of(card, counted, payer, hold_id=hold_id, charges=True, kind=kind)


# Reading ------------------------------------------------------------------------------------------------


@described(
    query=SummaryQuery,
    answer=obj(groupBy=TEXT, startDate=TEXT, endDate=TEXT, data=many(_GROUP)),
    error=_ERROR,
    rules=_DATES,
)
async def summary(services: Services, request: Request) -> Reply:
    """Sums by group: times in order, everything else by credits, most first."""
    query = request.params(SummaryQuery)
    wanted = _filter(request.principal, query)
    found = await services.ledger.summaries.get(wanted, group_by=query.group_by)
    groups = sorted(found.groups.items())
    if query.group_by not in _TIMES:
        groups.sort(key=lambda group: -group[1].charge_microcredits)
    data = [
        {
            "groupKey": name,
            "totalCreditsCharged": credits(totals.charge_microcredits),
            "totalInputTokens": totals.input_tokens,
            "totalOutputTokens": totals.output_tokens,
            "eventCount": totals.count,
        }
        for name, totals in groups
    ]
    said = {"groupBy": query.group_by, "startDate": query.start_date, "endDate": query.end_date}
    return Reply(body={**said, "data": data})


@described(query=EventsQuery, answer=obj(data=many(_EVENT), pagination=_PAGES), error=_ERROR, rules=_DATES)
async def events(services: Services, request: Request) -> Reply:
    """One page of events."""
    query = request.params(EventsQuery)
    wanted = _filter(request.principal, query, model=query.model)
    offset = (query.page - 1) * query.page_size
    page = await services.ledger.usage.page(wanted, _ORDERS[query.sort], limit=query.page_size, offset=offset)
    pages = -(-page.total // query.page_size)
    counts = {"page": query.page, "pageSize": query.page_size, "totalCount": page.total, "totalPages": pages}
    return Reply(body={"data": [_event_json(record) for record in page.items], "pagination": counts})


def _filter(principal: Principal, query: SummaryQuery | EventsQuery, model: str | None = None) -> UsageFilter:
    """A key that is bound to an account sees that account's."""
    start_us, end_us = span(query.start_date, query.end_date)
    return UsageFilter(
        organization_id=principal.organization_id,
        account_id=principal.account_id,
        agent=query.agent_id,
        feature=query.feature,
        provider=query.provider,
        model=model,
        start_us=start_us,
        end_us=end_us,
    )


def _event_id(record: UsageRecord) -> str:
    return f"evt_{record.id.removeprefix('usage_')}"


def _event_json(record: UsageRecord) -> dict[str, object]:
    attribution = record.attribution
    named = {name.removeprefix("metadata."): value for name, value in attribution.items() if name[:9] == "metadata."}
    usage: dict[str, Any] = dict(record.usage)
    return {
        "id": _event_id(record),
        "organizationId": record.organization_id,
        "agentId": attribution.get("agent"),
        "feature": attribution.get("feature"),
        "provider": record.provider,
        "model": record.model,
        "inputTokens": usage.get("input_tokens"),
        "outputTokens": usage.get("output_tokens"),
        "creditsCharged": credits(record.charge_microcredits),
        "multiplier": plain(record.multiplier),
        "metadata": named,
        "occurredAt": iso(record.occurred_us),
    }


def say(error: FaregateError) -> Reply:
    """`{"error": {"type", "message"}}`."""
    kind = _TYPES.get(error.status) or ("INTERNAL_ERROR" if error.status >= 500 else error.code.upper())
    body = {"error": {"type": kind, "message": error.message}}
    return Reply(body=body, status=error.status, headers=error_reply(error).headers)
