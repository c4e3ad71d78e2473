"""Both databases: who asks for `url` runs on SQLite and on PostgreSQL. Servers start when a test needs them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faregate.ledger.schema import prepare
from tests.postgres import Cluster, running


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
