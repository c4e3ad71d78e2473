"""From a presented key to its principal: a bounded cache before the book.

Three things keep the cache honest. It is keyed by the SHA-256 of the whole secret, so no other secret can
meet an entry (CVE-2026-35030). An entry is read again after a minute. And `reserve` compares its `rev` with
what Redis says and sends the flow to `refresh` when it differs: a revoked key stops at its next call.

Bad keys are cheap: malformed ones never reach the book, unknown ones are remembered for a few seconds, and
however many ask for one key at once, the book is read once.

While SQL is away a key that was good keeps working (Redis still knows its rev, and no revocation can be
committed), up to `stale_s`; one never seen is StoreUnavailable.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Generic, Protocol, TypeVar

from faregate.auth.flights import Flights
from faregate.auth.keys import MAX_PRESENTED, bad_key, hash_secret, parse, same
from faregate.core.call import Principal, bucket_of
from faregate.core.keys import BOOTSTRAP_KEY_ID, StoredKey
from faregate.errors import BookUnavailable, StoreUnavailable
from faregate.guard import book_guard
from faregate.ports import Clock


class KeyStore(Protocol):
    """The book's side of keys."""

    async def by_id(self, key_id: str) -> StoredKey | None:
        """The key as it is now, revoked ones included; None: there is none. Raises BookUnavailable."""
        ...


class RevStore(Protocol):
    """Redis's side of keys."""

    async def set_rev(self, bucket: int, key_id: str, rev: int) -> None:
        """Tell the gate a key's rev. Must never lower it: a reader of an old row may come last.

        Raises StoreUnavailable.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheBounds:
    """How many principals are kept, and how long (seconds, monotonic)."""

    size: int = 20_000
    fresh_s: float = 60.0
    """How long an entry is used without asking the book."""
    stale_s: float = 3_600.0
    """How long an entry is used while the book cannot be asked."""
    retry_s: float = 5.0
    """How long after a failed read the book is not asked again for a key that is known."""
    unknown_size: int = 20_000
    unknown_s: float = 5.0
    """How long a refusal is remembered."""
    patience_s: float = 0.25
    """How long a caller whose key is known waits for the book before the old entry does."""
    read_timeout_s: float = 2.0
    reads: int = 16
    """Reads at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Presented(Principal):
    """A principal that remembers which secret it came by, so that `refresh` can tell a rotated one."""

    secret_hash: str = field(repr=False)


@dataclass(slots=True)
class _Entry:
    principal: _Presented
    read_at: float
    ask_at: float
    """When the book is to be asked again."""


class Principals:
    """API keys (ports.Keys). One per process; every time is monotonic except a key's own expiry."""

    def __init__(
        self,
        store: KeyStore,
        revs: RevStore,
        clock: Clock,
        *,
        admin_hash: str | None = None,
        bounds: CacheBounds | None = None,
    ) -> None:
        """`admin_hash`: `hash_secret` of the bootstrap admin key (settable); the rest of it is row BOOTSTRAP_KEY_ID."""
        self._store = store
        self._revs = revs
        self._clock = clock
        self.admin_hash = admin_hash
        self._bounds = bounds or CacheBounds()
        self._known: _Lru[str, _Entry] = _Lru(self._bounds.size)
        self._unknown: _Lru[str, float] = _Lru(self._bounds.unknown_size)
        self._reads = Flights(self._read)
        self._refreshes = Flights(self._read_and_tell)
        self._used: dict[str, int] = {}
        self._slots = asyncio.Semaphore(self._bounds.reads)
        self.guard = book_guard(clock, self._bounds.read_timeout_s, "the key cannot be checked now")

    async def authenticate(self, secret: str) -> Principal:
        """The principal of a presented key. Raises InvalidApiKey, and StoreUnavailable (new key, no SQL)."""
        if not 0 < len(secret) <= MAX_PRESENTED:
            raise bad_key()
        digest = hash_secret(secret)
        entry = self._known.get(digest)
        if entry is None or self._clock.monotonic() >= entry.ask_at:
            entry = await self._ask(secret, digest, entry)
        self._used[entry.principal.key_id] = self._clock.now_us()
        return self._unexpired(entry)

    def take_used(self) -> dict[str, int]:
        """Which keys were used since the last time this was asked, and when (UTC microseconds)."""
        used, self._used = self._used, {}
        return used

    async def refresh(self, principal: Principal) -> Principal:
        """Read the key again (Redis named another rev, or none) and tell Redis its rev.

        Raises StoreUnavailable, and InvalidApiKey when it is revoked, expired, gone or has a new secret.
        """
        stored = await self._refreshes.fresh(principal.key_id)
        if isinstance(principal, _Presented):
            return self._unexpired(self._admit(stored, principal.secret_hash))
        return self._unexpired(self._admit(stored, self._hash_of(stored) if stored else ""))

    async def _ask(self, secret: str, digest: str, entry: _Entry | None) -> _Entry:
        key_id = self._key_id(secret, digest)
        refused_until = self._unknown.get(digest)
        if refused_until is not None and self._clock.monotonic() < refused_until:
            raise bad_key()
        try:
            async with asyncio.timeout(None if entry is None else self._bounds.patience_s):
                stored = await self._reads.join(key_id)
        except (StoreUnavailable, TimeoutError):
            return self._stale(entry)
        return self._admit(stored, digest)

    def _key_id(self, secret: str, digest: str) -> str:
        if self.admin_hash is not None and same(digest, self.admin_hash):
            return BOOTSTRAP_KEY_ID
        return parse(secret).id

    def _admit(self, stored: StoredKey | None, digest: str) -> _Entry:
        """Cache what the book said of the key with that hash, or refuse it and remember that."""
        if stored is None or stored.revoked or not same(digest, self._hash_of(stored)):
            self._known.drop(digest)
            self._unknown.put(digest, self._clock.monotonic() + self._bounds.unknown_s)
            raise bad_key()
        now = self._clock.monotonic()
        entry = _Entry(_principal(stored, digest), now, now + self._bounds.fresh_s)
        self._unknown.drop(digest)
        self._known.put(digest, entry)
        return entry

    def _hash_of(self, stored: StoredKey) -> str:
        if stored.id == BOOTSTRAP_KEY_ID and self.admin_hash is not None:
            return self.admin_hash
        return stored.secret_hash

    def _stale(self, entry: _Entry | None) -> _Entry:
        now = self._clock.monotonic()
        if entry is None or now >= entry.read_at + self._bounds.stale_s:
            raise BookUnavailable("the key cannot be checked now")
        entry.ask_at = now + self._bounds.retry_s
        return entry

    def _unexpired(self, entry: _Entry) -> Principal:
        """Checked at each use; an expired key is asked for again soon, should its expiry have been moved."""
        expires_at = entry.principal.expires_at
        if expires_at is not None and self._clock.now_us() >= expires_at * 1_000_000:
            entry.ask_at = min(entry.ask_at, self._clock.monotonic() + self._bounds.unknown_s)
            raise bad_key()
        return entry.principal

    async def _read(self, key_id: str) -> StoredKey | None:
        async def by_id() -> StoredKey | None:
            async with self._slots:
                return await self._store.by_id(key_id)

        return await self.guard.run(by_id)

    async def _read_and_tell(self, key_id: str) -> StoredKey | None:
        stored = await self._read(key_id)
        if stored is not None:
            await self._revs.set_rev(bucket_of(stored.organization_id), stored.id, stored.rev)
        return stored


K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Lru(Generic[K, V]):
    """A bounded dictionary that forgets what was used longest ago."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        value = self._items.get(key)
        if value is not None:
            self._items.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > self._size:
            self._items.popitem(last=False)

    def drop(self, key: K) -> None:
        self._items.pop(key, None)


def _principal(stored: StoredKey, digest: str) -> _Presented:
    return _Presented(
        key_id=stored.id,
        rev=stored.rev,
        organization_id=stored.organization_id,
        account_id=stored.account_id,
        default_account_id=stored.default_account_id,
        scopes=stored.scopes,
        models=stored.models,
        limits=stored.limits,
        max_multiplier=stored.max_multiplier,
        test=stored.test,
        above_organizations=stored.above_organizations,
        expires_at=stored.expires_at,
        # A test key's calls are metered and recorded, and take no credit.
        credits_per_usd=Decimal(0) if stored.test else stored.credits_per_usd,
        markup_percent=stored.markup_percent,
        secret_hash=digest,
    )
