"""The form of an app password's token: `app_<id>_<secret>`, like a key's (keys.py): 256 random bits, kept hashed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from faregate.auth.keys import hash_secret, random_digits
from faregate.core.ids import uuid7
from faregate.errors import InvalidApiKey

PREFIX = "app_"
_TOKEN = re.compile(r"app_([0-9a-f]{32})_[0-9A-Za-z]{43}")
_LENGTH = len(PREFIX) + 32 + 1 + 43


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """An app password just made. `token` is shown once and kept nowhere."""

    id: str
    token: str = field(repr=False)
    secret_hash: str = field(repr=False)


def make() -> NewToken:
    """A new app password: `apw_<id>`, and its token."""
    public = uuid7().hex
    token = f"{PREFIX}{public}_{random_digits()}"
    return NewToken(id=f"apw_{public}", token=token, secret_hash=hash_secret(token))


def password_id(token: str) -> str:
    """Which app password it claims to be. Raises InvalidApiKey for anything but a well-formed token."""
    match = _TOKEN.fullmatch(token) if len(token) == _LENGTH else None
    if match is None:
        raise bad_token()
    return f"apw_{match[1]}"


def bad_token() -> InvalidApiKey:
    """The one refusal: malformed, unknown, revoked, expired and forged sound the same."""
    return InvalidApiKey("invalid token")
