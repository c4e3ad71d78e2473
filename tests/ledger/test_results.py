from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import orjson
import pytest
from tests.ledger.conftest import NOW_US

from faregate.core.call import Limit, LimitState, Snapshot
from faregate.ledger.posting import Entry
from faregate.ledger.results import decode, encode

SNAPSHOT = Snapshot(account_id="a", posted=-5, seq=3, limits=(LimitState(key="k", used=1, seq=2),))
ENTRY = Entry(
    id="txn_1",
    organization_id="o",
    account_id="a",
    seq=1,
    type="credit",
    amount=2**53,
    balance_after=2**53,
    reason="credit",
    metadata={"a": {"b": [1, 0.1, None, True, "x"]}},
    created_us=NOW_US,
)


@dataclass
class Foreign:
    value: int = 1


@pytest.mark.parametrize(
    "value",
    [
        None,
        (ENTRY, SNAPSHOT, False),
        {1: Decimal("1.50"), "map": {"class": "x"}},
        [frozenset({"b", "a"}), b"\x00\xff", (), Limit(id="l", kind="credits", window="day", max=5)],
    ],
)
def test_a_result_comes_back_as_it_was(value: object) -> None:
    assert decode(orjson.loads(orjson.dumps(encode(value)))) == value


@pytest.mark.parametrize("value", [object(), Foreign(), {"a": range(3)}])
def test_what_is_no_result_is_said_at_once(value: object) -> None:
    with pytest.raises(TypeError):
        encode(value)


@pytest.mark.parametrize(
    "name", ["os:system", "faregate.ledger.results:encode", "faregate.nothing:X", "subprocess:Popen"]
)
def test_only_dataclasses_of_ours_are_made(name: str) -> None:
    with pytest.raises(TypeError):
        decode({"class": name, "fields": {}})
