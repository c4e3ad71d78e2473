"""WebSockets to providers, on the same client as everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import ClientWebSocketResponse, ClientWSTimeout, WSMsgType, WSServerHandshakeError

from faregate.errors import UpstreamError
from faregate.ports import Timeouts
from faregate.providers.upstream import FOREIGN, Target, Upstream, translate

MOST_FRAME_BYTES = 16 << 20
"""OpenAI takes 15 MB of sound in one event."""
_PING_S = 20.0
_CLOSE_S = 2.0


async def connect(upstream: Upstream, target: Target, headers: Mapping[str, str], timeouts: Timeouts) -> UpstreamSocket:
    """Open one. Raises UpstreamError or UpstreamTimeout."""
    sent = target.headers.copy()
    sent.update(headers)
    try:
        async with asyncio.timeout(timeouts.connect_s + timeouts.first_byte_s):
            return UpstreamSocket(
                await upstream.session.ws_connect(
                    target.url,
                    headers=sent,
                    heartbeat=_PING_S,
                    max_msg_size=MOST_FRAME_BYTES,
                    timeout=ClientWSTimeout(ws_close=_CLOSE_S),
                )
            )
    except WSServerHandshakeError as error:
        failure = UpstreamError(f"the provider refused the connection with status {error.status}")
    except FOREIGN as error:
        failure = translate(error)
    raise failure


class UpstreamSocket:
    """ports.Socket over aiohttp's."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket

    async def send(self, text: str) -> None:
        """Raises UpstreamError."""
        try:
            return await self._socket.send_str(text)
        except FOREIGN as error:
            failure = translate(error)
        raise failure

    async def receive(self) -> str | None:
        """The next text frame; None: it is closed, or broke."""
        while True:
            message = await self._socket.receive()
            if message.type is WSMsgType.TEXT:
                text: str = message.data
                return text
            if message.type is not WSMsgType.BINARY:
                return None

    async def close(self, code: int, reason: str) -> None:
        """Say good-bye, for as long as that takes at most."""
        await self._socket.close(code=code, message=reason.encode()[:120])
