"""One world per test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.world import Gateway, Upstream, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An upstream that runs and a gateway that does not, yet."""
    upstream = Upstream()
    gateway = Gateway(tmp_path, upstream.url)
    try:
        yield World(tmp_path, upstream, gateway)
    finally:
        gateway.end()
        upstream.stop()
