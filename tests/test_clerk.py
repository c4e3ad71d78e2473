"""The clerk's own process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from faregate.ledger.engine import transact
from faregate.ledger.schema import HEAD, stored_version


def test_it_brings_the_schema_up_before_the_workers_ask(tmp_path: Path) -> None:
    url, (watch, keep) = f"sqlite:///{tmp_path}/book.db", os.pipe()
    os.close(keep)  # the parent has gone: it writes nothing, and ends
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "c.sock"))
        listener.listen()
        task = {"url": url, "fd": listener.fileno(), "watch": watch, "patience_s": 0.1, "metered": None}
        command = [sys.executable, "-m", "faregate.clerk", json.dumps(task)]
        subprocess.run(command, pass_fds=(listener.fileno(), watch), check=True, timeout=30)
    os.close(watch)
    assert transact(url, stored_version) == HEAD
