"""A run as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal

from tests.chaos.driver.figures import Basis, Seen
from tests.chaos.driver.run import Result

_LISTED = 40


def report(result: Result) -> str:
    """All figures, the calls whose charge is no count of the provider's, and what is wrong."""
    return "\n".join(_lines(result))


def _lines(result: Result) -> Iterator[str]:
    calls, book, told = result.calls, result.book, result.told
    whole = [one for one in calls if one.call.answer.whole]
    exact = _with(calls, "exact")
    charged, served = _charges(exact), sum(one.price for one in exact)
    names = Counter(name for fault in result.faults for name in fault.names)
    again = [fault.served_after_s for fault in result.faults if fault.served_after_s is not None]
    yield f"seed {result.options.seed}, {result.seconds:.0f} s, {sum(names.values())} faults ({len(names)} kinds)"
    yield from (f"CANNOT BE DONE HERE: {line}" for line in result.missing)
    yield ""
    yield from _row("calls", len(calls), _count(one.call.kind for one in calls))
    yield from _row("answered", sum(one.call.answer.status > 0 for one in calls), _statuses(calls))
    yield from _row(
        "answered whole", len(whole), f"served again at the latest {max(again, default=0):.1f} s after a fault"
    )
    yield from _row("  with exactly one record", sum(len(one.billed.kinds) == 1 for one in whole), "")
    yield from _row(
        "records of calls", sum(len(one.billed.kinds) for one in calls), _count(one.billed.basis for one in calls)
    )
    yield from _row("late truths", sum(one.billed.adjustments for one in calls), "as one adjustment each")
    yield ""
    yield from _row("sum of exact charges", charged, "microcredits")
    yield from _row(
        "upstream's account x price", served, f"of the same {len(exact)} calls; difference {charged - served}"
    )
    for basis in ("estimated", "unconfirmed"):
        some = _with(calls, basis)
        truth = sum(one.price for one in some)
        yield from _row(f"{basis}, apart", len(some), f"charged {_charges(some)}, served {truth}")
    free = [one for one in calls if one.price and one.billed.basis == "none"]
    yield from _row(
        "served and not charged", len(free), f"broken off before any output, {sum(one.price for one in free)} in all"
    )
    yield ""
    ends = _count(end for end, _ in told.reservations.values())
    yield from _row("reservations", len(told.reservations), ends)
    yield from _row("top-ups", sum(told.top_ups.values()), "microcredits, each once")
    yield from _row("usage from outside", book.ingested, f"{told.ingested} were answered 202")
    for name, purse in book.purses.items():
        least = f"overdraft {_credits(purse.overdraft)}, raised by late truths {_credits(purse.raised)}"
        yield f"  {name:<26}{_credits(purse.posted):>16} credits, never below {_credits(purse.lowest)} ({least})"
    yield from _row("holds left", len(result.left), "")
    yield f"  {'audit':<26}{'clean' if not result.audits else 'NOT CLEAN':>16}"
    yield from _listed(calls)
    yield ""
    yield from result.found
    yield (
        "all of it holds"
        if not result.found
        else f"{len(result.found)} VIOLATIONS; repeat with --seed {result.options.seed}"
    )


def _row(name: str, figure: int, more: str) -> Iterator[str]:
    yield f"  {name:<26}{figure:>16,}  {more}".rstrip()


def _with(calls: Iterable[Seen], basis: Basis) -> list[Seen]:
    return [one for one in calls if one.billed.basis == basis]


def _charges(calls: Iterable[Seen]) -> int:
    return sum(one.billed.charge_microcredits for one in calls)


def _count(words: Iterable[str]) -> str:
    return ", ".join(f"{word} {many:,}" for word, many in sorted(Counter(words).items()))


def _statuses(calls: Iterable[Seen]) -> str:
    return _count(str(one.call.answer.status or "none") for one in calls)


def _credits(microcredits: int) -> str:
    return f"{Decimal(microcredits) / 1_000_000:,.4f}"


def _listed(calls: Iterable[Seen]) -> Iterator[str]:
    """Calls that were told to be counted, and could not be."""
    some = [one for one in calls if one.billed.basis in ("estimated", "unconfirmed") and one.call.honest]
    if not some:
        return
    yield ""
    yield f"charged without the provider's count, though it would have given one ({len(some)}):"
    for one in some[:_LISTED]:
        near = ", ".join(sorted(one.marks))
        figures = f"{one.billed.charge_microcredits:>8} for {one.price:>8}"
        yield f"  {one.call.name:<12}{one.billed.basis:<12}{figures}  near: {near}"
    if len(some) > _LISTED:
        yield f"  ... and {len(some) - _LISTED} more"
