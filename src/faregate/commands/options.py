"""Options that commands share. Imports next to nothing, for the commands that must start at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="F", envvar="FAREGATE_CONFIG", help="The configuration file (faregate.yaml)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line, instead of a table.")]
Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(help="TCP port; 0 lets the system choose.")]
Workers = Annotated[int | None, typer.Option(help="Processes that serve.")]
Url = Annotated[
    str | None, typer.Option("--url", help="Ask this running server, with --key, instead of the data directory.")
]
Key = Annotated[str | None, typer.Option("--key", help="The key to ask the server of --url with.")]
Organization = Annotated[
    str | None, typer.Option("--organization", help="The organization, by id; else the bootstrap organization.")
]
