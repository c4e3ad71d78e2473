"""`faregate users`, `faregate memberships` and `faregate services`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import typer

from faregate.commands.desk import desk
from faregate.commands.options import AsJson, Config, Key, Organization, Url
from faregate.commands.shared import run, show, show_fields

users = typer.Typer(help="Make and list users.", rich_markup_mode=None, add_completion=False)
memberships = typer.Typer(help="Give users roles, and list them.", rich_markup_mode=None, add_completion=False)
services = typer.Typer(help="Make and list services.", rich_markup_mode=None, add_completion=False)

COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {
    "users": {"id": "id", "email": "email", "name": "name", "organizationId": "organization", "active": "active"},
    "memberships": {
        "id": "id",
        "userId": "user",
        "organizationId": "organization",
        "role": "role",
        "active": "active",
    },
    "services": {"id": "id", "name": "name", "organizationId": "organization"},
}


@users.command("create")
def create_user(
    email: Annotated[str, typer.Argument(help="Unique where the user belongs.")],
    name: Annotated[str | None, typer.Option(help="What people call them.")] = None,
    subject: Annotated[str | None, typer.Option(help="Who they are to the identity provider.")] = None,
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Make a user, without any membership."""
    body = {"email": email, "name": name, "subject": subject, "organizationId": organization}
    _create("users", body, config, url, key, as_json)


@users.command("list")
def list_users(
    organization: Organization = None, config: Config = None, url: Url = None, key: Key = None, as_json: AsJson = False
) -> None:
    """List users, oldest first."""
    _list("users", organization, config, url, key, as_json)


@memberships.command("create")
def create_membership(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user, by id or uuid.")],
    role: Annotated[str, typer.Argument(help="The role in the organization.")],
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Give a user a role in an organization."""
    body = {"userId": user, "role": role, "organizationId": organization}
    _create("memberships", body, config, url, key, as_json)


@memberships.command("list")
def list_memberships(
    organization: Organization = None, config: Config = None, url: Url = None, key: Key = None, as_json: AsJson = False
) -> None:
    """List memberships, oldest first."""
    _list("memberships", organization, config, url, key, as_json)


@services.command("create")
def create_service(
    name: Annotated[str, typer.Argument(help="Unique where the service belongs.")],
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Make a service that tells of its usage."""
    _create("services", {"name": name, "organizationId": organization}, config, url, key, as_json)


@services.command("list")
def list_services(
    organization: Organization = None, config: Config = None, url: Url = None, key: Key = None, as_json: AsJson = False
) -> None:
    """List services, oldest first."""
    _list("services", organization, config, url, key, as_json)


def _create(
    kind: str, body: Mapping[str, object], config: Config, url: str | None, key: str | None, as_json: bool
) -> None:
    async def work() -> None:
        async with desk(config, url, key) as at:
            show_fields(await at.create_person(kind, body), as_json=as_json)

    run(work())


def _list(kind: str, organization: str | None, config: Config, url: str | None, key: str | None, as_json: bool) -> None:
    async def work() -> None:
        async with desk(config, url, key) as at:
            show(await at.people(kind, organization), COLUMNS[kind], as_json=as_json)

    run(work())
