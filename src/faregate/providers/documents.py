"""Small documents of the operator's own services (an identity provider's key set), by the client that calls go by."""

from __future__ import annotations

import asyncio

from faregate.errors import UpstreamError, UpstreamTimeout
from faregate.ports import Timeouts
from faregate.providers.upstream import Upstream, prepare

_TIMEOUTS = Timeouts(first_byte_s=5.0, connect_s=3.0, idle_s=5.0)
_TOTAL_S = 10.0


async def fetch(upstream: Upstream, url: str, *, most_bytes: int, total_s: float = _TOTAL_S) -> bytes:
    """A 200's body. Raises UpstreamError for anything else, UpstreamTimeout when it takes too long."""
    try:
        async with asyncio.timeout(total_s):
            return await _read(upstream, url, most_bytes)
    except TimeoutError:
        raise UpstreamTimeout("the document did not come in time") from None


async def _read(upstream: Upstream, url: str, most_bytes: int) -> bytes:
    answer = await upstream.request("GET", prepare(url, {"accept": "application/json"}), {}, None, _TIMEOUTS)
    parts: list[bytes] = []
    size = 0
    try:
        if answer.status != 200:
            raise UpstreamError(f"the document was answered with status {answer.status}")
        async for chunk in answer.chunks():
            answer.touch()
            size += len(chunk)
            if size > most_bytes:
                raise UpstreamError(f"the document has over {most_bytes} bytes")
            parts.append(chunk)
    finally:
        await answer.close()
    return b"".join(parts)
