"""The driver's checks would see it: each line here is a way to lose or invent money."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.chaos.driver.checks import violations
from tests.chaos.driver.figures import Billed, Book, Done, Purse, Seen, seen
from tests.chaos.driver.plan import Fault, Mark, plan
from tests.chaos.driver.sidelines import Told
from tests.chaos.driver.traffic import Call, call
from tests.chaos.load import Answer
from tests.chaos.verify import Forwarded

SERVED = Forwarded(call="c", status=200, input_tokens=10, output_tokens=5, outcome="completed")
BILLED = Billed(kinds=["actual"], charge_microcredits=SERVED.price_microcredits)
BOOK = Book(calls={}, ingested=0, ingested_microcredits=0, reservations={}, purses={}, credited={})


def one(
    billed: Billed = BILLED,
    served: Forwarded | None = SERVED,
    *,
    status: int = 200,
    marks: tuple[Mark, ...] = (),
    body: bytes = b"",
) -> Seen:
    answer = Answer(call="c", stream=False, status=status, complete=True, body=body)
    made = Call(name="c", kind="plain", account="rich", told={}, stream=False, hang_up_s=9, answer=answer)
    return Seen(call=made, served=served, billed=billed, marks=frozenset(marks))


def wrong(some: Seen, book: Book = BOOK, told: Told | None = None) -> list[str]:
    return [line.partition(":")[0] for line in violations([some], book, told or Told(), [])]


def test_nothing_is_wrong_with_an_answer_that_was_charged_what_was_served() -> None:
    assert wrong(one()) == []


@pytest.mark.parametrize(
    ("some", "kind"),
    [
        (one(Billed(kinds=["actual"], charge_microcredits=1)), "a wrong charge"),
        (one(replace(BILLED, kinds=["actual", "actual"])), "billed more than once"),
        (one(replace(BILLED, estimated=True)), "estimated without need"),
        (one(replace(BILLED, kinds=["unconfirmed"])), "unconfirmed without need"),
        (one(replace(BILLED, kinds=["unconfirmed"]), marks=("process",)), "answered, and its exact charge was lost"),
        (one(Billed()), "answered but not recorded"),
        (one(served=None, status=503), "charged for what was never forwarded"),
        (one(Billed(), status=502), "served and not recorded"),
        (one(Billed(), status=502, marks=("upstream",), body=b'{"content":" word'), "delivered and not recorded"),
        (one(replace(BILLED, released=True), status=502), "released, and charged"),
        (one(Billed(kinds=["unconfirmed"], adjustments=1, released=True)), "answered but not recorded"),
        (one(Billed(), served=None, status=500), "a defect"),
    ],
)
def test_a_call_that_does_not_add_up_is_said(some: Seen, kind: str) -> None:
    assert kind in wrong(some)


def test_what_the_durability_page_allows_is_not_said() -> None:
    assert wrong(one(replace(BILLED, kinds=["unconfirmed"]), status=0, marks=("process",))) == []
    lost = one(replace(BILLED, kinds=["unconfirmed"]), marks=("process", "book", "disk lost"))
    assert wrong(lost) == []
    assert wrong(one(Billed(), status=502, marks=("upstream",))) == []


def test_overspending_is_said_beyond_what_late_truths_have_raised() -> None:
    purse = Purse(posted=-30, overdraft=10, lowest=-30, raised=20)
    assert wrong(one(), replace(BOOK, purses={"rich": purse})) == []
    assert wrong(one(), replace(BOOK, purses={"rich": replace(purse, raised=19)})) == ["overspent"]


def test_what_was_queued_and_what_was_confirmed_is_looked_for() -> None:
    assert wrong(one(), told=Told(ingested=5)) == ["ingested"]
    assert wrong(one(), told=Told(reservations={"r": ("confirmed", 7)})) == ["a reservation"]
    assert wrong(one(), replace(BOOK, credited={"tight": 500_007}), Told(top_ups={"tight": 8})) == ["topped up"]
    there = replace(BOOK, reservations={"r": ("settled", 7)})
    assert wrong(one(), there, Told(reservations={"r": ("confirmed", 7)})) == []


def test_a_fault_excuses_only_calls_that_were_there() -> None:
    early, late = (replace(one().call, name=name, began=at, ended=at + 1) for name, at in (("early", 1), ("late", 50)))
    fault = Done(names=("kill",), details=("",), marks=frozenset({"process"}), began=1.5, ended=3)
    marks = {one.call.name: one.marks for one in seen({"early": early, "late": late}, BOOK, [], [fault], 2)}
    assert marks == {"early": {"process"}, "late": frozenset()}


def test_the_seed_says_everything() -> None:
    async def act(dice: random.Random) -> str:
        return ""

    faults = [Fault(name=f"f{n}", target=f"t{n % 3}", act=act) for n in range(9)]

    def names(seed: int) -> list[tuple[str, ...]]:
        steps = plan(seed, faults, pause_s=(0, 1))
        return [tuple(fault.name for fault in next(steps).faults) for _ in range(20)]

    assert names(1) == names(1) != names(2)
    assert {name for step in names(1) for name in step} == {fault.name for fault in faults}
    assert call(1, 7)[0] == call(1, 7)[0] != call(2, 7)[0]
