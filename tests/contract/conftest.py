"""Contract tests run against the stories' houses, on SQLite: what SDKs see is the same with either database."""

from __future__ import annotations

import pytest

from tests.story.conftest import house as house
from tests.story.conftest import keeper as keeper
from tests.story.conftest import kept as kept
from tests.story.conftest import open_house as open_house
from tests.story.conftest import story_valkey as story_valkey
from tests.story.conftest import upstream as upstream


@pytest.fixture
def kind() -> str:
    return "sqlite"
