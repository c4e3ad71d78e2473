"""`POST /v1/usage/record`: usage that did not pass through the gateway, priced, recorded and, if asked, charged."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Literal

from pydantic import Field

from faregate.api.accounts import AccountQuery, replayable
from faregate.api.counted import MOST_COUNTED, MOST_SECONDS, Counted, Payer, attributes, card_for, moment_of, record_of
from faregate.api.describe import described, success
from faregate.api.fields import Amount, Metadata, Moment, Text, bounded_decimal
from faregate.api.http import Reply, Request
from faregate.api.ingest import book_one, hold_of
from faregate.api.services import Services
from faregate.api.tenancy import Reference, account_of, find_account, organization_around
from faregate.api.usage import USAGE_RECORD, record_json
from faregate.core.price import PriceCard
from faregate.core.usage import Usage
from faregate.errors import InvalidRequest, ModelNotFound, ModelNotPriced, PermissionDenied

UsageType = Literal["text", "audio_stt", "audio_tts", "embedding"]
ENDPOINTS: dict[UsageType, str] = {
    "text": "usage.record",
    "audio_stt": "audio.transcriptions",
    "audio_tts": "audio.speech",
    "embedding": "embeddings",
}
_Count = Field(default=None, ge=0, le=MOST_COUNTED)


class NewUsage(AccountQuery):
    """POST /v1/usage/record."""

    context: Literal["customer", "system"]
    transaction_id: Reference | None = None
    charge: bool = False
    model_id: Reference
    provider: Reference | None = None
    usage_type: UsageType = "text"
    input_tokens: int | None = _Count
    output_tokens: int | None = _Count
    cached_tokens: int | None = _Count
    audio_duration_seconds: Amount = None
    description: Text | None = None
    metadata: Metadata | None = None
    occurred_at: Moment | None = None


@described(
    body=NewUsage,
    answer=success(usageRecord=USAGE_RECORD),
    rules="transaction or charge in context customer; tokens, or audioDurationSeconds for audio; a priced model",
    example={
        "context": "customer",
        "externalId": "user-7",
        "charge": True,
        "modelId": "gpt-4.1-mini",
        "inputTokens": 1200,
        "outputTokens": 300,
    },
)
async def record(services: Services, request: Request) -> Reply:
    """Record and price. The transaction it belongs to has charged for it already, unless `charge` says to do it now."""
    body = request.body(NewUsage)
    _check_payment(body)
    usage = _usage(body)
    occurred_us = moment_of(body.occurred_at, "occurredAt", services.clock.now_us())
    organization_id = await organization_around(services, request.principal, body)
    payer = await _payer(services, request, organization_id, body)
    if body.transaction_id is not None:
        await _check_transaction(services, payer, body.transaction_id)
    counted = Counted(
        provider=body.provider or "",
        model=body.model_id,
        usage=usage,
        occurred_us=occurred_us,
        endpoint=ENDPOINTS[body.usage_type],
        context=body.context,
        attribution=attributes(body.metadata or {}),
        description=body.description,
    )
    card, counted, kind = placed(services, request, organization_id, counted)
    hold_id, keyed = await hold_of(services)
    priced = record_of(
        card, counted, payer, hold_id=hold_id, charges=body.charge, kind=kind, paid_by=body.transaction_id
    )
    stored, replayed = await book_one(services, request, priced, keyed=keyed)
    return replayable(replayed, usageRecord=record_json(stored))


def _check_payment(body: NewUsage) -> None:
    """Each record is paid for exactly once: by its transaction, by this request, or (system) by nobody."""
    if body.context == "system":
        for name, given in (("transactionId", body.transaction_id), ("charge", body.charge or None)):
            if given is not None:
                raise InvalidRequest(f"{name} goes with context customer: system usage is nobody's bill", param=name)
        return
    if body.charge and body.transaction_id is not None:
        raise InvalidRequest(
            "the transaction has charged for it already: leave out charge or transactionId", param="charge"
        )
    if not body.charge and body.transaction_id is None:
        raise InvalidRequest(
            "transactionId is required in context customer, or charge: true to charge it now", param="transactionId"
        )


def _usage(body: NewUsage) -> Usage:
    audio = body.usage_type in ("audio_stt", "audio_tts")
    seconds = _seconds(body)
    if seconds is not None and not audio:
        raise InvalidRequest("audioDurationSeconds goes with audio_stt and audio_tts", param="audioDurationSeconds")
    if seconds is not None:
        given = next(
            (n for n in ("input_tokens", "output_tokens", "cached_tokens") if getattr(body, n) is not None), None
        )
        if given is not None:
            raise InvalidRequest("audioDurationSeconds stands instead of tokens", param="audioDurationSeconds")
        return Usage(audio_seconds=seconds)
    if body.input_tokens is None:
        instead = " (or audioDurationSeconds)" if audio else ""
        raise InvalidRequest(f"inputTokens is required{instead}", param="inputTokens")
    if body.output_tokens is None and body.usage_type != "embedding":
        raise InvalidRequest("outputTokens is required", param="outputTokens")
    if (body.cached_tokens or 0) > body.input_tokens:
        raise InvalidRequest("cachedTokens lie inside inputTokens: they cannot be more", param="cachedTokens")
    return Usage(
        input_tokens=body.input_tokens,
        output_tokens=body.output_tokens or 0,
        cached_input_tokens=body.cached_tokens,
    )


def _seconds(body: NewUsage) -> Decimal | None:
    if body.audio_duration_seconds is None:
        return None
    return bounded_decimal(body.audio_duration_seconds, "audioDurationSeconds", Decimal(0), MOST_SECONDS, places=9)


async def _payer(services: Services, request: Request, organization_id: str, body: NewUsage) -> Payer:
    organization = await services.ledger.organizations.get(organization_id)
    if body.context == "customer":
        account_id = (await account_of(services, request.principal, organization_id, body)).id
    else:
        account = await find_account(services, request.principal, organization_id, body)
        account_id = organization.default_account_id if account is None else account.id
    return Payer(
        organization_id=organization_id,
        account_id=account_id,
        key_id=request.principal.key_id,
        request_id=request.request_id,
        credits_per_usd=organization.credits_per_usd,
        markup_percent=organization.markup_percent,
    )


async def _check_transaction(services: Services, payer: Payer, transaction_id: str) -> None:
    entry = await services.ledger.transactions.get(payer.organization_id, transaction_id)
    if entry.account_id != payer.account_id:
        raise InvalidRequest("transactionId names another account's transaction", param="transactionId")
    if entry.type != "debit":
        raise InvalidRequest("transactionId must name a debit: a credit pays for nothing", param="transactionId")


def placed(
    services: Services, request: Request, organization_id: str, counted: Counted
) -> tuple[PriceCard, Counted, str]:
    """The card, whose it is and its kind: a public name as a call would be priced, else by provider or vendor."""
    if not counted.provider and organization_id == request.principal.organization_id:
        try:
            first = services.router.candidates(
                counted.model, endpoint="chat.completions", principal=request.principal, now_us=counted.occurred_us
            )[0]
        except (ModelNotFound, ModelNotPriced, PermissionDenied):
            pass  # Not for this key to call, but it may have a price.
        else:
            served = replace(counted, provider=first.provider, model=first.model, public_model=counted.model)
            return first.card, served, first.kind
    try:
        card = card_for(services.catalog, counted, organization_id)
    except ModelNotPriced as error:
        raise ModelNotPriced(error.message, param="modelId") from None
    return card, counted, services.catalog.kinds.get(counted.provider, "")
