"""Stripe's meter events, by its own library. Imported, and the library with it, when there is something to send.

The library never tries again by itself (the outbox does), sends no telemetry, and every request has an end. Nothing
that Stripe says is passed on but numbers and short words: its messages quote keys and customers.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import stripe

from faregate.core.metering import Answer, MeterEvent
from faregate.errors import UpstreamError

if TYPE_CHECKING:
    from stripe.billing import Meter
    from stripe.params.billing import MeterListParams

_DUPLICATE: Final = re.compile(r"already exists with identifier", re.IGNORECASE)
_DUPLICATE_CODES: Final = frozenset({"duplicate_meter_event", "resource_already_exists"})
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_WAITS: Final = frozenset({401, 403, 409, 429})
"""Not applied, and not for good: the key can be changed, the lock is let go, the rate falls."""
_UNSURE: Final = frozenset({200, 408})
_MINUTE_S: Final = 60
_METERS: Final = 100
_PAGES: Final = 20


class StripeMeters:
    """One Stripe account. `timeout_s` bounds each request. Making one imports much: do it in a thread."""

    def __init__(self, api_key: str, base_url: str, *, timeout_s: float = 20.0) -> None:
        stripe.enable_telemetry = False
        logging.getLogger("stripe").setLevel(logging.WARNING)
        self._http = stripe.AIOHTTPClient(timeout=timeout_s)
        client = stripe.StripeClient(
            api_key, base_addresses={"api": base_url}, max_network_retries=0, http_client=self._http
        )
        billing = client.v1.billing
        self._events, self._known = billing.meter_events, billing.meters  # imported here, where nobody waits
        self._timeout_s = timeout_s
        self._meters: dict[str, tuple[str, str]] = {}

    async def send(self, event: MeterEvent) -> Answer:
        """One try."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._events.create_async(
                    {
                        "event_name": event.meter,
                        "identifier": event.id,
                        "timestamp": event.timestamp_s,
                        "payload": {"stripe_customer_id": event.customer, "value": str(event.value)},
                    }
                )
        except stripe.StripeError as error:
            return _answer(error)
        except (TimeoutError, OSError, self._http.aiohttp.ClientError) as error:  # while the answer was read
            return Answer(fate="unknown", code="timeout" if isinstance(error, TimeoutError) else "broken")
        return Answer(fate="delivered", code="ok")

    async def minute_total(self, event: MeterEvent) -> Decimal:
        """What the customer's meter has counted in the event's minute. Raises UpstreamError: it cannot be told."""
        async with self._asking():
            meter_id, formula = await self._meter(event.meter)
            if formula != "sum":
                raise UpstreamError("the meter does not sum")
            found = await self._known.event_summaries.list_async(
                meter_id,
                {
                    "customer": event.customer,
                    "start_time": event.timestamp_s,
                    "end_time": event.timestamp_s + _MINUTE_S,
                },
            )
            return sum((Decimal(summary.aggregated_value) for summary in found.data), Decimal(0))

    async def close(self) -> None:
        """Hang up."""
        await self._http.close_async()  # type: ignore[no-untyped-call]

    async def _meter(self, event_name: str) -> tuple[str, str]:
        """(id, aggregation) of the active meter of this event name."""
        known = self._meters.get(event_name)
        if known is None:
            meter = await self._find(event_name)
            known = self._meters[event_name] = (meter.id, meter.default_aggregation.formula)
        return known

    async def _find(self, event_name: str) -> Meter:
        asked: MeterListParams = {"status": "active", "limit": _METERS}
        for _ in range(_PAGES):
            page = await self._known.list_async(asked)
            for meter in page.data:
                if meter.event_name == event_name:
                    return meter
            if not page.has_more or not page.data:
                break
            asked["starting_after"] = page.data[-1].id
        raise UpstreamError("Stripe has no active meter of this event name")

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """Whatever keeps Stripe from telling is an UpstreamError, without Stripe's words."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except stripe.StripeError as error:
            failure = UpstreamError(f"Stripe does not tell: {error.http_status or 'no answer'}")
        except (TimeoutError, OSError, self._http.aiohttp.ClientError) as error:
            failure = UpstreamError(f"Stripe does not tell: {type(error).__name__}")
        else:
            return
        raise failure


def _answer(error: stripe.StripeError) -> Answer:
    status = error.http_status
    if status is None:
        return _unheard(error)
    code = _code(error)
    if status == 400 and (code in _DUPLICATE_CODES or _DUPLICATE.search(error.user_message or "")):
        return Answer(fate="delivered", code="duplicate")
    if status in _WAITS or isinstance(error, stripe.RateLimitError):
        return Answer(fate="not_applied", code=f"http_{status}", retry_after_s=_retry_after_s(error))
    if 400 <= status < 500 and status not in _UNSURE:
        return Answer(fate="refused", code=code or f"http_{status}")
    return Answer(fate="unknown", code=f"http_{status}", retry_after_s=_retry_after_s(error))


def _unheard(error: stripe.StripeError) -> Answer:
    """No answer at all. A connection that was never made has carried nothing."""
    cause = error.__cause__
    if isinstance(getattr(cause, "os_error", None), OSError):  # aiohttp's ClientConnectorError
        return Answer(fate="not_applied", code="unreachable")
    return Answer(fate="unknown", code="timeout" if isinstance(cause, TimeoutError) else "lost")


def _code(error: stripe.StripeError) -> str:
    """Stripe's own short word, if it is one."""
    return error.code if isinstance(error.code, str) and _CODE.fullmatch(error.code) else ""


def _retry_after_s(error: stripe.StripeError) -> int | None:
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    asked = headers.get("retry-after", "")
    return int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else None
