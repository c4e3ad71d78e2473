"""Usage: what was used and what it cost, `/v1/usage…`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

from faregate.api.describe import (
    ANY,
    CREDITS,
    CURSOR,
    FLAG,
    INTEGER,
    MOMENT,
    NUMBER,
    TEXT,
    USD,
    by_name,
    described,
    many,
    maybe,
    named,
    obj,
    success,
    with_fields,
)
from faregate.api.fields import Flag, Limit, Moment, Text, iso, span
from faregate.api.http import Body, Reply, Request, ok, validated
from faregate.api.services import Services
from faregate.api.tenancy import Reference, find_account, organization_around, organization_of
from faregate.core.call import Principal
from faregate.core.money import EXACT, credits, plain
from faregate.core.price import PriceCard
from faregate.errors import InvalidRequest, NotFound
from faregate.ledger.summary import Summary, Totals
from faregate.ledger.usage import UsageDetail, UsageRecord
from faregate.ledger.usage_filter import UsageFilter

GroupBy = Literal["model", "context", "account", "agent", "feature", "provider", "key", "day", "week", "month"]
_TIMES = frozenset({"day", "week", "month"})
_MOST_TAGS = 16
_ATTRIBUTES = ("tag.", "metadata.")
_TYPES = {
    "embeddings": "embedding",
    "audio.transcriptions": "audio_stt",
    "audio.translations": "audio_stt",
    "audio.speech": "audio_tts",
    "images.generations": "image",
    "images.edits": "image",
}


class UsageQuery(Body):
    """GET /v1/usage; `tag.<name>`, `metadata.<name>` and `user` besides."""

    account_id: Reference | None = None
    external_id: Reference | None = None
    organization_id: Reference | None = None
    model_id: Reference | None = None
    provider: Reference | None = None
    context: Literal["customer", "system"] | None = None
    agent: Text | None = None
    feature: Text | None = None
    key: Reference | None = None
    start_date: Moment | None = None
    end_date: Moment | None = None
    limit: Limit = 100
    cursor: Reference | None = None
    summary: Flag = False
    group_by: GroupBy | None = None


@dataclass(frozen=True, slots=True)
class _Wanted:
    query: UsageQuery
    attribution: Mapping[str, str]


def _read(request: Request) -> _Wanted:
    own = {name: value for name, value in request.query.items() if name.startswith(_ATTRIBUTES) or name == "user"}
    if len(own) > _MOST_TAGS:
        raise InvalidRequest(f"at most {_MOST_TAGS} of tag.*, metadata.* and user", param="tag")
    rest = {name: value for name, value in request.query.items() if name not in own}
    return _Wanted(validated(UsageQuery, rest), own)


USAGE_RECORD = named(
    "UsageRecord",
    obj(
        id=TEXT,
        context=TEXT,
        accountId=TEXT,
        keyId=maybe(TEXT),
        provider=TEXT,
        modelId=TEXT,
        publicModel=TEXT,
        usageType=TEXT,
        endpoint=TEXT,
        inputTokens=maybe(INTEGER),
        cachedTokens=maybe(INTEGER),
        cacheWriteTokens=maybe(INTEGER),
        outputTokens=maybe(INTEGER),
        reasoningTokens=maybe(INTEGER),
        audioDurationSeconds=maybe(NUMBER),
        estimatedCostUsd=USD,
        creditsCharged=CREDITS,
        transactionId=maybe(TEXT),
        requestId=TEXT,
        kind=TEXT,
        estimated=FLAG,
        outcome=TEXT,
        status=INTEGER,
        stream=FLAG,
        durationMs=INTEGER,
        tier=TEXT,
        attribution=by_name(TEXT),
        description=maybe(TEXT),
        occurredAt=MOMENT,
        createdAt=MOMENT,
    ),
)
_TOTALS = obj(
    totalCostUsd=USD,
    totalCredits=CREDITS,
    totalInputTokens=INTEGER,
    totalCachedTokens=INTEGER,
    totalOutputTokens=INTEGER,
    totalReasoningTokens=INTEGER,
    count=INTEGER,
)
_SUMMARY = with_fields(
    _TOTALS,
    byContext=obj(customer=USD, system=USD),
    byModel=by_name(obj(costUsd=USD, count=INTEGER)),
    optional={"groups": many(with_fields(_TOTALS, groupKey=TEXT))},
)
_CARD = obj(
    id=TEXT,
    provider=TEXT,
    model=TEXT,
    source=maybe(TEXT),
    sourceDate=maybe(TEXT),
    effectiveFrom=maybe(TEXT),
)
_LINE = obj(quantity=NUMBER, rate=USD, amount=USD, **{"class": TEXT})
_DETAIL = with_fields(
    USAGE_RECORD,
    usage=by_name(ANY),
    lines=many(_LINE),
    card=maybe(_CARD),
    source=maybe(TEXT),
    sourceDate=maybe(TEXT),
    multiplier=NUMBER,
    markupPercent=NUMBER,
    creditsPerUsd=NUMBER,
    adjustment=maybe(USAGE_RECORD),
)
_BY_LABEL = "also `tag.<name>`, `metadata.<name>` and `user`, at most sixteen of them"


@described(
    query=UsageQuery,
    answer=success(optional={"usageRecords": many(USAGE_RECORD), "nextCursor": CURSOR, "summary": _SUMMARY}),
    rules=f"{_BY_LABEL}; dates are ISO 8601, start before end; groupBy goes with summary=true; a cursor is of a page",
)
async def list_all(services: Services, request: Request) -> Reply:
    """Records, newest first, or with `summary=true` their sums."""
    wanted = _read(request)
    query = wanted.query
    filters = await _filters(services, request.principal, wanted)
    if query.summary:
        summary = await services.ledger.summaries.get(filters, group_by=query.group_by)
        return ok(summary=_summary_json(summary, query.group_by))
    if query.group_by is not None:
        raise InvalidRequest("groupBy goes with summary=true", param="groupBy")
    page = await services.ledger.usage.list(filters, limit=query.limit, cursor=query.cursor)
    return ok(usageRecords=[record_json(record) for record in page.records], nextCursor=page.next_cursor)


async def _filters(services: Services, principal: Principal, wanted: _Wanted) -> UsageFilter:
    query = wanted.query
    start_us, end_us = span(query.start_date, query.end_date)
    organization_id = await organization_around(services, principal, query)
    account = await find_account(services, principal, organization_id, query)
    return UsageFilter(
        organization_id=organization_id,
        account_id=account.id if account else None,
        model=query.model_id,
        provider=query.provider,
        context=query.context,
        agent=query.agent,
        feature=query.feature,
        key_id=query.key,
        attribution=wanted.attribution,
        start_us=start_us,
        end_us=end_us,
    )


class OneQuery(Body):
    """GET /v1/usage/{id}."""

    organization_id: Reference | None = None


@described(answer=success(usageRecord=_DETAIL))
async def get(services: Services, request: Request) -> Reply:
    """One record by its own id or its request's, with everything that explains its price."""
    query = request.params(OneQuery)
    reference, principal = request.path_params["id"], request.principal
    organization_id: str | None = await organization_of(services, principal, query.organization_id)
    if principal.above_organizations and query.organization_id is None:
        organization_id = None
    detail = await services.ledger.usage.get(reference, organization_id=organization_id)
    if principal.account_id not in (None, detail.record.account_id):
        raise NotFound("no such usage record")
    return ok(usageRecord=_detail_json(detail))


# Shapes -------------------------------------------------------------------------------------------------


def record_json(record: UsageRecord) -> dict[str, object]:
    """A usage record as the API shows it. `modelId` is the model that served, `publicModel` the one asked for."""
    usage: Mapping[str, Any] = record.usage
    return {
        "id": record.id,
        "context": record.context,
        "accountId": record.account_id,
        "keyId": record.key_id,
        "provider": record.provider,
        "modelId": record.model,
        "publicModel": record.public_model,
        "usageType": _TYPES.get(record.endpoint, "text"),
        "endpoint": record.endpoint,
        "inputTokens": usage.get("input_tokens"),
        "cachedTokens": usage.get("cached_input_tokens"),
        "cacheWriteTokens": usage.get("cache_write_tokens"),
        "outputTokens": usage.get("output_tokens"),
        "reasoningTokens": usage.get("reasoning_tokens"),
        "audioDurationSeconds": _seconds(usage.get("audio_seconds")),
        "estimatedCostUsd": plain(record.cost_usd),
        "creditsCharged": credits(record.charge_microcredits),
        "transactionId": record.entry_id,
        "requestId": record.request_id,
        "kind": record.kind,
        "estimated": record.estimated,
        "outcome": record.outcome,
        "status": record.status,
        "stream": record.stream,
        "durationMs": record.duration_ms,
        "tier": record.tier,
        "attribution": record.attribution,
        "description": record.description,
        "occurredAt": iso(record.occurred_us),
        "createdAt": iso(record.created_us),
    }


def _seconds(told: object) -> Decimal | None:
    return plain(Decimal(told)) if isinstance(told, str | int) else None


def _detail_json(detail: UsageDetail) -> dict[str, object]:
    """What the call came to in the end, and why: a late truth is laid over the guess it corrected."""
    record = detail.record if detail.adjustment is None else _corrected(detail.record, detail.adjustment)
    card = detail.card
    lines = [
        {"class": item, "quantity": plain(quantity), "rate": plain(rate), "amount": plain(amount)}
        for item, quantity, rate, amount in record.lines
    ]
    return {
        **record_json(record),
        "usage": record.usage,
        "rawUsage": _raw(record.raw_usage),
        "lines": lines,
        "card": None if card is None else _card_json(card),
        "source": card.source if card else None,
        "sourceDate": card.source_date if card else None,
        "multiplier": plain(record.multiplier),
        "markupPercent": plain(record.markup_percent),
        "creditsPerUsd": plain(record.credits_per_usd),
        "adjustment": None if detail.adjustment is None else record_json(detail.adjustment),
    }


def _raw(told: str | None) -> object:
    """The provider's own usage object; its text where that was longer than what is kept."""
    try:
        return told and json.loads(told, parse_float=Decimal)
    except ValueError:
        return told


def _card_json(card: PriceCard) -> dict[str, object]:
    return {
        "id": card.id,
        "provider": card.provider,
        "model": card.model,
        "source": card.source,
        "sourceDate": card.source_date,
        "effectiveFrom": card.effective_from.isoformat() if card.effective_from else None,
    }


def _corrected(guess: UsageRecord, late: UsageRecord) -> UsageRecord:
    """The truth: a record's adjustment holds differences, but its own price lines."""
    return replace(
        late,
        id=guess.id,
        entry_id=guess.entry_id,
        created_us=guess.created_us,
        cost_usd=EXACT.add(guess.cost_usd, late.cost_usd),
        charge_microcredits=guess.charge_microcredits + late.charge_microcredits,
        usage=_summed(guess.usage, late.usage),
    )


def _summed(first: Mapping[str, object], change: Mapping[str, object]) -> dict[str, object]:
    summed: dict[str, object] = {}
    for name in (*first, *(name for name in change if name not in first)):
        old, new = first.get(name, 0), change.get(name, 0)
        if isinstance(old, int) and isinstance(new, int):
            summed[name] = old + new
        elif isinstance(old, int | str) and isinstance(new, int | str):
            summed[name] = format(EXACT.add(Decimal(old), Decimal(new)), "f")
        else:
            summed[name] = new or old
    return summed


def _summary_json(summary: Summary, group_by: GroupBy | None) -> dict[str, object]:
    shown: dict[str, object] = {
        **_totals_json(summary.total),
        "byContext": {name: plain(summary.by_context.get(name, Totals()).cost_usd) for name in ("customer", "system")},
        "byModel": {
            model: {"costUsd": plain(part.cost_usd), "count": part.count}
            for model, part in sorted(summary.by_model.items())
        },
    }
    if group_by is not None:
        shown["groups"] = [{"groupKey": name, **_totals_json(part)} for name, part in _ordered(summary, group_by)]
    return shown


def _ordered(summary: Summary, group_by: GroupBy) -> list[tuple[str, Totals]]:
    """Times in order, everything else by credits, most first."""
    if group_by in _TIMES:
        return sorted(summary.groups.items(), key=lambda group: group[0])
    return sorted(summary.groups.items(), key=lambda group: (-group[1].charge_microcredits, group[0]))


def _totals_json(totals: Totals) -> dict[str, object]:
    return {
        "totalCostUsd": plain(totals.cost_usd),
        "totalCredits": credits(totals.charge_microcredits),
        "totalInputTokens": totals.input_tokens,
        "totalCachedTokens": totals.cached_input_tokens,
        "totalOutputTokens": totals.output_tokens,
        "totalReasoningTokens": totals.reasoning_tokens,
        "count": totals.count,
    }
