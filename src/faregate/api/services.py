"""What the control plane works with. The composition root builds one per process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from faregate.api.once import Once
from faregate.api.price_layer import PriceLayer
from faregate.auth.identity import Identity
from faregate.core.call import Hold, Principal, Snapshot
from faregate.ledger.queries import Ledger
from faregate.owner import Owner
from faregate.ports import Clock, Keys, Router, SweptHold
from faregate.pricing.catalog import LayeredCatalog
from faregate.providers.router import Listed
from faregate.reservations import Reserver


class ControlGate(Protocol):
    """The part of `credits.gate.RedisGate` that is used here. Every method raises StoreUnavailable."""

    async def settle(self, hold: Hold | None, snapshot: Snapshot, bucket: int) -> None:
        """Apply the book's absolutes."""
        ...

    async def set_rev(self, bucket: int, key_id: str, rev: int) -> None:
        """Tell Redis a key's rev: older principals stop at their next call."""
        ...

    async def epoch(self, bucket: int) -> str:
        """The bucket's epoch: an account of another one is cold."""
        ...

    async def account(self, bucket: int, account_id: str) -> dict[str, str]:
        """An account as Redis has it; empty when it is cold."""
        ...

    async def holds(self, bucket: int, account_id: str) -> list[SweptHold]:
        """The account's open holds."""
        ...


class ListingRouter(Router, Protocol):
    """A router that can say what a key may call."""

    def listing(self, principal: Principal, now_us: int) -> Sequence[Listed]:
        """The public names the key may call that have a price."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything a handler may ask for."""

    keys: Keys
    identity: Identity
    ledger: Ledger
    owner: Owner
    reserver: Reserver
    gate: ControlGate
    catalog: LayeredCatalog
    prices: PriceLayer
    router: ListingRouter
    clock: Clock
    metrics_text: Callable[[], bytes]
    """The Prometheus exposition."""
    credits_per_usd: str = "1000"
    """Of organizations created without one (a decimal)."""
    max_body_bytes: int = 1 << 20
    """Control-plane bodies are small: parsing a larger one would keep the event loop busy."""
    probes: Mapping[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    """More of what admission needs (a writable journal, ...): each raises StoreUnavailable when it is down."""
    modes: Callable[[], Mapping[str, int]] = dict
    """Degraded modes by name; 0 is well."""
    notes: Mapping[str, Callable[[], Awaitable[str]]] = field(default_factory=dict)
    """What an operator should see beside the probes, though calls go on: a word about it, or nothing."""
    doors: tuple[tuple[str, str, str], ...] = ()
    """The data plane's, as they are described: method, path, what it is."""
    once: Once = field(default_factory=Once)
