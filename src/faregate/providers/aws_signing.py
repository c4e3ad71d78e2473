"""Requests to AWS, signed by botocore's own signer with credentials of botocore's own chain.

The chain reads files and asks other hosts (instance metadata, STS, SSO), so it runs in a thread, once for all who
wait; signing itself is a hash and stays on the loop unless the body is long. This module loads botocore: it is
imported when the first request has to be signed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from botocore.auth import SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials, ReadOnlyCredentials, RefreshableCredentials  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
from botocore.session import Session  # type: ignore[import-untyped]
from botocore.tokens import ScopedEnvTokenProvider  # type: ignore[import-untyped]

from faregate.errors import UpstreamError, UpstreamTimeout

SERVICE = "bedrock"
"""The name requests to bedrock-runtime are signed for."""

_CHAIN_S = 30.0
"""How long the chain may take before a call gives up; it goes on by itself, for the next one."""
_RETRY_S = 30.0
"""After a refresh that brought nothing new, credentials that still hold are used so long before the next one."""
_LAST_S = 60
"""Credentials with less to live are waited for."""
_LONG_BODY = 1 << 20
"""Bytes. Hashing more than that takes a loop's millisecond."""
_FOREIGN = (BotoCoreError, ClientError, OSError, ValueError, KeyError, RuntimeError)
"""What the chain raises: its own errors, and what unreadable files and half-answers of metadata services cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsKeys:
    """Where credentials come from: these keys, this profile, or (all None) the chain."""

    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    profile: str | None = None


class Signer:
    """Authorization headers for requests to one region."""

    def __init__(self, region: str, keys: AwsKeys) -> None:
        self._region = region
        self._keys = keys
        self._bearer: str | None = None
        self._credentials: Credentials | None = None
        self._frozen: ReadOnlyCredentials | None = None
        self._failed = ""
        self._not_before = 0.0
        self._refreshing: asyncio.Task[None] | None = None

    async def headers(self, url: str, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
        """`headers`, and what authorizes a POST of JSON to `url` with them.

        Raises UpstreamError or UpstreamTimeout without credentials.
        """
        if self._is_due():
            await self._refresh()
        if self._bearer is not None:
            return {**headers, "authorization": f"Bearer {self._bearer}"}
        if self._frozen is None:
            raise UpstreamError(f"there are no AWS credentials: {self._failed or 'configure them or the chain'}")
        if len(body) > _LONG_BODY:
            return await asyncio.to_thread(self._sign, self._frozen, url, headers, body)
        return self._sign(self._frozen, url, headers, body)

    def secrets(self) -> tuple[str, ...]:
        """What must not be shown of the credentials in use."""
        frozen = self._frozen
        held = (self._bearer,) if frozen is None else (frozen.access_key, frozen.secret_key, frozen.token)
        return tuple(secret for secret in held if secret)

    def _sign(
        self, credentials: ReadOnlyCredentials, url: str, headers: Mapping[str, str], body: bytes
    ) -> dict[str, str]:
        request = AWSRequest("POST", url, headers={**headers, "content-type": "application/json"}, data=body)
        SigV4Auth(credentials, SERVICE, self._region).add_auth(request)
        return {name.lower(): str(value) for name, value in request.headers.items()}

    def _is_due(self) -> bool:
        """Nothing yet, or soon to expire: the window is botocore's own, 15 minutes."""
        if self._bearer is not None:
            return False
        if self._frozen is None:
            return True
        return self._expires_in(None) and (self._expires_in(_LAST_S) or self._now() >= self._not_before)

    async def _refresh(self) -> None:
        """One thread for all who wait; nobody waits while there are credentials that still hold."""
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._ask_chain())
        if self._frozen is not None and not self._expires_in(_LAST_S):
            return
        try:
            async with asyncio.timeout(_CHAIN_S):
                await asyncio.shield(self._refreshing)
        except TimeoutError:
            raise UpstreamTimeout("AWS credentials did not come in time") from None
        if self._failed and self._expires_in(0):
            self._frozen = None

    async def _ask_chain(self) -> None:
        try:
            await asyncio.to_thread(self._load)
            self._failed = ""
        except _FOREIGN as error:  # its message may quote files and URLs
            self._failed = f"loading them failed ({type(error).__name__})"
        finally:
            self._not_before = self._now() + _RETRY_S
            self._refreshing = None

    def _expires_in(self, seconds: int | None) -> bool:
        held = self._credentials
        return isinstance(held, RefreshableCredentials) and bool(held.refresh_needed(seconds))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _load(self) -> None:
        """In a thread: find credentials, or refresh what was found."""
        if self._credentials is None:
            keys = self._keys
            if keys.access_key_id is not None:
                self._credentials = Credentials(keys.access_key_id, keys.secret_access_key, keys.session_token)
            else:
                self._search(keys.profile)
        if self._credentials is not None:
            self._frozen = self._credentials.get_frozen_credentials()

    def _search(self, profile: str | None) -> None:
        """A profile that is named wins over a key in the environment."""
        session = Session(profile=profile)
        token = None if profile else ScopedEnvTokenProvider(session).load_token(signing_name=SERVICE)
        if token is not None:
            self._bearer = token.token
        else:
            self._credentials = session.get_credentials()
