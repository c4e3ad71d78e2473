from __future__ import annotations

import pytest

from faregate.core.limit_ids import kind_of, kind_of_key


@pytest.mark.parametrize(
    ("limit_id", "kind"),
    [
        ("key_ab12.credits.month", "credits"),
        ("k1.requests.minute", "requests"),
        ("tokens.requests.credits.day", "credits"),
        ("key_ab12.concurrency", "concurrency"),
        ("key_ab12.concurrency.total", "concurrency"),
        ("key_ab12.month", None),
        ("credits.key_ab12.month", None),
        ("", None),
    ],
)
def test_a_limit_says_what_it_counts(limit_id: str, kind: str | None) -> None:
    assert kind_of(limit_id) == kind
    assert kind_of_key(f"{limit_id}:1790000000") == kind
