"""The clerk's process: `python -m faregate.clerk '{"url": …, "fd": …, "watch": …}'`, started by `serving.Parent`."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import socket
import sys
from typing import Any

from faregate.errors import FaregateError
from faregate.ledger import schema
from faregate.ledger.clerk import Clerk


def main(task: dict[str, Any]) -> int:
    """Write records until the parent closes the pipe and the workers have hung up."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which lets the workers finish first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(FaregateError):  # The workers will say what is wrong with it.
        schema.prepare(task["url"])  # Before they have loaded: none of them needs Alembic's 10 MB then.
    listener = socket.socket(fileno=task["fd"])
    Clerk(task["url"], listener, task["watch"], task["patience_s"], metered=task["metered"]).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
