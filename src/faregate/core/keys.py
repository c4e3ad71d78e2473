"""An API key as the book keeps it: only the hash of its secret, with its organization's facts joined in."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from faregate.core.call import Limit

BOOTSTRAP_KEY_ID = "bootstrap"
"""The row of the bootstrap admin key: it stands above organizations, and its secret may be any string."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """One key, read in one go with its organization's facts. A change of either raises `rev`."""

    id: str
    """The public part: 16 hex digits, or BOOTSTRAP_KEY_ID."""
    rev: int
    """1 at creation, +1 with every change: limits, scopes, models, expiry, rotation, revocation, facts."""
    secret_hash: str = field(repr=False)
    """SHA-256 of the whole key (`fg_live_<id>_<secret>`), 64 hex digits."""
    organization_id: str
    account_id: str | None = None
    """None: the key may act for any account of its organization."""
    default_account_id: str
    scopes: frozenset[str]
    models: tuple[str, ...] | None = None
    limits: tuple[Limit, ...] = ()
    max_multiplier: Decimal = Decimal(1)
    test: bool = False
    above_organizations: bool = False
    revoked: bool = False
    expires_at: float | None = None
    """UTC seconds."""
    credits_per_usd: Decimal = Decimal(1000)
    markup_percent: Decimal = Decimal(0)
