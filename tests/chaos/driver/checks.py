"""What of docs/reference/durability.md does not hold. Each excuse here is a line there; there are no others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from tests.chaos.driver.figures import Book, Seen
from tests.chaos.driver.plan import Mark
from tests.chaos.driver.sidelines import INGESTED_MICROCREDITS, Told
from tests.chaos.driver.town import FIRST_MICROCREDITS
from tests.chaos.verify import Forwarded

_MOST = 10
_DELIVERED = b" word"
"""The upstream's output: a client that has some of it has had something."""
_LOST: frozenset[Mark] = frozenset({"disk lost", "store"})


def violations(seen: Iterable[Seen], book: Book, told: Told, upstream: Iterable[Forwarded]) -> list[str]:
    """In words, at most ten of a kind. Empty is good."""
    found: list[str] = []
    names = set()
    for one in seen:
        names.add(one.call.name)
        found += _of_call(one)
    found += [f"billed, but nobody asked: {name}" for name in book.calls if name not in names]
    twice = _repeated(upstream)
    found += [f"forwarded twice: {name}" for name in twice]
    found += _of_sidelines(book, told)
    found += _of_purses(seen, book)
    return _shortened(found)


def _of_call(one: Seen) -> Iterator[str]:
    call, billed, served, marks = one.call, one.billed, one.served, one.marks
    name = f"{call.name} ({call.kind}, {', '.join(sorted(marks)) or 'no fault near'})"
    said = f"{call.answer.status} {call.answer.body[-120:]!r}"
    if call.answer.status == 500:
        yield f"a defect: {name} was answered {said}"
    if len(billed.kinds) > 1 or billed.adjustments > 1:
        yield f"billed more than once: {name} {billed}"
    if billed.charge_microcredits < 0:
        yield f"a negative charge: {name} {billed}"
    if billed.released and billed.charge_microcredits:
        yield f"released, and charged: {name} {billed}"
    if billed.basis == "exact" and billed.charge_microcredits != one.price:
        yield f"a wrong charge: {name} {billed.charge_microcredits} for {one.price}, {billed}, {served}"
    if billed.basis == "estimated" and call.honest and not marks & {"upstream", "process", "store"}:
        yield f"estimated without need: {name} {billed}, {served}, {said}"
    if billed.basis == "unconfirmed" and "process" not in marks:
        yield f"unconfirmed without need: {name} {billed}, {served}"
    if call.answer.whole:
        yield from _of_whole(one, name)
    elif served is None and billed.charge_microcredits and billed.basis != "unconfirmed":
        yield f"charged for what was never forwarded: {name} {billed}, {said}"
    elif billed.basis == "none" and _DELIVERED in call.answer.body and not marks >= _LOST:
        yield f"delivered and not recorded: {name} {served}, {said}"
    elif served is not None and served.output_tokens and billed.basis == "none" and not _may_be_free(one):
        yield f"served and not recorded: {name} {served}, {said}"


def _of_whole(one: Seen, name: str) -> Iterator[str]:
    if one.served is None:
        yield f"answered but never forwarded: {name}"
    if one.billed.basis == "none":
        yield f"answered but not recorded: {name} {one.served}"
    if one.billed.basis == "unconfirmed" and not {"disk lost", "book"} <= one.marks:
        yield f"answered, and its exact charge was lost: {name} {one.billed}, {one.served}"
    if one.billed.basis == "estimated" and one.call.honest:
        yield f"answered with its count, and estimated: {name} {one.billed}, {one.served}"


def _may_be_free(one: Seen) -> bool:
    """The provider broke off before the client had anything of it, or the hold and the journal were both lost."""
    return not one.call.honest or "upstream" in one.marks or one.marks >= _LOST


def _repeated(upstream: Iterable[Forwarded]) -> list[str]:
    count: dict[str, int] = defaultdict(int)
    for row in upstream:
        count[row.call] += 1
    return [name for name, many in count.items() if many > 1]


# Beside the calls ---------------------------------------------------------------------------------------


def _of_sidelines(book: Book, told: Told) -> Iterator[str]:
    yield from (f"not answered as it should be: {text}" for text in told.unanswered)
    if book.ingested < told.ingested or book.ingested_microcredits != book.ingested * INGESTED_MICROCREDITS:
        yield f"ingested: {told.ingested} queued, {book.ingested} recorded, {book.ingested_microcredits} charged"
    elif book.ingested != told.ingested and not told.unanswered:
        yield f"ingested: {told.ingested} queued, {book.ingested} recorded"
    for name, given in told.top_ups.items():
        there = book.credited.get(name, 0) - FIRST_MICROCREDITS[name]
        if there < given or (there != given and not told.unanswered):
            yield f"topped up: {name} by {given}, the book has {there}"
    for name, (end, cost) in told.reservations.items():
        yield from _of_reservation(name, end, cost, book.reservations)


def _of_reservation(name: str, end: str, cost: int, rows: Mapping[str, tuple[str, int]]) -> Iterator[str]:
    state, actual = rows.get(name, ("", 0))
    allowed = {
        "confirmed": {"settled"},
        "cancelled": {"released"},
        "left": {"expired", "released", ""},
        "refused": {""},
        "expired": {"expired", "released", ""},
    }[end]
    if state not in allowed or (state == "settled" and actual != cost):
        yield f"a reservation: {name} was {end} at {cost}, the book says {state or 'nothing'} at {actual}"


def _of_purses(seen: Iterable[Seen], book: Book) -> Iterator[str]:
    for name, purse in book.purses.items():
        floor = -purse.overdraft - purse.raised - _late(seen, name)
        if purse.lowest < floor:
            yield f"overspent: {name} was at {purse.lowest}, allowed is {floor}"


def _late(seen: Iterable[Seen], account: str) -> int:
    """Charges of a dead process whose holds Redis had lost as well: booked when its journal is replayed."""
    both = {"process", "store"}
    return sum(one.billed.charge_microcredits for one in seen if one.call.account == account and both <= one.marks)


def _shortened(lines: list[str]) -> list[str]:
    groups: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        groups[line.partition(":")[0]].append(line)
    more = [f"... {len(group)} in all: {kind}" for kind, group in groups.items() if len(group) > _MOST]
    return [line for group in groups.values() for line in group[:_MOST]] + more
