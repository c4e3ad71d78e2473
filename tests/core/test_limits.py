from __future__ import annotations

from faregate.core.call import Limit, LimitKind, Principal, Window
from faregate.core.limits import rate_limit_headers

NOW_US = 1_767_225_600_000_000 + 45_500_000
"""2026-01-01 00:00:45.5 UTC."""


def headers(*limits: tuple[LimitKind, Window, int, int]) -> dict[str, str]:
    """(kind, window, max, rest) each."""
    made = tuple(Limit(id=f"k.{kind}.{window}", kind=kind, window=window, max=most) for kind, window, most, _ in limits)
    principal = Principal(
        key_id="k",
        rev=1,
        organization_id="o",
        account_id=None,
        default_account_id="a",
        scopes=frozenset(),
        limits=made,
    )
    return rate_limit_headers(principal, tuple(rest for *_, rest in limits), NOW_US)


def test_requests_and_tokens_have_the_names_openais_clients_know() -> None:
    assert headers(("requests", "minute", 10, 7), ("tokens", "hour", 1000, 990)) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "7",
        "x-ratelimit-reset-requests": "15s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "990",
        "x-ratelimit-reset-tokens": "3555s",
    }


def test_of_two_windows_the_one_with_less_left_is_told_wherever_it_stands() -> None:
    minute, day = ("requests", "minute", 10, 9), ("requests", "day", 100, 3)
    for order in ((minute, day), (day, minute)):
        told = headers(*order)  # type: ignore[arg-type]
        assert told["x-ratelimit-limit-requests"] == "100"
        assert told["x-ratelimit-remaining-requests"] == "3"
        assert told["x-ratelimit-reset-requests"] == str(86_400 - 45) + "s"


def test_credits_and_concurrency_are_not_told() -> None:
    assert headers(("credits", "day", 5, 4), ("concurrency", "total", 3, 2)) == {}


def test_a_window_that_was_overrun_has_nothing_left_rather_than_less() -> None:
    assert headers(("tokens", "minute", 100, -250))["x-ratelimit-remaining-tokens"] == "0"


def test_a_hold_that_knows_no_rests_tells_nothing() -> None:
    principal = Principal(
        key_id="k",
        rev=1,
        organization_id="o",
        account_id=None,
        default_account_id="a",
        scopes=frozenset(),
        limits=(Limit(id="k.requests.day", kind="requests", window="day", max=1),),
    )
    assert rate_limit_headers(principal, (), NOW_US) == {}
