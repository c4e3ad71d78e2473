"""`faregate holds`."""

from __future__ import annotations

from faregate.commands.desk import desk
from faregate.commands.options import AsJson, Config, Key, Url
from faregate.commands.shared import run, show

COLUMNS = {
    "id": "hold",
    "accountId": "account",
    "kind": "kind",
    "amount": "credits",
    "progress": "delivered",
    "ageSeconds": "age (s)",
    "deadline": "deadline",
}


def holds(config: Config = None, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Show the holds that are open now: credits set aside for calls under way, and reservations."""

    async def work() -> None:
        async with desk(config, url, key) as at:
            show(await at.holds(), COLUMNS, as_json=as_json)

    run(work())
