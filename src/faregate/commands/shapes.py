"""What commands print, in the API's JSON shapes: credits as Decimal, moments as ISO 8601 text."""

from __future__ import annotations

import json
from decimal import Decimal
from uuid import UUID

from faregate.auth.limits import limit_json
from faregate.clock import SystemClock
from faregate.commands.shared import moment_text
from faregate.core.call import Reservation
from faregate.core.ids import uuid7
from faregate.core.money import credits
from faregate.credits.gate import parse_hold
from faregate.ledger.accounts import Account
from faregate.ledger.keys import KeyInfo
from faregate.ledger.plans import Assignment, Plan
from faregate.ledger.prices import StoredPrice
from faregate.ledger.summary import Totals
from faregate.ledger.usage import UsageRecord


def key_json(info: KeyInfo) -> dict[str, object]:
    """A key as the API shows it."""
    return {
        "id": info.id,
        "prefix": info.prefix,
        "name": info.name,
        "organizationId": info.organization_id,
        "accountId": info.account_id,
        "scopes": sorted(info.scopes),
        "models": None if info.models is None else list(info.models),
        "limits": [limit_json(limit) for limit in info.limits],
        "maxMultiplier": info.max_multiplier,
        "test": info.test,
        "expiresAt": moment_text(info.expires_us),
        "revokedAt": moment_text(info.revoked_us),
        "lastUsedAt": moment_text(info.last_used_us),
        "createdAt": moment_text(info.created_us),
    }


def account_json(account: Account) -> dict[str, object]:
    """An account as the API shows it."""
    return {
        "id": account.id,
        "externalId": account.external_id,
        "organizationId": account.organization_id,
        "name": account.name,
        "email": account.email,
        "balance": credits(account.posted),
        "metadata": dict(account.metadata),
        "createdAt": moment_text(account.created_us),
        "updatedAt": moment_text(account.updated_us),
    }


def plan_json(plan: Plan) -> dict[str, object]:
    """A plan as the API shows it."""
    return {
        "id": plan.id,
        "name": plan.name,
        "credits": credits(plan.amount),
        "interval": plan.interval,
        "occurrences": plan.occurrences,
        "accumulate": plan.accumulate,
        "isActive": plan.active,
        "createdAt": moment_text(plan.created_us),
        "updatedAt": moment_text(plan.updated_us),
    }


def assignment_json(assignment: Assignment, now_us: int) -> dict[str, object]:
    """An account's plan as the API shows it, without the plan's terms."""
    return {
        "id": assignment.id,
        "accountId": assignment.account_id,
        "planId": assignment.plan.id,
        "active": assignment.active_at(now_us),
        "startedAt": moment_text(assignment.started_us),
        "expiresAt": moment_text(assignment.expires_us),
    }


def price_row(price: StoredPrice) -> dict[str, object]:
    """A price card as the API's list shows it."""
    return {
        "id": price.id,
        "organizationId": price.organization_id,
        **json.loads(price.body, parse_float=Decimal),
        "effective_from": moment_text(price.effective_us) if price.effective_us else None,
        "createdAt": moment_text(price.created_us),
    }


def usage_json(record: UsageRecord) -> dict[str, object]:
    """A usage record as the API's list shows it."""
    return {
        "id": record.id,
        "createdAt": moment_text(record.occurred_us),
        "accountId": record.account_id,
        "provider": record.provider,
        "modelId": record.model,
        "kind": record.kind,
        "inputTokens": record.usage.get("input_tokens"),
        "cachedTokens": record.usage.get("cached_input_tokens"),
        "outputTokens": record.usage.get("output_tokens"),
        "estimatedCostUsd": record.cost_usd,
        "creditsCharged": credits(record.charge_microcredits),
        "estimated": record.estimated,
        "requestId": record.request_id,
    }


def totals_json(totals: Totals) -> dict[str, object]:
    """Sums as the API shows them."""
    return {
        "count": totals.count,
        "totalInputTokens": totals.input_tokens,
        "totalOutputTokens": totals.output_tokens,
        "totalCostUsd": totals.cost_usd,
        "totalCredits": credits(totals.charge_microcredits),
    }


def reservation_json(one: Reservation) -> dict[str, object]:
    """A reservation as the API shows it."""
    return {
        "id": one.id,
        "reservationId": one.caller_id,
        "accountId": one.account_id,
        "amount": credits(one.microcredits),
        "actualAmount": None if one.actual is None else credits(one.actual),
        "status": one.state_at(SystemClock().now_us()),
        "operation": one.operation,
        "model": one.model,
        "transactionId": one.entry_id,
        "expiresAt": moment_text(one.expires_us),
        "createdAt": moment_text(one.created_us),
    }


def hold_json(text: bytes, bucket: int, account_id: str, hold_id: str, deadline_us: int) -> dict[str, object]:
    """A hold as Redis has it."""
    swept = parse_hold(text, bucket, account_id, hold_id)
    opened_us = _opened_us(hold_id)
    age_us = None if opened_us is None else SystemClock().now_us() - opened_us
    return {
        "id": hold_id,
        "accountId": account_id,
        "kind": swept.hold.kind,
        "amount": credits(swept.hold.microcredits),
        "progress": credits(swept.progress_microcredits),
        "ageSeconds": None if age_us is None else max(0, age_us // 1_000_000),
        "deadline": moment_text(deadline_us),
    }


def _opened_us(hold_id: str) -> int | None:
    """When it was opened: hold ids are UUIDv7, alone or behind a prefix."""
    try:
        found = UUID(hold_id.rpartition("_")[2])
    except ValueError:
        return None
    return (found.int >> 80) * 1000 if found.version == uuid7().version else None
