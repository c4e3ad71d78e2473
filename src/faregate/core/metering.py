"""Billed usage as a payment service's meter events: windows, whole numbers, identifiers, moments. Pure.

A meter takes whole numbers of at most 15 digits. Ours count micro-USD (10^-6 USD). What is less than one waits, as an
exact decimal, for the customer's next window; so does a negative sum, since a correction is never billed by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from hashlib import sha256
from typing import Literal

from faregate.core.money import EXACT, MICROCREDITS_PER_CREDIT

Metered = Literal["off", "external", "all"]
"""Which usage is metered: none, only what `ledger.metering.queue` is told of, or also every charge of credits."""

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
GRACE_US = 120_000_000
"""How long after its end a window still waits for transactions that were under way."""

MICRO_USD = 1_000_000
MAX_VALUE = 10**15 - 1
MAX_PARTS = 59
"""Of one window: each has a minute of its own, by which its delivery can be looked up."""

OLDEST_US = 34 * DAY_US
"""Stripe takes timestamps of the last 35 days; a day is kept in hand."""
AHEAD_US = 5 * 60_000_000
"""Stripe takes timestamps up to 5 minutes ahead."""
UNSURE_US = 20 * HOUR_US
"""Stripe knows an identifier again for 24 hours at least: within 20, sending again is safe."""

MOST_ATTEMPTS = 200
_FIRST_WAIT_US = 5_000_000
_MOST_WAIT_US = HOUR_US
_PLACES = Decimal(1).scaleb(-24)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterEvent:
    """One part of a customer's closed window, as it is sent."""

    id: str
    """The identifier, by which Stripe knows it again."""
    meter: str
    """The meter's event name."""
    customer: str
    value: int
    """Micro-USD."""
    timestamp_s: int
    """Unix seconds; the beginning of a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one try to send."""

    fate: Literal["delivered", "refused", "not_applied", "unknown"]
    """`refused`: never will be taken. `not_applied`: not this time. `unknown`: it may have been."""
    code: str = ""
    """A short word for people and metrics: `duplicate`, `http_429`, `timeout` …; never text of the other side."""
    retry_after_s: int | None = None


def last_closed_us(now_us: int) -> int:
    """The end (exclusive) of the newest hour that is closed."""
    return (now_us - GRACE_US) // HOUR_US * HOUR_US


def split(owed_usd: Decimal) -> tuple[list[int], Decimal]:
    """Whole micro-USD in parts a meter takes, and the USD that wait for the next window. Nothing is lost:
    Σ parts / 10^6 + what waits = owed. A negative sum waits as it is.
    """
    whole = int(EXACT.multiply(owed_usd, Decimal(MICRO_USD)).to_integral_value(ROUND_FLOOR, EXACT))
    whole = min(max(whole, 0), MAX_PARTS * MAX_VALUE)
    full, rest = divmod(whole, MAX_VALUE)
    return [MAX_VALUE] * full + [rest] * (rest > 0), EXACT.subtract(owed_usd, usd(whole))


def usd(value: int) -> Decimal:
    """Micro-USD as USD, exactly."""
    return Decimal(value).scaleb(-6, EXACT)


def charged_usd(microcredits: int, credits_per_usd: Decimal) -> Decimal:
    """A charge in USD: exact where the quotient ends, else half-even at the 24th decimal place."""
    per_usd = EXACT.multiply(credits_per_usd, Decimal(MICROCREDITS_PER_CREDIT))
    quotient = EXACT.divide(Decimal(microcredits), per_usd)
    if EXACT.multiply(quotient, per_usd) == microcredits:
        return quotient
    return quotient.quantize(_PLACES, ROUND_HALF_EVEN, EXACT)


def identifier(organization_uuid: str, customer: str, meter: str, window_us: int, part: int) -> str:
    """Of one part (from 1): the same whoever computes it, whenever; at most 100 characters.

    The organization's uuid tells deployments on one Stripe account apart, which both bill `org_bootstrap`.
    """
    lane = sha256(f"{customer}\n{meter}".encode()).hexdigest()[:16]
    return f"fg-{organization_uuid}-{lane}-{window_us // HOUR_US}-{part}"


def timestamp_s(window_us: int, part: int) -> int:
    """Of a part (from 1) in the window that ends at `window_us`: each has a minute to itself, counted from the end."""
    return window_us // 1_000_000 - 60 * part


def sendable(event: MeterEvent, now_us: int) -> MeterEvent:
    """The event with a timestamp that is taken: one that would be too old moves into the newest closed hour."""
    if event.timestamp_s * 1_000_000 >= now_us - OLDEST_US:
        return event
    hour_s = HOUR_US // 1_000_000
    moved = last_closed_us(now_us) // 1_000_000 - hour_s + event.timestamp_s % hour_s
    return replace(event, timestamp_s=moved)


def too_early_us(event: MeterEvent, now_us: int) -> int:
    """How long until its timestamp is taken; 0: it is (our clock went back)."""
    return max(0, event.timestamp_s * 1_000_000 - AHEAD_US - now_us)


def wait_us(attempts: int, answer: Answer) -> int:
    """Until the next try: 5 s, doubled each time, at most an hour; at least what the other side asks for."""
    asked = min((answer.retry_after_s or 0) * 1_000_000, _MOST_WAIT_US)
    return max(min(_FIRST_WAIT_US << min(max(attempts - 1, 0), 20), _MOST_WAIT_US), asked)


def looked_up(event: MeterEvent, total: Decimal, others: int) -> Literal["delivered", "missing", "ambiguous"]:
    """What the meter's total of the event's own minute says about it; `others` of ours are known to be in it."""
    rest = total - others
    if rest == event.value:
        return "delivered"
    return "missing" if rest < event.value else "ambiguous"
