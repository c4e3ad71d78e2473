"""Both databases: who asks for `url` runs on SQLite and on PostgreSQL. Servers start when a test needs them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faregate.ledger.schema import prepare
from tests.postgres import Cluster, running

_BOTH = {
    "api": {"test_accounts", "test_idempotency", "test_plans", "test_reservations", "test_transactions", "test_usage"},
    "story": {"test_charges"},
}
"""Of these folders, the modules that run on PostgreSQL, too, without being asked."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """CI has not the minutes for every request and story on both databases: `FAREGATE_TESTS=everything` takes them."""
    if os.environ.get("FAREGATE_TESTS") == "everything":
        return
    left_out = [item for item in items if _only_asked_for(item)]
    config.hook.pytest_deselected(items=left_out)
    gone = set(left_out)
    items[:] = [item for item in items if item not in gone]


def _only_asked_for(item: pytest.Item) -> bool:
    modules = _BOTH.get(item.path.parent.name)
    return modules is not None and item.path.stem not in modules and "[postgres" in item.name


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server for the session."""
    with running() as cluster:
        cluster.make_template()
        yield cluster


@pytest.fixture(scope="session")
def book_template() -> Iterator[Path]:
    """A SQLite book with its schema and nothing else: migrating takes longer than most tests."""
    with tempfile.TemporaryDirectory(prefix="fg") as folder:
        prepare(f"sqlite:///{folder}/template.db")
        yield Path(folder) / "template.db"


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which database."""
    return str(request.param)


@pytest.fixture
def url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty book."""
    if kind == "postgres":
        cluster: Cluster = request.getfixturevalue("cluster")
        with cluster.database() as url:
            yield url
    else:
        shutil.copy(request.getfixturevalue("book_template"), tmp_path / "book.db")
        yield f"sqlite:///{tmp_path}/book.db"
