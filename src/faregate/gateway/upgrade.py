"""The server's WebSocket protocol, loaded with the first connection that wants it: most processes never do."""

from __future__ import annotations

from importlib import import_module
from typing import Any

MOST_FRAME_BYTES = 16 << 20
"""Of a client; OpenAI takes 15 MB of sound in one event."""


def upgraded(*args: Any, **kwargs: Any) -> Any:
    """For `uvicorn.Config(ws=...)`, which wants a protocol's class and calls it."""
    module = import_module("uvicorn.protocols.websockets.websockets_sansio_impl")
    return module.WebSocketsSansIOProtocol(*args, **kwargs)
