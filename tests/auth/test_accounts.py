from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from faregate.auth.accounts import AccountResolver
from faregate.clock import SystemClock
from faregate.core.call import Principal
from faregate.errors import NotFound, PermissionDenied


@dataclass
class Found:
    id: str


@dataclass
class Book:
    """(organization, id or external id) -> id."""

    accounts: dict[tuple[str, str], str]
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def get(self, organization_id: str, reference: str) -> Found:
        self.asked.append((organization_id, reference))
        if (organization_id, reference) not in self.accounts:
            raise NotFound("no such account")
        return Found(self.accounts[organization_id, reference])


def _principal(organization: str = "org_a", account: str | None = None) -> Principal:
    return Principal(
        key_id="k",
        rev=1,
        organization_id=organization,
        account_id=account,
        default_account_id="acc_default",
        scopes=frozenset({"proxy"}),
    )


@pytest.fixture
def book() -> Book:
    return Book({("org_a", "acc_1"): "acc_1", ("org_a", "ann"): "acc_1", ("org_b", "ann"): "acc_2"})


async def test_without_a_name_it_is_the_key_s_own(book: Book) -> None:
    resolver = AccountResolver(book, SystemClock())
    assert await resolver.resolve(_principal(), None) == "acc_default"
    assert await resolver.resolve(_principal(), "") == "acc_default"
    assert await resolver.resolve(_principal(account="acc_1"), None) == "acc_1"
    assert book.asked == []


async def test_a_name_is_an_organization_s_own(book: Book) -> None:
    resolver = AccountResolver(book, SystemClock())
    assert await resolver.resolve(_principal(), "ann") == "acc_1"
    assert await resolver.resolve(_principal("org_b"), "ann") == "acc_2"
    with pytest.raises(NotFound):
        await resolver.resolve(_principal("org_b"), "acc_1")


async def test_what_exists_is_asked_once_what_does_not_again(book: Book) -> None:
    resolver = AccountResolver(book, SystemClock())
    for _ in range(3):
        await resolver.resolve(_principal(), "ann")
    assert len(book.asked) == 1
    with pytest.raises(NotFound):
        await resolver.resolve(_principal(), "bob")
    book.accounts["org_a", "bob"] = "acc_3"
    assert await resolver.resolve(_principal(), "bob") == "acc_3"


@pytest.mark.parametrize("named", ["acc_1", "ann"])
async def test_a_bound_key_may_name_its_account(book: Book, named: str) -> None:
    assert await AccountResolver(book, SystemClock()).resolve(_principal(account="acc_1"), named) == "acc_1"


@pytest.mark.parametrize("named", ["acc_default", "nobody", "acc_2"])
async def test_a_bound_key_may_name_no_other(book: Book, named: str) -> None:
    with pytest.raises(PermissionDenied):
        await AccountResolver(book, SystemClock()).resolve(_principal(account="acc_1"), named)


async def test_the_cache_is_bounded_and_long_names_never_reach_the_book(book: Book) -> None:
    resolver = AccountResolver(book, SystemClock(), size=1)
    for named in ("ann", "acc_1", "ann"):
        await resolver.resolve(_principal(), named)
    assert len(book.asked) == 3
    with pytest.raises(NotFound):
        await resolver.resolve(_principal(), "x" * 201)
    assert len(book.asked) == 3
