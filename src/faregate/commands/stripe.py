"""`faregate stripe`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from faregate.commands.local import WHO, opened
from faregate.commands.options import AsJson, Config
from faregate.commands.shared import moment_text, run, show, show_fields, to_json
from faregate.core.metering import usd
from faregate.core.money import plain
from faregate.errors import InvalidRequest, NotFound
from faregate.ledger.outbox import Letter, Outbox, Status
from faregate.settings import Settings, load

app = typer.Typer(
    help="Show billed usage on its way to Stripe, and try again what is stuck.",
    rich_markup_mode=None,
    add_completion=False,
)
COLUMNS = {
    "id": "event",
    "organizationId": "organization",
    "customer": "customer",
    "usd": "USD",
    "timestamp": "of",
    "tries": "tries",
    "code": "why",
}
_How = Literal["compared", "again", "delivered"]


@app.command()
def status(config: Config = None, as_json: AsJson = False) -> int:
    """Show what is queued, sent and stuck, in USD. Exit code 1: there are dead letters."""
    found = run(_status(load(config)))
    dead = [_row(letter) for letter in found.dead]
    fields: dict[str, object] = {"openUsd": plain(found.owed_usd)}
    for state, count in found.counts.items():
        fields |= {f"{state}Events": count, f"{state}Usd": plain(usd(found.values[state]))}
    if found.oldest_us is not None:
        fields["oldestUndelivered"] = moment_text(found.oldest_us)
    if as_json:
        print(to_json({**fields, "deadLetters": dead}))
    else:
        show_fields(fields, as_json=False)
        if dead:
            print()
            show(dead, COLUMNS, as_json=False)
    return 1 if found.counts["dead"] else 0


async def _status(settings: Settings) -> Status:
    async with opened(settings) as book:
        return await Outbox(book.ledger.database).status()


def _row(letter: Letter) -> dict[str, object]:
    return {
        "id": letter.id,
        "organizationId": letter.organization_id,
        "customer": letter.customer,
        "meter": letter.meter,
        "usd": plain(usd(letter.value)),
        "timestamp": moment_text(letter.timestamp_s * 1_000_000),
        "tries": letter.attempts,
        "code": letter.code,
        "since": moment_text(letter.updated_us),
    }


@app.command()
def retry(
    events: Annotated[list[str] | None, typer.Argument(help="Dead letters, by the id that status shows.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every dead letter.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="They are known not to be at Stripe: send without looking them up.")
    ] = False,
    delivered: Annotated[
        bool, typer.Option("--delivered", help="They are known to be at Stripe: do not send them any more.")
    ] = False,
    config: Config = None,
) -> None:
    """Queue dead letters again, once their cause is mended. What may be at Stripe already is looked up first."""
    if bool(events) == all_:
        raise InvalidRequest("name the dead letters, or say --all")
    if again and delivered:
        raise InvalidRequest("--again and --delivered exclude each other")
    how: _How = "again" if again else "delivered" if delivered else "compared"
    done = run(_retry(load(config), None if all_ else list(events or ()), how))
    print(f"{len(done)} called delivered" if delivered else f"{len(done)} queued again")


async def _retry(settings: Settings, ids: list[str] | None, how: _How) -> list[str]:
    async with opened(settings) as book:
        done = await Outbox(book.ledger.database).retry(ids, how)
        for name in done:
            detail = {"how": how}
            await book.ledger.admin_audit.append(who=WHO, what="stripe.retry", target=name, detail=detail)
    if ids is not None and (missing := sorted(set(ids) - set(done))):
        raise NotFound(f"no dead letter: {', '.join(missing)}")
    return done
