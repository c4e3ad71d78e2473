"""`faregate keys`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from faregate.commands.desk import Row, desk
from faregate.commands.options import AsJson, Config, Key, Organization, Url
from faregate.commands.shared import run, show
from faregate.errors import InvalidRequest

app = typer.Typer(help="Make, list, rotate and revoke API keys.", rich_markup_mode=None, add_completion=False)

COLUMNS = {
    "id": "id",
    "prefix": "prefix",
    "name": "name",
    "accountId": "account",
    "scopes": "scopes",
    "expiresAt": "expires",
    "revokedAt": "revoked",
    "lastUsedAt": "last used",
}
KeyId = Annotated[str, typer.Argument(metavar="KEY", help="The key's id, as `faregate keys list` shows it.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[list[str] | None, typer.Option(help="What it may do; repeat for more. [default: proxy]")] = None,
    account: Annotated[str | None, typer.Option(help="The one account it charges, by id or external id.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model it may call (name or prefix*); repeat.")] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND:WINDOW:MAX", help="A cap, like credits:day:500 or concurrency:total:4; repeat."),
    ] = None,
    expires: Annotated[str | None, typer.Option(help="When it ends, ISO 8601.")] = None,
    max_multiplier: Annotated[str | None, typer.Option(help="The highest x-faregate-multiplier, 1 to 10.")] = None,
    test: Annotated[bool, typer.Option("--test", help="A key for the sandbox only: never touches credits.")] = False,
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. Its secret is printed once, and kept nowhere."""
    body = {
        "name": name,
        "organizationId": organization,
        "accountId": account,
        "scopes": scope or ["proxy"],
        "models": model or None,
        "limits": [_limit(text) for text in limit or ()] or None,
        "expiresAt": expires,
        "maxMultiplier": max_multiplier,
        "test": test or None,
    }

    async def work() -> tuple[Row, str]:
        async with desk(config, url, key, create=True) as at:
            return await at.create_key(body)

    _print_secret(*run(work()), as_json=as_json)


@app.command("list")
def list_(
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List keys: what they may do and when they were last used, never their secrets."""

    async def work() -> None:
        async with desk(config, url, key) as at:
            show(await at.keys(organization), COLUMNS, as_json=as_json)

    run(work())


@app.command()
def rotate(key_id: KeyId, config: Config = None, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Give a key a new secret. The old one stops with its next call."""

    async def work() -> tuple[Row, str]:
        async with desk(config, url, key) as at:
            return await at.rotate_key(key_id)

    _print_secret(*run(work()), as_json=as_json)


@app.command()
def revoke(key_id: KeyId, config: Config = None, url: Url = None, key: Key = None) -> None:
    """End a key: it stops with its next call, everywhere."""

    async def work() -> None:
        async with desk(config, url, key) as at:
            await at.revoke_key(key_id)

    run(work())
    print(f"revoked {key_id}")


def _limit(text: str) -> dict[str, Any]:
    parts = text.split(":")
    if len(parts) != 3:
        raise InvalidRequest("--limit must be KIND:WINDOW:MAX, like credits:day:500", param="limit")
    return dict(zip(("kind", "window", "max"), parts, strict=True))


def _print_secret(made: Row, secret: str, *, as_json: bool) -> None:
    if as_json:
        show([{**made, "secret": secret}], {}, as_json=True)
        return
    print(secret)
