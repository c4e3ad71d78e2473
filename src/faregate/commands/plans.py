"""`faregate plans`."""

from __future__ import annotations

from typing import Annotated

import typer

from faregate.commands.desk import desk
from faregate.commands.options import AsJson, Config, Key, Organization, Url
from faregate.commands.shared import run, show, show_fields

app = typer.Typer(help="Make, list, archive and assign plans.", rich_markup_mode=None, add_completion=False)

COLUMNS = {
    "id": "id",
    "name": "name",
    "credits": "credits",
    "interval": "every",
    "occurrences": "times",
    "accumulate": "adds up",
    "isActive": "active",
}
Named = Annotated[str, typer.Argument(metavar="PLAN", help="The plan's id.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What its transactions say.")],
    amount: Annotated[str, typer.Argument(help="Credits of each period, up to 6 decimal places.")],
    interval: Annotated[str, typer.Argument(help="1d, week or month.")],
    occurrences: Annotated[int | None, typer.Option(min=1, max=10_000, help="How many periods; else no end.")] = None,
    accumulate: Annotated[bool, typer.Option("--accumulate", help="What is left of a period stays.")] = False,
    inactive: Annotated[bool, typer.Option("--inactive", help="It cannot be assigned yet.")] = False,
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Make a plan: credits that come by themselves. Nobody has it yet."""
    body = {
        "name": name,
        "amount": amount,
        "interval": interval,
        "occurrences": occurrences,
        "accumulate": accumulate,
        "markAsActive": not inactive,
        "organizationId": organization,
    }

    async def work() -> None:
        async with desk(config, url, key) as at:
            show_fields(await at.create_plan(body), as_json=as_json)

    run(work())


@app.command("list")
def list_(
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List an organization's plans, oldest first."""

    async def work() -> None:
        async with desk(config, url, key) as at:
            show(await at.plans(organization), COLUMNS, as_json=as_json)

    run(work())


@app.command()
def archive(
    plan: Named,
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Assign a plan no more. Accounts that have it keep it."""

    async def work() -> None:
        async with desk(config, url, key) as at:
            show_fields(await at.archive_plan(organization, plan), as_json=as_json)

    run(work())


@app.command()
def assign(
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account, by id or external id.")],
    plan: Named,
    next_interval: Annotated[
        bool, typer.Option("--next-interval", help="Start with the next day, Monday or month (UTC), not now.")
    ] = False,
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Give an account a plan in place of the one it has."""
    body = {"planId": plan, "startMode": "next_interval" if next_interval else "now"}

    async def work() -> None:
        async with desk(config, url, key) as at:
            show_fields(await at.assign_plan(organization, account, body), as_json=as_json)

    run(work())
