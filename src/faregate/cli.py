"""The list of commands. Each lives in a module of `faregate.commands`, imported when it is called.

Imports of commands are late on purpose, and here only: `faregate version` answers at once, and the parent of
`serve`, which lives as long as the server, carries no SQL, no HTTP client and no price table.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

from faregate.errors import ConfigError, FaregateError

FAILED, USAGE = 1, 2

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "serve": ("serve:serve", "Run the gateway."),
    "demo": ("demo:demo", "Run the gateway with a pretend model, an account of 10,000 credits and a key."),
    "init": ("init:init", "Write a commented configuration file."),
    "keys": ("keys:app", "Make, list, rotate and revoke API keys."),
    "accounts": ("accounts:app", "Make, list and show accounts."),
    "grant": ("accounts:grant", "Give an account credits."),
    "plans": ("plans:app", "Make, list, archive and assign plans."),
    "users": ("people:users", "Make and list users."),
    "memberships": ("people:memberships", "Give users roles, and list them."),
    "services": ("people:services", "Make and list services."),
    "usage": ("usage:usage", "Show what was used and what it cost."),
    "export": ("export:app", "Write usage to a file: CSV, JSON lines or Parquet."),
    "prices": ("prices:app", "Show what a model costs, and why."),
    "reservations": ("reservations:app", "Set credits aside, and confirm, cancel, extend or list what is set aside."),
    "holds": ("holds:holds", "Show the holds that are open now."),
    "stripe": ("stripe:app", "Show billed usage on its way to Stripe, and try again what is stuck."),
    "doctor": ("doctor:doctor", "Check configuration, Redis, SQL, providers, clock and drift."),
    "audit": ("audit:audit", "Recompute every balance from the entries, and compare Redis with the book."),
    "gate": ("gate:app", "Rebuild Redis from the book."),
    "migrate": ("migrate:migrate", "Bring the database to this release's schema."),
    "meter": ("filters:meter", "Normalise usage: JSON lines in, JSON lines out."),
    "price": ("filters:price", "Price usage: JSON lines in, JSON lines out."),
    "version": ("version:version", "Print the version."),
}
"""Name: where it is (module:attribute in faregate.commands), and its line in `faregate --help`."""


class _Late(TyperGroup):
    """Knows its commands' names and help; imports the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, _load(str(name)), rest


def _load(name: str) -> Any:
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(import_module(f"faregate.commands.{module}"), attribute)
    if isinstance(found, typer.Typer):
        return get_command(found)
    single = typer.Typer(rich_markup_mode=None, add_completion=False)
    single.command(name)(found)
    return get_command(single)


def _build() -> typer.Typer:
    app = typer.Typer(
        cls=_Late,
        help="Faregate: an OpenAI-compatible gateway that charges LLM calls against credits.",
        rich_markup_mode=None,
        add_completion=False,
    )
    for name, (_, text) in COMMANDS.items():
        app.command(name, help=text)(lambda: None)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 ok, 1 a check failed or a store is out of reach, 2 misuse."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = get_command(_build()).main(args=words or ["--help"], prog_name="faregate", standalone_mode=False)
    except typer.TyperException as error:
        return _complain(_usage(error), USAGE)
    except FaregateError as error:
        misuse = isinstance(error, ConfigError) or error.status < 500
        return _complain(error.message, USAGE if misuse else FAILED)
    except typer.Abort:
        return 130
    return code if isinstance(code, int) else 0


def _usage(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    message = error.format_message().rstrip(".")
    return message if context is None else f"{message} (see {context.command_path} --help)"


def _complain(message: str, code: int) -> int:
    print(f"faregate: {' '.join(message.split())}", file=sys.stderr)
    return code
