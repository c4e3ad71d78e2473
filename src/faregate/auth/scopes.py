"""What a key may do: scopes and the list of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

from faregate.core.call import Principal
from faregate.errors import InvalidRequest, PermissionDenied

Scope = Literal["proxy", "usage:read", "usage:write", "credits:write", "admin"]

SCOPES: Final[Mapping[Scope, str]] = {
    "proxy": "call models",
    "usage:read": "read usage, transactions and models",
    "usage:write": "record usage; the agent, transaction and external-usage dialects",
    "credits:write": "accounts, balances, credits, plans, reservations, transactions (reading included)",
    "admin": "administration within the key's organization",
}
ALL_SCOPES: Final = frozenset[str](get_args(Scope))
"""What the bootstrap key has. No scope implies another."""

MAX_MODELS = 1000
MAX_MODEL_LENGTH = 200


def require(principal: Principal, scope: Scope) -> None:
    """Raises PermissionDenied, naming the scope, unless the key has it."""
    if scope not in principal.scopes:
        raise PermissionDenied(f"this key lacks the scope {scope!r}")


def require_model(principal: Principal, model: str) -> None:
    """Raises PermissionDenied, naming the model, unless the key may call it (by its public name)."""
    if not allows_model(principal.models, model):
        raise PermissionDenied(f"this key may not call the model {model!r}", param="model")


def allows_model(allowed: Sequence[str] | None, model: str) -> bool:
    """Whether a name is on the list: exact, or by a pattern with one trailing `*`. None allows all."""
    return allowed is None or any(_matches(pattern, model) for pattern in allowed)


def parse_scopes(value: object) -> frozenset[str]:
    """The `scopes` of a key's creation body: at least one, each known. Raises InvalidRequest."""
    if not isinstance(value, list) or not value:
        raise InvalidRequest(f"scopes must be a list with at least one of {_names()}", param="scopes")
    for scope in value:
        if not isinstance(scope, str) or scope not in ALL_SCOPES:
            raise InvalidRequest(f"scopes holds an unknown scope; allowed: {_names()}", param="scopes")
    return frozenset(value)


def parse_models(value: object) -> tuple[str, ...] | None:
    """The `models` of a key's creation body: names or `prefix*`; None allows all. Raises InvalidRequest."""
    if value is None:
        return None
    if not isinstance(value, list) or not 0 < len(value) <= MAX_MODELS:
        raise InvalidRequest("models must be a list of 1 to 1000 names; leave it out to allow all", param="models")
    return tuple(_pattern(name) for name in value)


def _pattern(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_MODEL_LENGTH or "*" in value[:-1]:
        raise InvalidRequest("each of models is an exact name or a prefix with one trailing *", param="models")
    return value


def _matches(pattern: str, model: str) -> bool:
    return model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern


def _names() -> str:
    return ", ".join(SCOPES)
