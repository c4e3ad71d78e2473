"""Credits are integers (microcredits), USD is Decimal. Rounded once, half-even, when USD becomes credits."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation

from faregate.errors import InvalidRequest

MICROCREDITS_PER_CREDIT = 1_000_000
MAX_MICROCREDITS = 2**53
"""Lua numbers are doubles: amounts stay within the integers a double holds exactly."""

EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
"""Enough digits that products of counts (2^63) and rates (a dozen places) are never rounded."""

_ONE = Decimal(1)
_MICRO = Decimal(MICROCREDITS_PER_CREDIT)


def parse_decimal(value: object, param: str) -> Decimal:
    """A JSON number (read as int or Decimal) or decimal string, exactly; floats, NaN and infinities are refused."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise InvalidRequest(f"{param} must be a number or a decimal string", param=param)
    if isinstance(value, str) and (len(value) > 64 or not value.isascii() or value.strip() != value or "_" in value):
        raise InvalidRequest(f"{param} must be a decimal number of at most 64 characters", param=param)
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise InvalidRequest(f"{param} must be a decimal number", param=param) from None
    if not number.is_finite():
        raise InvalidRequest(f"{param} must be a finite number", param=param)
    return number


def parse_credits(value: object, param: str, *, minimum: int | None = 1) -> int:
    """Credits as microcredits: at most 6 decimal places, within ±2^53 microcredits, at least `minimum`."""
    number = parse_decimal(value, param)
    if number.adjusted() > 12:
        raise _too_large(param)
    scaled = EXACT.multiply(number, _MICRO)
    if scaled != scaled.to_integral_value():
        raise InvalidRequest(f"{param} has more than 6 decimal places", param=param)
    amount = int(scaled)
    if abs(amount) > MAX_MICROCREDITS:
        raise _too_large(param)
    if minimum is not None and amount < minimum:
        least = "greater than 0" if minimum == 1 else f"at least {credits(minimum)}"
        raise InvalidRequest(f"{param} must be {least}", param=param)
    return amount


def _too_large(param: str) -> InvalidRequest:
    most = MAX_MICROCREDITS // MICROCREDITS_PER_CREDIT
    return InvalidRequest(f"{param} is too large: at most {most} credits", param=param)


def credits(microcredits: int) -> Decimal:
    """Microcredits as credits, without trailing zeros: 1_500_000 -> Decimal('1.5')."""
    return plain(Decimal(microcredits).scaleb(-6, EXACT))


def plain(number: Decimal) -> Decimal:
    """The same number without trailing zeros and without exponent: what JSON prints."""
    number = number.normalize(EXACT)
    return number.quantize(Decimal(1), context=EXACT) if number == number.to_integral_value() else number


def billed_usd(cost_usd: Decimal, markup_percent: Decimal) -> Decimal:
    """cost x (1 + markup/100), exactly."""
    return EXACT.multiply(cost_usd, EXACT.add(_ONE, markup_percent.scaleb(-2, EXACT)))


def charge_microcredits(
    cost_usd: Decimal, credits_per_usd: Decimal, markup_percent: Decimal = Decimal(0), multiplier: Decimal = Decimal(1)
) -> int:
    """cost x multiplier x (1 + markup/100) x credits per USD, rounded half-even to a whole microcredit."""
    factor = EXACT.multiply(multiplier, EXACT.add(_ONE, markup_percent.scaleb(-2, EXACT)))
    amount = EXACT.multiply(EXACT.multiply(cost_usd, factor), EXACT.multiply(credits_per_usd, _MICRO))
    return int(amount.to_integral_value(ROUND_HALF_EVEN, EXACT))
