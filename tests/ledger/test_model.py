"""The book beside a plain-Python model: the same records in any order, any batches, with repeats and late truths."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select
from tests.postgres import Cluster

from faregate.core.call import Record
from faregate.ledger import tables
from faregate.ledger.audit import findings
from faregate.ledger.commit import write_batch
from faregate.ledger.dialect import exact_sum
from faregate.ledger.engine import transact
from faregate.ledger.schema import prepare

ACCOUNTS = ("acc_a", "acc_b")
NOW_US = 1_790_000_000_000_000


@dataclass
class Model:
    """What the protocol says, without SQL."""

    booked: dict[str, tuple[str, int]] = field(default_factory=dict)
    posted: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    seq: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    windows: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    cost: Decimal = Decimal(0)
    costs: dict[str, Decimal] = field(default_factory=dict)

    def commit(self, record: Record) -> bool:
        kind, charge = self.booked.get(record.hold_id, ("", 0))
        if kind and not (kind == "unconfirmed" and record.kind == "actual"):
            return False
        moved = record.charge_microcredits - charge
        self.posted[record.account_id] -= moved
        self.seq[record.account_id] += moved != 0
        for key in record.limit_keys:
            self.windows[key] += moved if "credits" in key else int(not kind)
        self.cost += record.cost_usd - self.costs.get(record.hold_id, Decimal(0))
        self.costs[record.hold_id] = record.cost_usd
        done = "adjusted" if kind else record.kind
        self.booked[record.hold_id] = (done, record.charge_microcredits)
        return True


@st.composite
def _records(draw: st.DrawFn) -> list[list[Record]]:
    holds = draw(st.lists(st.tuples(st.sampled_from(ACCOUNTS), st.booleans()), min_size=1, max_size=6))
    events = st.tuples(
        st.integers(0, len(holds) - 1), st.sampled_from(["actual", "unconfirmed"]), st.sampled_from([0, 1, 7, 50])
    )
    batches = draw(st.lists(st.lists(events, min_size=1, max_size=5), min_size=1, max_size=6))
    return [[_record(hold, *holds[hold], kind, charge) for hold, kind, charge in batch] for batch in batches]


def _record(hold: int, account: str, limited: bool, kind: str, charge: int) -> Record:
    base = Record(
        hold_id=f"hold_{hold}",
        hold_kind="call",
        kind="actual",
        organization_id="org_1",
        account_id=account,
        key_id=None,
        request_id=f"req_{hold}",
        occurred_at_us=NOW_US,
        charge_microcredits=charge,
        cost_usd=Decimal(charge) / 10**9,
        provider="p",
        model="m",
        usage={"input_tokens": charge},
        limit_keys=("k.credits.day:0", "k.requests.day:0") if limited else (),
    )
    return base if kind == "actual" else replace(base, kind="unconfirmed")


@contextmanager
def _file() -> Iterator[str]:
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/book.db"
        prepare(url)
        yield url


def _seed(conn: Connection) -> None:
    rates = {"credits_per_usd": Decimal(1000), "markup_percent": Decimal(0), "ingest_charges": False}
    times = {"created_us": 0, "updated_us": 0}
    organization = {"id": "org_1", "uuid": "u", "name": "n", "default_account_id": "acc_a"}
    conn.execute(tables.organizations.insert().values(**organization, **rates, **times))
    for account in ACCOUNTS:
        values = {"id": account, "organization_id": "org_1", "bucket": 0, "name": account}
        conn.execute(tables.accounts.insert().values(**values, **times))


@given(_records())
@settings(max_examples=60, deadline=None)
def test_the_book_does_what_the_model_does(batches: list[list[Record]]) -> None:
    with _file() as url:
        _compare(url, batches)


@given(batches=_records())
@settings(max_examples=15, deadline=None)
def test_the_book_on_postgres_does_what_the_model_does(cluster: Cluster, batches: list[list[Record]]) -> None:
    with cluster.database() as url:
        _compare(url, batches)


def _compare(url: str, batches: list[list[Record]]) -> None:
    model = Model()
    transact(url, _seed)
    for batch in batches:
        expected = [model.commit(record) for record in batch]
        answers = transact(url, lambda conn, batch=batch: write_batch(conn, batch, NOW_US))  # type: ignore[misc]
        assert [answer.new for answer in answers] == expected
        for record, answer in zip(batch, answers, strict=True):
            snapshot = answer.snapshot
            assert snapshot.posted == model.posted[record.account_id]
            assert snapshot.seq == model.seq[record.account_id]
            assert {state.key: state.used for state in snapshot.limits} == {
                key: model.windows[key] for key in record.limit_keys
            }
    assert transact(url, lambda conn: list(findings(conn))) == []
    total = transact(url, lambda conn: conn.execute(select(exact_sum(tables.hour_rollups.c.cost))).scalar_one())
    assert (total or 0) == model.cost
