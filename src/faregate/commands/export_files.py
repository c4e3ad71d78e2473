"""Files of usage records while they grow: lines in a part beside the output, and how far the part has come."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Final

from faregate.errors import ConfigError, InvalidRequest

Row = Mapping[str, Any]

COLUMNS: Final[Mapping[str, type]] = {
    "id": str,
    "occurredAt": str,
    "createdAt": str,
    "context": str,
    "accountId": str,
    "keyId": str,
    "provider": str,
    "modelId": str,
    "publicModel": str,
    "usageType": str,
    "endpoint": str,
    "inputTokens": int,
    "cachedTokens": int,
    "cacheWriteTokens": int,
    "outputTokens": int,
    "reasoningTokens": int,
    "audioDurationSeconds": Decimal,
    "estimatedCostUsd": Decimal,
    "creditsCharged": Decimal,
    "transactionId": str,
    "requestId": str,
    "kind": str,
    "estimated": bool,
    "outcome": str,
    "status": int,
    "stream": bool,
    "durationMs": int,
    "tier": str,
    "attribution": dict,
    "description": str,
}
"""Of every format, in this order, named as the API names them. Decimals are exact text, attribution is JSON."""


def header(file_format: str) -> str:
    """What stands before the first record."""
    return ",".join(COLUMNS) + "\r\n" if file_format == "csv" else ""


def line(file_format: str, row: Row) -> str:
    """One record with its line's end."""
    plain = {name: _plain(row.get(name), kind) for name, kind in COLUMNS.items()}
    if file_format == "csv":
        buffer = io.StringIO()
        csv.writer(buffer).writerow([_cell(value) for value in plain.values()])
        return buffer.getvalue()
    return json.dumps(plain, ensure_ascii=False) + "\n"


def _plain(value: object, kind: type) -> object:
    """A JSON number is a binary fraction to most readers: decimals are text."""
    return format(Decimal(str(value)), "f") if kind is Decimal and value is not None else value


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


@dataclass(slots=True)
class Spool:
    """A part: `<output>.part` with its records, and `<output>.part.json` saying how far they are good."""

    output: Path
    line_format: str
    words: Row
    """The command, which a part is only gone on with by itself."""
    asked: Row
    """The query as it was first asked: `7d` stays the same moment."""
    cursor: str | None
    rows: int
    size: int
    complete: bool
    file: BinaryIO

    @classmethod
    def open(cls, output: Path, line_format: str, words: Row, asked: Row, cursor: str | None) -> Spool:
        """Begin, or go on. Raises InvalidRequest for another command's part, ConfigError for a path that is none."""
        part, state = _part(output), _state(output)
        try:
            known = json.loads(state.read_text()) if state.exists() and part.exists() else None
            if known is not None and known["words"] != dict(words):
                raise InvalidRequest(f"{part} is a part of another export: delete it, or choose another --output")
            file = part.open("r+b" if known else "w+b")
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"--output {output}: {error}") from error
        if known is None:
            spool = cls(output, line_format, dict(words), asked, cursor, 0, 0, complete=False, file=file)
            spool._append(header(line_format))
            spool._note()
            return spool
        spool = cls(output, line_format, file=file, **known)
        file.truncate(spool.size)
        file.seek(spool.size)
        return spool

    def add(self, rows: Sequence[Row], reached: str | None) -> None:
        """One page; `reached` None: the last one."""
        self._append("".join(line(self.line_format, row) for row in rows))
        self.rows += len(rows)
        self.cursor, self.complete = reached or self.cursor, reached is None
        self._note()

    def finish(self, whole: Path | None = None) -> None:
        """The output appears at once and whole: the part, or what was made of it."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        (whole or self.part).replace(self.output)
        self.part.unlink(missing_ok=True)
        _state(self.output).unlink()

    @property
    def part(self) -> Path:
        return _part(self.output)

    def _append(self, text: str) -> None:
        self.size += self.file.write(text.encode())
        self.file.flush()

    def _note(self) -> None:
        known = {name: getattr(self, name) for name in ("words", "asked", "cursor", "rows", "size", "complete")}
        path = _state(self.output)
        new = path.with_name(f"{path.name}.new")
        new.write_text(json.dumps(known))
        new.replace(path)


def _part(output: Path) -> Path:
    return output.with_name(f"{output.name}.part")


def _state(output: Path) -> Path:
    return output.with_name(f"{output.name}.part.json")
