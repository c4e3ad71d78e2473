"""`faregate init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from faregate.commands.options import Config
from faregate.errors import ConfigError
from faregate.settings import example


def init(
    path: Annotated[Path, typer.Argument(help="Where to write it: a file, or a folder.")] = Path("faregate.yaml"),
    config: Config = None,
) -> None:
    """Write a commented configuration file.

    It holds every key with its default. An existing file is never overwritten.
    """
    path = config or path
    target = path / "faregate.yaml" if path.is_dir() else path
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(example())
    except FileExistsError:
        raise ConfigError(f"{target} exists already; it is left as it is") from None
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from None
    print(f"wrote {target}: edit it, then run faregate serve --config {target}")
