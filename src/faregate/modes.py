"""The degraded modes of one worker, each a number: 0 is well. `/health/ready` and `faregate_degraded` show them.

What has gone wrong with single calls counts the last minute; everything else is how things are now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from faregate.auth.accounts import AccountResolver
from faregate.auth.principals import Principals
from faregate.credits.gate import RedisGate
from faregate.gateway.lately import Lately
from faregate.journal import FileJournal
from faregate.owner import Owner
from faregate.recovery import Recovery

LATELY: Mapping[str, str] = {
    "upstream_failed": "refused:upstream_error refused:upstream_timeout refused:upstream_refused",
    "upstream_cut": "ended:upstream_error ended:truncated",
    "client_left": "ended:client_gone refused:client_closed",
    "usage_missing": "ended:no_usage",
    "overrun": "overrun",
    "holds_swept": "trouble:swept trouble:cut",
    "holds_put_back": "trouble:reasserted",
}
"""Modes by what is counted for them (gateway/metrics.py)."""
NOW = ("redis_refuses", "redis_late", "redis_grace", "sql_backlog", "sql_reads", "journal_full", "replay", "parked")
MODES = (*LATELY, *NOW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Who knows."""

    owner: Owner
    gate: RedisGate
    keys: Principals
    accounts: AccountResolver
    recovery: Recovery
    lately: Lately
    journal: FileJournal


def modes(parts: Parts) -> dict[str, int]:
    """Every mode by its name."""
    found = {mode: sum(map(parts.lately.count, names.split())) for mode, names in LATELY.items()}
    circuits = (parts.keys.guard, parts.accounts.guard, parts.gate.accounts_guard)
    now = (
        parts.gate.refusing,
        parts.owner.late_closes,
        parts.gate.in_grace,
        parts.owner.backlog,
        sum(not circuit.closed for circuit in circuits),
        int(parts.journal.full),
        parts.recovery.left,
        parts.owner.parked,
    )
    return found | dict(zip(NOW, now, strict=True))
