"""`faregate version`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from faregate import __version__


def version(config: Annotated[Path | None, typer.Option("--config", hidden=True)] = None) -> None:
    """Print the version."""
    print(f"faregate {__version__}")
