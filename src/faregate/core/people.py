"""People: users, what they may do in which organization, and the app passwords they come with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, get_args

Role = Literal["superadmin", "admin", "member", "service"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""The strongest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One active membership."""

    organization_id: str
    organization_name: str
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who calls: an active user, or somebody only the identity provider knows."""

    id: str | None
    """None: the installation has no such user."""
    uuid: str | None
    email: str
    home: str | None
    """The organization whose own the user is: nothing else exists for them. None: the installation's."""
    standings: tuple[Standing, ...] = ()
    """Oldest first."""
    claimed: Role | None = None
    """The role that the identity provider gives, whatever the standings say."""

    @property
    def superadmin(self) -> bool:
        return self.claimed == "superadmin" or any(standing.role == "superadmin" for standing in self.standings)

    @property
    def who(self) -> str:
        """For the audit trail."""
        return self.id or self.email


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPassword:
    """An app password as the book has it, with whose it is."""

    id: str
    secret_hash: str = field(repr=False)
    expires_us: int | None
    revoked: bool
    last_used_us: int | None
    person: Person | None
    """None: the user is not active."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """What our own tokens are signed with, shared by all processes on a book. `secret`: 64 hex digits."""

    id: str
    secret: str = field(repr=False)
    created_us: int
