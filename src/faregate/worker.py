"""One worker process: `python -m faregate.worker '{"config": …, "fd": …}'`, started by `serving.Parent`."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from faregate import app
from faregate.errors import FaregateError
from faregate.gateway.corked import CorkedProtocol
from faregate.gateway.upgrade import MOST_FRAME_BYTES, upgraded
from faregate.settings import load
from faregate.shutdown import shutdown_shares


def main(task: dict[str, Any]) -> int:
    """Serve until told to stop or the parent is gone. Returns the exit code."""
    try:
        settings = load(Path(task["config"]) if task.get("config") else None, overrides=task.get("overrides"))
        _log(settings.server.log_level, settings.server.log_format)
        app.prepare(settings)
        runtime = app.Runtime(
            settings=settings,
            worker=task["index"],
            fresh=task["fresh"],
            clerk=task.get("clerk"),
            say=_say,
            metrics_dir=_metrics_dir(task),
        )
    except FaregateError as error:
        sys.stderr.write(f"faregate: {error.message}\n")
        return 2
    config = uvicorn.Config(
        app.build(runtime),
        http=CorkedProtocol,
        ws=upgraded,  # type: ignore[arg-type]  # called like a class
        ws_max_size=MOST_FRAME_BYTES,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=2048,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=shutdown_shares(settings.timing.shutdown_s)[0],
    )
    server = _Server(config, watch=task["watch"], tell=task["tell"])
    listener = socket.socket(fileno=task["fd"])
    sys.setswitchinterval(_SWITCH_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    uvloop.run(server.serve(sockets=[listener]))
    return 0 if server.started else 1


_SWITCH_S = 0.001
"""The writer thread wants the interpreter for microseconds at a time: it must not wait 5 ms for each turn."""


def _metrics_dir(task: dict[str, Any]) -> Path | None:
    return Path(task["metrics_dir"]) if task.get("metrics_dir") else None


_GC_THRESHOLDS = (20_000, 20, 50)
"""A call makes hundreds of objects and hardly a cycle: looking for cycles every 700 of them was a tenth of its time."""


class _Server(uvicorn.Server):
    """Tells the parent when it is ready, and stops when the parent is gone."""

    def __init__(self, config: uvicorn.Config, *, watch: int, tell: int) -> None:
        super().__init__(config)
        self._watch = watch
        self._tell = tell

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().add_reader(self._watch, self._orphaned)
        await super().startup(sockets)
        if self.started:
            with suppress(BrokenPipeError):  # The parent has just died: its pipe says so, and what came is answered.
                os.write(self._tell, b"1")

    def _orphaned(self) -> None:
        asyncio.get_running_loop().remove_reader(self._watch)
        self.should_exit = True


def _not_cut(record: logging.LogRecord) -> bool:
    """A call that is cut at the shutdown is charged, and no defect: uvicorn would log a traceback for each."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"at": self.formatTime(record), "level": record.levelname.lower(), "logger": record.name}
        line["message"] = record.getMessage()
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _log(level: str, style: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonLines() if style == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("uvicorn.error").addFilter(_not_cut)
    for chatty in ("uvicorn", "alembic"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
