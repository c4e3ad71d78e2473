"""JSON Web Tokens and key sets, by PyJWT. The only file that imports it: it brings `cryptography`, eight megabytes
that a process without tokens does without, so it is imported by name when the first token comes (identity.py).

Which algorithm is right is said by the key, never by the token: HS256 for keys of ours, for a provider's public keys
what their type and curve allow. Moments are compared by the caller, with our clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
import orjson

from faregate.auth.app_tokens import bad_token

OWN = "HS256"
MOST_KEYS = 64
LEAST_RSA_BITS = 2048
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}
_UNTIMED: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "require": ["exp"]}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key of a provider, and the algorithms it may be used with."""

    key: Any = field(repr=False)
    algorithms: tuple[str, ...]


def key_id(token: str) -> str:
    """The `kid` a token claims. Raises InvalidApiKey for what is no token, or has none."""
    try:
        named = jwt.get_unverified_header(token).get("kid")
    except (jwt.PyJWTError, ValueError, RecursionError):
        named = None
    if not isinstance(named, str) or not 0 < len(named) <= 256:
        raise bad_token()
    return named


def sign(claims: Mapping[str, object], secret: str, kid: str) -> str:
    """A token of ours; `secret` as 64 hex digits."""
    return jwt.encode(dict(claims), bytes.fromhex(secret), algorithm=OWN, headers={"kid": kid})


def read_own(token: str, secret: str, *, name: str) -> dict[str, Any]:
    """The claims of a token of ours (`iss` and `aud` are `name`). Raises InvalidApiKey; moments are not looked at."""
    return _decode(token, bytes.fromhex(secret), (OWN,), name, name)


def read_foreign(token: str, key: PublicKey, *, audience: str, issuer: str) -> dict[str, Any]:
    """The claims of a provider's token. Raises InvalidApiKey; moments are not looked at. `issuer` "": any."""
    return _decode(token, key.key, key.algorithms, audience, issuer or None)


def _decode(token: str, key: Any, algorithms: Sequence[str], audience: str, issuer: str | None) -> dict[str, Any]:
    try:
        return jwt.decode(token, key, algorithms=algorithms, audience=audience, issuer=issuer, options=_UNTIMED)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise bad_token() from None  # Their texts may quote the token.


def read_keys(document: bytes) -> dict[str, PublicKey]:
    """The keys of a JWK set that can verify signatures, by `kid`; others are left out. Raises ValueError."""
    found = orjson.loads(document)
    keys = found.get("keys") if isinstance(found, dict) else None
    if type(keys) is not list:
        raise ValueError("it is no JWK set")
    read = ((key.get("kid"), _public_key(key)) for key in keys[:MOST_KEYS] if isinstance(key, dict))
    return {kid: key for kid, key in read if isinstance(kid, str) and key is not None}


def _public_key(key: Mapping[str, Any]) -> PublicKey | None:
    """None for keys of another use or kind: symmetric ones above all, which anybody could sign with."""
    if key.get("use", "sig") != "sig" or "verify" not in key.get("key_ops", ["verify"]):
        return None
    allowed = _algorithms(key)
    named = key.get("alg")
    if named is not None:
        allowed = tuple(name for name in allowed if name == named)
    if not allowed:
        return None
    try:
        loaded = jwt.PyJWK.from_dict(dict(key), algorithm=allowed[0]).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if key["kty"] == "RSA" and loaded.key_size < LEAST_RSA_BITS:
        return None
    return PublicKey(loaded, allowed)


def _algorithms(key: Mapping[str, Any]) -> tuple[str, ...]:
    kind, curve = key.get("kty"), key.get("crv")
    if kind == "RSA":
        return _RSA
    known = _CURVES.get(curve) if isinstance(curve, str) else None
    if known is None or kind != ("OKP" if known == "EdDSA" else "EC"):
        return ()
    return (known,)
