"""Bearer tokens of Microsoft Entra ID: fetched off the event loop, kept until shortly before they expire.

azure-identity is loaded only here, and only for a provider that is configured so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from typing import Protocol

from faregate.clock import SystemClock
from faregate.errors import ConfigError, UpstreamError

_NOW_US = SystemClock().now_us
_EARLY_S = 300
"""How long before its end a token is renewed."""


class AccessToken(Protocol):
    """azure.core.credentials.AccessToken."""

    @property
    def token(self) -> str: ...
    @property
    def expires_on(self) -> int:
        """Unix seconds."""
        ...


class Credential(Protocol):
    """azure.core.credentials.TokenCredential; `get_token` blocks and may go to the network."""

    def get_token(self, scope: str, /) -> AccessToken: ...


def default_credential(name: str) -> Credential:
    """azure-identity's own chain: environment, workload identity, managed identity, command line.

    Raises ConfigError when the extra is not installed.
    """
    try:
        identity = import_module("azure.identity")
    except ImportError:
        raise ConfigError(f"providers.{name}.entra: needs the extra azure: pip install 'faregate[azure]'") from None
    credential: Credential = identity.DefaultAzureCredential()
    return credential


class EntraTokens:
    """The current token of one credential; callers that come while it is renewed share one request."""

    def __init__(self, credential: Credential, scope: str, *, now_us: Callable[[], int] = _NOW_US) -> None:
        self._credential = credential
        self._scope = scope
        self._now_us = now_us
        self._token = ""
        self._expires_on = 0
        self._lock = asyncio.Lock()

    @property
    def current(self) -> str:
        """The token that was sent last; "" before the first."""
        return self._token

    async def get(self) -> str:
        """A token with some minutes left. Raises UpstreamError when there is none to be had."""
        if not self._lasts(_EARLY_S):
            async with self._lock:
                if not self._lasts(_EARLY_S):
                    await self._renew()
        return self._token

    def refused(self) -> None:
        """The provider does not take it (any more): the next call gets another."""
        self._expires_on = 0

    async def _renew(self) -> None:
        try:
            fresh = await asyncio.to_thread(self._credential.get_token, self._scope)
        except Exception as error:  # noqa: BLE001 - a foreign library's many; their texts name tenants and clients
            if self._lasts(0):
                return  # Good for a few minutes more, in which it may be had again.
            raise UpstreamError(f"no Entra token for the provider ({type(error).__name__})") from None
        self._token, self._expires_on = fresh.token, fresh.expires_on

    def _lasts(self, seconds: int) -> bool:
        return self._expires_on > self._now_us() / 1_000_000 + seconds
