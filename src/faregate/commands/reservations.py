"""`faregate reservations`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from faregate.commands.desk import desk
from faregate.commands.options import AsJson, Config, Key, Organization, Url
from faregate.commands.shared import run, show, show_fields

app = typer.Typer(
    help="Set credits aside, and confirm, cancel, extend or list what is set aside.",
    rich_markup_mode=None,
    add_completion=False,
)

COLUMNS = {
    "id": "id",
    "reservationId": "own id",
    "accountId": "account",
    "amount": "credits",
    "actualAmount": "charged",
    "status": "status",
    "expiresAt": "until",
}
Named = Annotated[str, typer.Argument(metavar="RESERVATION", help="The reservation, by our id or your own.")]
Ttl = Annotated[int, typer.Option(min=1, max=86_400, help="For how many seconds from now.")]


@app.command()
def create(
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account, by id or external id.")],
    amount: Annotated[str, typer.Argument(help="Credits, up to 6 decimal places.")],
    own_id: Annotated[str | None, typer.Option("--id", help="Your own id: a repeat finds the same one.")] = None,
    ttl: Ttl = 300,
    operation: Annotated[str | None, typer.Option(help="What the transaction will say.")] = None,
    model: Annotated[str | None, typer.Option(help="Recorded with it.")] = None,
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Set credits of an account aside until they are confirmed, cancelled, or their time is over."""
    body = {"amount": amount, "reservationId": own_id, "ttlSeconds": ttl, "operation": operation, "model": model}

    async def work() -> None:
        async with desk(config, url, key) as at:
            show_fields(await at.reserve(organization, account, body), as_json=as_json)

    run(work())


@app.command("list")
def list_(
    account: Annotated[str | None, typer.Option(help="One account's only, by id or external id.")] = None,
    active: Annotated[bool, typer.Option("--active", help="Only what is pending.")] = False,
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List an organization's reservations, newest first."""
    query = {"accountId": account, "activeOnly": "true" if active else "false"}

    async def work() -> None:
        async with desk(config, url, key) as at:
            show(await at.reservations(organization, query), COLUMNS, as_json=as_json)

    run(work())


@app.command()
def confirm(
    reservation: Named,
    amount: Annotated[str, typer.Argument(help="What it came to, in credits; it may be more than was set aside.")],
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Charge what it came to. A second time shows the first result."""
    body = {"reservationId": reservation, "actualAmount": amount}
    _end("confirm", body, organization, config, url, key, as_json)


@app.command()
def cancel(
    reservation: Named,
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Give the credits back."""
    _end("cancel", {"reservationId": reservation}, organization, config, url, key, as_json)


@app.command()
def extend(
    reservation: Named,
    ttl: Ttl = 300,
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Move its deadline, never to an earlier moment."""
    _end("extend", {"reservationId": reservation, "ttlSeconds": ttl}, organization, config, url, key, as_json)


def _end(
    verb: str,
    body: Mapping[str, object],
    organization: str | None,
    config: Config,
    url: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    async def work() -> None:
        async with desk(config, url, key) as at:
            show_fields(await at.end_reservation(organization, verb, body), as_json=as_json)

    run(work())
