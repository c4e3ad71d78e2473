"""The form of an API key: `fg_live_<id>_<secret>`, or `fg_test_<id>_<secret>` for the sandbox.

The id is public (16 hex digits: lists, logs and Redis name it), the secret is 43 base-62 digits: 256 random
bits, so one round of SHA-256 is enough to keep it. What is hashed is the whole key as presented, never a part
of it (CVE-2026-35030: a cache keyed by a token's prefix).
"""

from __future__ import annotations

import re
import secrets
import string
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest

from faregate.errors import InvalidApiKey

MAX_PRESENTED = 4096
"""Characters. Anything longer is refused before it is hashed."""

_DIGITS = string.digits + string.ascii_letters
_SECRET_LENGTH = 43
_KEY = re.compile(r"fg_(live|test)_([0-9a-f]{16})_[0-9A-Za-z]{43}")
_KEY_LENGTH = len("fg_live_") + 16 + 1 + _SECRET_LENGTH


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key just made. `secret` is shown once and kept nowhere."""

    id: str
    secret: str = field(repr=False)
    """The whole key, as a client presents it."""
    secret_hash: str = field(repr=False)
    prefix: str
    """`fg_live_<id>`: what lists show."""


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """What a well-formed key says of itself; whether it is good is the book's to say."""

    id: str
    test: bool


def make(*, test: bool = False, key_id: str | None = None) -> NewKey:
    """A new key, or a new secret for the key of that id (rotation)."""
    key_id = key_id or secrets.token_hex(8)
    prefix = f"fg_{'test' if test else 'live'}_{key_id}"
    secret = f"{prefix}_{random_digits()}"
    parse(secret)
    return NewKey(id=key_id, secret=secret, secret_hash=hash_secret(secret), prefix=prefix)


def make_admin() -> str:
    """A bootstrap admin key, for a first start without FAREGATE_ADMIN_KEY."""
    return f"fg_admin_{random_digits()}"


def parse(secret: str) -> ParsedKey:
    """Raises InvalidApiKey for anything but a well-formed key, without looking further."""
    match = _KEY.fullmatch(secret) if len(secret) == _KEY_LENGTH else None
    if match is None:
        raise bad_key()
    return ParsedKey(match[2], match[1] == "test")


def hash_secret(secret: str) -> str:
    """SHA-256 of the whole key, as 64 hex digits."""
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def same(one: str, other: str) -> bool:
    """Whether two hashes are equal, in constant time."""
    return compare_digest(one, other)


def bad_key() -> InvalidApiKey:
    """The one refusal: missing, unknown, revoked and expired sound the same."""
    return InvalidApiKey("invalid API key")


def random_digits() -> str:
    """256 random bits, and a little more."""
    return "".join(secrets.choice(_DIGITS) for _ in range(_SECRET_LENGTH))
