"""A worker and its parent's pipes."""

from __future__ import annotations

import asyncio
import os
import socket

import uvicorn
from starlette.applications import Starlette

from faregate.worker import _Server


async def test_a_parent_that_dies_while_its_worker_starts_ends_it_in_order() -> None:
    """The worker may have taken calls already: they are answered, nothing is thrown at them."""
    watch, keep = os.pipe()
    told, tell = os.pipe()
    server = _Server(uvicorn.Config(Starlette(), log_config=None, lifespan="off"), watch=watch, tell=tell)
    os.close(told)
    os.close(keep)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        await asyncio.wait_for(server.serve(sockets=[listener]), 10)
    assert server.started
    assert server.should_exit
    for fd in (watch, tell):
        os.close(fd)
