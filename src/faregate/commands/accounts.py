"""`faregate accounts` and `faregate grant`."""

from __future__ import annotations

from typing import Annotated

import typer

from faregate.commands.desk import desk
from faregate.commands.options import AsJson, Config, Key, Organization, Url
from faregate.commands.shared import run, show, show_fields

app = typer.Typer(help="Make, list and show accounts.", rich_markup_mode=None, add_completion=False)

COLUMNS = {"id": "id", "externalId": "external id", "name": "name", "balance": "credits", "createdAt": "since"}
Named = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account, by id or external id.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    external_id: Annotated[str | None, typer.Option(help="Your own id for it.")] = None,
    email: Annotated[str | None, typer.Option(help="Whom to write to.")] = None,
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Make an account. It starts without credits."""
    body = {"name": name, "externalId": external_id, "email": email, "organizationId": organization}

    async def work() -> None:
        async with desk(config, url, key, create=True) as at:
            show_fields(await at.create_account(body), as_json=as_json)

    run(work())


@app.command("list")
def list_(
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List an organization's accounts, oldest first."""

    async def work() -> None:
        async with desk(config, url, key) as at:
            show(await at.accounts(organization), COLUMNS, as_json=as_json)

    run(work())


@app.command("show")
def show_account(
    account: Named,
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show one account: its balance, and what open holds reserve of it."""

    async def work() -> None:
        async with desk(config, url, key) as at:
            show_fields(await at.account(organization, account), as_json=as_json)

    run(work())


@app.command()
def balance(
    account: Named,
    at: Annotated[str | None, typer.Option(help="What it was then: a past moment, ISO 8601.")] = None,
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show an account's balance, now or at a past moment."""

    async def work() -> None:
        async with desk(config, url, key) as where:
            show_fields(await where.balance(organization, account, at), as_json=as_json)

    run(work())


def grant(
    account: Named,
    amount: Annotated[str, typer.Argument(help="Credits, up to 6 decimal places.")],
    description: Annotated[str | None, typer.Option(help="What the transaction says.")] = None,
    expires: Annotated[str | None, typer.Option(help="When what is left of them is gone, ISO 8601.")] = None,
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Give an account credits. A running server counts them at once."""
    body = {"amount": amount, "description": description, "expiresAt": expires}

    async def work() -> None:
        async with desk(config, url, key) as at:
            show_fields(await at.grant(organization, account, body), as_json=as_json)

    run(work())
