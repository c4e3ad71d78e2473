"""What usage to look at: conditions for records, and for their sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import ColumnElement, or_, select

from faregate.ledger import tables
from faregate.ledger.dialect import json_has
from faregate.ledger.rollups import cut

_t = tables.usage_records.c
_l = tables.usage_labels.c


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter:
    """What to look at; None is no condition. Times are UTC microseconds, `end_us` is exclusive."""

    organization_id: str | None
    """None: all organizations, for those who stand above them."""
    account_id: str | None = None
    model: str | None = None
    """The public or the upstream name."""
    provider: str | None = None
    context: Literal["customer", "system"] | None = None
    agent: str | None = None
    feature: str | None = None
    key_id: str | None = None
    attribution: Mapping[str, str] = field(default_factory=dict)
    """By full name: user, tag.<name>, metadata.<name>."""
    start_us: int | None = None
    end_us: int | None = None

    def conditions(self, columns: Any) -> list[ColumnElement[bool]]:
        """All but time and attribution, for `usage_records` or `rollups`: the columns have the same names."""
        names = ("organization_id", "account_id", "provider", "context", "agent", "feature", "key_id")
        found = [columns[name] == getattr(self, name) for name in names if getattr(self, name) is not None]
        if self.model is not None:
            found.append(or_(columns.public_model == self.model, columns.model == self.model))
        return found

    @property
    def labels(self) -> dict[str, str]:
        """What `usage_labels` knows of: the attribution, agent and feature among it."""
        own = {"agent": self.agent, "feature": self.feature}
        return {**{name: value for name, value in own.items() if value is not None}, **self.attribution}

    def tagged(self) -> list[ColumnElement[bool]]:
        """The attribution, as a record has it."""
        return [json_has(_t.tags, name, value) for name, value in sorted(self.attribution.items())]

    def record_conditions(self, start_us: int | None, end_us: int | None) -> list[ColumnElement[bool]]:
        """All of them, for `usage_records`, between two moments."""
        found = [*self.conditions(_t), *self.tagged()]
        if self.labels and self.organization_id is not None:
            label = labelled(self.organization_id, *max(self.labels.items()))
            found.append(_t.id.in_(select(_l.id).where(*label, *between(_l.occurred_us, start_us, end_us))))
        return [*found, *between(_t.occurred_us, start_us, end_us)]


def labelled(organization_id: str, name: str, value: str) -> list[ColumnElement[bool]]:
    """A label's rows in `usage_labels`; of a long one the record itself has to be asked, too."""
    return [_l.organization_id == organization_id, _l.name == cut(name), _l.value == cut(value)]


def between(column: ColumnElement[int], start_us: int | None, end_us: int | None) -> list[ColumnElement[bool]]:
    """A span of moments; None is open."""
    found: list[ColumnElement[bool]] = []
    if start_us is not None:
        found.append(column >= start_us)
    if end_us is not None:
        found.append(column < end_us)
    return found
