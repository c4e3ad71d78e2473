"""`faregate export`: usage in files, page by page, so that any number of records takes the same memory."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from faregate.commands.desk import Desk, Row, desk
from faregate.commands.export_files import Spool, header, line
from faregate.commands.export_parquet import ParquetFile
from faregate.commands.options import Config, Key, Organization, Url
from faregate.commands.shared import parse_moment, run
from faregate.errors import FaregateError, InvalidRequest

_PAGE = 1_000
app = typer.Typer(
    rich_markup_mode=None, add_completion=False, help="Write usage to a file: CSV, JSON lines or Parquet."
)


@app.callback()
def _group() -> None:
    """Write usage to a file: CSV, JSON lines or Parquet."""


@app.command("usage")
def usage(
    file_format: Annotated[Literal["csv", "jsonl", "parquet"], typer.Option("--format", help="What to write.")] = "csv",
    since: Annotated[str | None, typer.Option(help="From then on: a date, an ISO 8601 time, or like 24h, 7d.")] = None,
    until: Annotated[str | None, typer.Option(help="Before then: the same.")] = None,
    cursor: Annotated[str | None, typer.Option(help="Begin after this place, where an earlier export ended.")] = None,
    output: Annotated[Path | None, typer.Option(help="The file; else standard output (not for parquet).")] = None,
    account: Annotated[str | None, typer.Option(help="One account's only, by id or external id.")] = None,
    model: Annotated[str | None, typer.Option(help="One model's only, by public or upstream name.")] = None,
    organization: Organization = None,
    config: Config = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Write usage records, newest first. A file appears when it is whole.

    What is broken off goes on with the same command (a file), or with --cursor (standard output).
    """
    if file_format == "parquet" and output is None:
        raise InvalidRequest("--output is needed for parquet")
    parquet = ParquetFile() if file_format == "parquet" else None
    words = {
        "organizationId": organization,
        "accountId": account,
        "modelId": model,
        "since": since,
        "until": until,
        "cursor": cursor,
        "format": file_format,
        "url": url,
    }
    query = {name: words[name] for name in ("organizationId", "accountId", "modelId")}
    asked = {**query, "startDate": _moment(since, "--since"), "endDate": _moment(until, "--until"), "limit": _PAGE}

    async def work() -> None:
        async with desk(config, url, key) as at:
            if output is None:
                await _to_stdout(at, asked, file_format, cursor)
                return
            spool = Spool.open(output, "csv" if file_format == "csv" else "jsonl", words, asked, cursor)
            await _fill(at, spool)
            spool.finish(parquet.convert(spool) if parquet else None)
            _say(spool.rows)

    run(work())


def _moment(text: str | None, param: str) -> str | None:
    return None if text is None else parse_moment(text, param).isoformat()


async def _pages(at: Desk, asked: Row, cursor: str | None) -> AsyncIterator[tuple[list[Row], str | None]]:
    """Each page with the cursor of its end; None at the last."""
    while True:
        rows, cursor = await at.usage_page(asked, cursor)
        yield list(rows), cursor
        if cursor is None:
            return


async def _to_stdout(at: Desk, asked: Row, file_format: str, cursor: str | None) -> None:
    written = 0
    if cursor is None:
        sys.stdout.write(header(file_format))
    try:
        async for rows, reached in _pages(at, asked, cursor):
            sys.stdout.write("".join(line(file_format, row) for row in rows))
            sys.stdout.flush()
            written, cursor = written + len(rows), reached or cursor
    except FaregateError as error:
        error.message += f"; {written:,} records written, go on with --cursor {cursor}" if written else ""
        raise
    _say(written)


async def _fill(at: Desk, spool: Spool) -> None:
    """What the part has not got yet."""
    if spool.rows:
        print(f"going on after {spool.rows:,} records", file=sys.stderr)
    if spool.complete:
        return
    try:
        async for rows, reached in _pages(at, spool.asked, spool.cursor):
            spool.add(rows, reached)
    except FaregateError as error:
        error.message += f"; {spool.rows:,} records are kept, the same command goes on (cursor {spool.cursor or '-'})"
        raise


def _say(rows: int) -> None:
    print(f"{rows:,} records written", file=sys.stderr)
