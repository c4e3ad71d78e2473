"""`faregate serve`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from faregate.commands.options import Config, Host, Port, Workers
from faregate.serving import Parent
from faregate.settings import load


def serve(config: Config = None, host: Host = None, port: Port = None, workers: Workers = None) -> int:
    """Run the gateway.

    Without a configuration file, providers are found from the usual variables, such as OPENAI_API_KEY.
    SIGTERM or Ctrl-C ends it: open calls are finished first.
    """
    overrides = server_overrides(host, port, workers)
    return Parent(load(config, overrides=overrides), arguments(config, overrides), on_ready=announce).run()


def server_overrides(host: str | None, port: int | None, workers: int | None) -> dict[str, object]:
    """The command line's settings, by key."""
    return {"server.host": host, "server.port": port, "server.workers": workers}


def arguments(config: Path | None, overrides: Mapping[str, object]) -> dict[str, object]:
    """What workers need to load the same settings."""
    return {"config": None if config is None else str(config.absolute()), "overrides": dict(overrides)}


def announce(url: str) -> None:
    """Say that calls are welcome."""
    print(f"faregate is listening on {url}", flush=True)
