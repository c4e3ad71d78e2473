"""`faregate migrate`."""

from __future__ import annotations

from faregate.commands.options import Config
from faregate.errors import ConfigError
from faregate.ledger import schema
from faregate.settings import load


def migrate(config: Config = None) -> None:
    """Bring the database to this release's schema.

    `serve` does the same at its start; this is for those who want it done before.
    """
    settings = load(config)
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"data_dir: {settings.data_dir} cannot be made: {error.strerror}") from None
    schema.prepare(settings.book_url)
    print(f"the schema is at {schema.HEAD}")
