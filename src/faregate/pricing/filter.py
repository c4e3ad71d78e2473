"""`faregate price`: one line of JSON in, its exact price out (semantics of tests/vectors/README.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal, Inexact

from faregate.core.money import EXACT, MAX_MICROCREDITS, charge_microcredits, credits, parse_decimal
from faregate.core.price import Cost, PriceCard, PriceLine
from faregate.core.pricing import check_count, line, price, stated_cost, total
from faregate.core.usage import Usage
from faregate.errors import FaregateError, InvalidRequest, ModelNotPriced
from faregate.pricing.catalog import LayeredCatalog, wall_us

_RATES: Mapping[str, str] = {
    "cached": "cached_input",
    "cache_write": "cache_write_5m",
    "audio_in": "audio_input",
    "audio_out": "audio_output",
    "image_in": "image_input",
    "image_out": "image_output",
    "cached_audio": "cached_audio_input",
    "cached_image": "cached_image_input",
}
"""The vectors' rate names where they are not a card's own."""
_ITEMS: Mapping[str, str] = {card: vector for vector, card in _RATES.items() if vector != "cache_write"} | {
    "session": "sessions"
}

_SECONDS = ("audio_seconds", "video_seconds")
_COSTS = ("provider_cost", "provider_cost_usd", "provider_cost_in_usd_ticks", "cost_in_usd_ticks")
_NOT_USAGE = frozenset(
    {
        *("usage_present", "complete", "pending", "billable", "retryable", "output_is_placeholder", "error"),
        *("anomaly", "service_tier", "speed", "inference_geo", "billed_model", "tool_use_billable"),
        *("per_model", "upstream_cost", "upstream_cost_usd", *_COSTS),
    }
)
"""What may stand in a usage without being a count."""
_FIELDS = frozenset(Usage.__dataclass_fields__) - {"custom", "tool_use_billable"}
_TOKEN_LINES = frozenset(
    {
        *("input", "cached_input", "cached_audio_input", "cached_image_input", "cache_write_5m"),
        *("cache_write_1h", "audio_input", "image_input", "output", "reasoning", "audio_output"),
        *("image_output", "input_above", "output_above", "citation_tokens"),
    }
)
_TICKS_PER_USD = 10


def price_line(request: object, catalog: LayeredCatalog, *, now_us: int | None = None) -> dict[str, object]:
    """Price one line `{id, provider, model, usage, options, prices?}`.

    Gives `{"id", "usd", "credits", "lines"}`, all amounts as plain decimal strings; what cannot be priced gives
    `{"id", "usd": None, "error"}`. Numbers must have been parsed as int or Decimal: a float is refused. Never raises.
    """
    if not isinstance(request, Mapping):
        return {"id": None, "usd": None, "error": "a line must be a JSON object"}
    try:
        return {"id": request.get("id"), **_answer(request, catalog, wall_us() if now_us is None else now_us)}
    except FaregateError as error:
        return {"id": request.get("id"), "usd": None, "error": error.message}
    except Inexact:
        return {"id": request.get("id"), "usd": None, "error": "the price has more digits than can be kept exactly"}


def _answer(request: Mapping[str, object], catalog: LayeredCatalog, now_us: int) -> dict[str, object]:
    usage, options = _mapping(request, "usage", needed=True), _mapping(request, "options")
    costs = list(_costs(request, usage, options, catalog, now_us))
    lines = tuple(each for _, cost in costs for each in cost.lines)
    models = [model for model, cost in costs for _ in cost.lines]
    usd, extra = _adjusted(lines, options)
    shown = [_shown(each, model) for each, model in zip(lines, models, strict=True)]
    answer: dict[str, object] = {"usd": text(usd), "lines": shown + [_shown(each, None) for each in extra]}
    per_usd = _decimal(options.get("credits_per_usd", 1000), "options.credits_per_usd")
    if 0 < per_usd <= 10**9 and abs(usd) <= MAX_MICROCREDITS // 10**6 // per_usd:
        answer["credits"] = text(credits(charge_microcredits(usd, per_usd)))
    return answer


def text(number: Decimal) -> str:
    """A decimal as JSON readers want it: no exponent, no trailing zeros, no minus zero."""
    number = number.normalize(EXACT)
    return f"{number:f}" if number else "0"


def _shown(entry: PriceLine, model: str | None) -> dict[str, object]:
    shown: dict[str, object] = {} if model is None else {"model": model}
    shown["item"] = _ITEMS.get(entry.item, entry.item)
    shown |= {"quantity": text(entry.quantity), "rate": text(entry.rate), "amount": text(entry.amount)}
    return shown


# What the usage costs -----------------------------------------------------------------------------------


def _costs(
    request: Mapping[str, object],
    usage: Mapping[str, object],
    options: Mapping[str, object],
    catalog: LayeredCatalog,
    now_us: int,
) -> Iterator[tuple[str | None, Cost]]:
    stated = _stated(usage, options)
    if stated is not None:
        yield None, stated
        return
    prices = _mapping(request, "prices") if request.get("prices") is not None else None
    per_model = usage.get("per_model")
    if per_model is None:
        yield None, _one(request, request.get("model"), usage, options, prices, catalog, now_us)
        return
    parts = _mapping(usage, "per_model")
    if not parts:
        raise InvalidRequest("usage.per_model is empty", param="usage.per_model")
    for model in parts:
        own = prices
        if prices is not None and any(isinstance(value, Mapping) for value in prices.values()):
            own = _mapping(prices, model)
        yield model, _one(request, model, _mapping(parts, model), options, own, catalog, now_us)


def _stated(usage: Mapping[str, object], options: Mapping[str, object]) -> Cost | None:
    """The provider's own price, when the usage has one: USD, or ticks of 10^-10 USD (xAI)."""
    name = next((name for name in _COSTS if usage.get(name) is not None), None)
    if name is None:
        return None
    usd = _decimal(usage[name], f"usage.{name}")
    cost = stated_cost(usd.scaleb(-_TICKS_PER_USD, EXACT) if name.endswith("ticks") else usd)
    upstream = usage.get("upstream_cost", usage.get("upstream_cost_usd"))
    if _flag(options, "is_byok") and upstream is not None:
        own = stated_cost(_decimal(upstream, "usage.upstream_cost")).lines[0]
        lines = (*cost.lines, replace(own, item="upstream_cost"))
        return Cost(usd=total(lines), lines=lines)
    return cost


def _one(
    request: Mapping[str, object],
    model: object,
    raw: Mapping[str, object],
    options: Mapping[str, object],
    prices: Mapping[str, object] | None,
    catalog: LayeredCatalog,
    now_us: int,
) -> Cost:
    if prices is None:
        card = _card(request.get("provider"), model, catalog, now_us)
        tier, speed, geo = _served(options)
        cost = price(card, usage_of(raw, card.rates), tier=tier, speed=speed, geo=geo)
    else:
        rates = _explicit_rates(prices)
        card = PriceCard(id="", provider="", model=str(model or "the model"), rates=rates, source="line")
        cost = price(card, usage_of(raw, rates))
        if options.get("tier_mode") == "graduated":
            cost = _graduated(cost, rates, options)
    if cost.unpriced:
        raise ModelNotPriced(f"no rate for {', '.join(cost.unpriced)}")
    return cost


def _card(provider: object, model: object, catalog: LayeredCatalog, now_us: int) -> PriceCard:
    if not isinstance(model, str) or not model or not isinstance(provider, str | None):
        raise InvalidRequest("provider and model must be texts", param="model")
    card = catalog.find(model, provider=provider or "", now_us=now_us)
    if card is None:
        raise ModelNotPriced(f"no price for {provider or 'any provider'} {model}", param="model")
    return card


def _served(options: Mapping[str, object]) -> tuple[str, str | None, str | None]:
    """Tier, speed and geography as served. An explicit multiplier already says what speed and geography cost."""
    tier, speed, geo = (_option_text(options, name) for name in ("service_tier", "speed", "inference_geo"))
    tier = "batch" if _flag(options, "batch") else tier or "default"
    return (tier, None, None) if options.get("multiplier") is not None else (tier, speed, geo)


def _explicit_rates(prices: Mapping[str, object]) -> dict[str, Decimal]:
    rates: dict[str, Decimal] = {}
    for name, value in prices.items():
        if value is None:
            continue
        rate = _decimal(value, f"prices.{name}")
        if rate < 0:
            raise InvalidRequest(f"prices.{name} must not be negative", param=f"prices.{name}")
        rates[_RATES.get(name, name.removeprefix("per_"))] = rate
    return rates


# What the usage is --------------------------------------------------------------------------------------


def usage_of(raw: Mapping[str, object], rates: Mapping[str, Decimal]) -> Usage:
    """A vector's usage as counts. Tool-use prompts are added to the input here, unless they are not billable.

    A class we do not know is a custom metric when the card has a rate of its name; else it is refused.
    """
    counts: dict[str, int | Decimal] = {}
    custom: dict[str, Decimal] = {}
    for name, value in raw.items():
        if name in _NOT_USAGE or value is None:
            continue
        if name in _FIELDS:
            counts[name] = _count(value, name)
            continue
        unit = next((unit for unit in _unit_names(name) if unit in rates), None)
        number = Decimal(_count(value, name, fractional=True))
        if unit is None and number:
            raise ModelNotPriced(f"usage.{name} is no usage class that has a rate here", param=f"usage.{name}")
        if unit is not None:
            custom[unit] = number
    _add_tool_use(raw, counts)
    if "input_tokens" in counts and "output_tokens" not in raw:
        counts["output_tokens"] = 0
    if raw.get("output_tokens", 0) is None and "input_tokens" in counts:
        raise InvalidRequest("the number of output tokens is unknown", param="usage.output_tokens")
    return Usage(**counts, custom=custom)  # type: ignore[arg-type]


def _unit_names(name: str) -> tuple[str, ...]:
    return (name, name.removesuffix("s"), name.removesuffix("_tokens"), name.removesuffix("_requests"))


def _add_tool_use(raw: Mapping[str, object], counts: dict[str, int | Decimal]) -> None:
    tool_use = counts.get("tool_use_input_tokens")
    if tool_use and raw.get("tool_use_billable") is not False and "input_tokens" in counts:
        counts["input_tokens"] += tool_use


def _count(value: object, name: str, *, fractional: bool = False) -> int | Decimal:
    """A count: whole numbers as numbers, seconds and custom metrics as numbers or decimal strings."""
    param = f"usage.{name}"
    fractional = fractional or name in _SECONDS
    if isinstance(value, str) and not fractional:
        raise InvalidRequest(f"{param} must be a whole number, not a text", param=param)
    number = _decimal(value, param)
    count: int | Decimal = int(number) if number == number.to_integral_value() else number
    check_count(count, param, fractional=fractional)
    return count


# What is billed -----------------------------------------------------------------------------------------


def _graduated(cost: Cost, rates: Mapping[str, Decimal], options: Mapping[str, object]) -> Cost:
    """A graduated plan: only what lies above the threshold is on the `_above` rates."""
    threshold = _count(options.get("long_context_threshold"), "long_context_threshold")
    lines: list[PriceLine] = []
    for each in cost.lines:
        above = rates.get(f"{each.item}_above")
        over = max(each.quantity - threshold, Decimal(0)) if above is not None else Decimal(0)
        if above is None or not over:
            lines.append(each)
            continue
        lines += [line(each.item, each.quantity - over, each.rate), line(f"{each.item}_above", over, above)]
    found = tuple(lines)
    return replace(cost, usd=total(found), lines=found)


def _adjusted(lines: tuple[PriceLine, ...], options: Mapping[str, object]) -> tuple[Decimal, tuple[PriceLine, ...]]:
    """The sum after `multiplier` (token lines only) and then `markup_percent`, and the lines that say so."""
    extra: list[PriceLine] = []
    if options.get("multiplier") is not None:
        multiplier = _decimal(options["multiplier"], "options.multiplier")
        if multiplier < 0:
            raise InvalidRequest("options.multiplier must not be negative", param="options.multiplier")
        tokens = total(tuple(each for each in lines if each.item in _TOKEN_LINES))
        extra.append(line("multiplier", EXACT.subtract(multiplier, Decimal(1)), tokens))
    if options.get("markup_percent") is not None:
        markup = _decimal(options["markup_percent"], "options.markup_percent")
        extra.append(line("markup", markup.scaleb(-2, EXACT), total((*lines, *extra))))
    usd = total((*lines, *extra))
    if usd < 0:
        raise InvalidRequest("the markup takes off more than there is", param="options.markup_percent")
    return usd, tuple(each for each in extra if each.amount)


# Reading ------------------------------------------------------------------------------------------------


def _mapping(parent: Mapping[str, object], name: str, *, needed: bool = False) -> Mapping[str, object]:
    value = parent.get(name)
    if value is None and not needed:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{name} must be an object", param=name)
    return value


def _flag(options: Mapping[str, object], name: str) -> bool:
    value = options.get(name)
    if not isinstance(value, bool | None):
        raise InvalidRequest(f"options.{name} must be true or false", param=f"options.{name}")
    return bool(value)


def _decimal(value: object, param: str) -> Decimal:
    """A decimal of a size that products and sums of it stay exact."""
    number = parse_decimal(value, param)
    exponent = number.as_tuple().exponent
    if number and (number.adjusted() >= 20 or not isinstance(exponent, int) or exponent < -30):
        raise InvalidRequest(f"{param} has too many digits", param=param)
    return number if number else Decimal(0)


def _option_text(options: Mapping[str, object], name: str) -> str | None:
    value = options.get(name)
    if not isinstance(value, str | None):
        raise InvalidRequest(f"options.{name} must be a text", param=f"options.{name}")
    return value
