"""`faregate usage`."""

from __future__ import annotations

from typing import Annotated

import typer

from faregate.commands.desk import Row, desk
from faregate.commands.options import AsJson, Config, Key, Organization, Url
from faregate.commands.shared import parse_moment, run, show, show_fields

COLUMNS = {
    "createdAt": "when",
    "accountId": "account",
    "provider": "provider",
    "modelId": "model",
    "inputTokens": "input",
    "outputTokens": "output",
    "estimatedCostUsd": "USD",
    "creditsCharged": "credits",
    "requestId": "request",
}
GROUPS = {
    "groupKey": "group",
    "count": "calls",
    "totalInputTokens": "input",
    "totalOutputTokens": "output",
    "totalCostUsd": "USD",
    "totalCredits": "credits",
}


def usage(
    account: Annotated[str | None, typer.Option(help="One account's only, by id or external id.")] = None,
    model: Annotated[str | None, typer.Option(help="One model's only, by public or upstream name.")] = None,
    since: Annotated[str | None, typer.Option(help="From then on: a date, an ISO 8601 time, or like 24h, 7d.")] = None,
    summary: Annotated[bool, typer.Option("--summary", help="Sums instead of records.")] = False,
    group_by: Annotated[str | None, typer.Option(help="With --summary: model, account, key, agent, day ...")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many records, newest first.")] = 20,
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show what was used and what it cost: records, newest first, or with --summary their sums."""
    start = None if since is None else parse_moment(since, "--since").isoformat()
    query: Row = {"organizationId": organization, "accountId": account, "modelId": model, "startDate": start}

    async def work() -> None:
        async with desk(config, url, key) as at:
            if summary or group_by is not None:
                _print_summary(await at.usage_summary({**query, "groupBy": group_by}), as_json=as_json)
            else:
                show(await at.usage({**query, "limit": limit}), COLUMNS, as_json=as_json)

    run(work())


def _print_summary(summary: Row, *, as_json: bool) -> None:
    groups = summary.get("groups")
    if as_json or groups is None:
        flat = {name: value for name, value in summary.items() if as_json or not isinstance(value, dict)}
        show_fields(flat, as_json=as_json)
        return
    show(groups, GROUPS, as_json=False)
