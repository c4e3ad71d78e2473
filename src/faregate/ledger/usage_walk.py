"""Walking usage by time: along the index that has the fewest steps from here.

Every filter has an index that is ordered by time: accounts and keys their own, attribution `usage_labels`; model,
provider and context share one over whole routes (context, provider, both model names), which is read lane by lane
and merged. With several filters a look at the next entries of each tells which is the thinnest; that one is walked,
and the records on it are asked the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from heapq import merge
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, func, or_, select, tuple_

from faregate.ledger import tables
from faregate.ledger.usage_filter import UsageFilter, between, labelled

_t = tables.usage_records.c
_PROBE = 200
_MOST_LANES = 200

Place = tuple[int, str]
"""When it occurred, and the record's id."""


@dataclass(frozen=True, slots=True)
class _Lane:
    """A stretch of an index: equal up to time and id. `name`: which filters it answers."""

    name: str
    table: Table
    conditions: tuple[ColumnElement[bool], ...]


@dataclass(frozen=True, slots=True)
class _Step:
    """How far, and in which direction."""

    wanted: UsageFilter
    limit: int
    after: Place | None
    offset: int
    down: bool
    calls_only: bool

    def span(self, columns: Any) -> list[ColumnElement[bool]]:
        """A database begins at one bound of each side, so it is only told the nearer one."""
        start_us, end_us = self.wanted.start_us, self.wanted.end_us
        found: list[ColumnElement[bool]] = []
        if self.after is not None:
            bound, here = end_us if self.down else start_us, tuple_(columns.occurred_us, columns.id)
            if self.down and (bound is None or self.after[0] < bound):
                found, end_us = [here < self.after], None
            if not self.down and (bound is None or self.after[0] >= bound):
                found, start_us = [here > self.after], None
        return [*found, *between(columns.occurred_us, start_us, end_us)]

    def order(self, columns: Any) -> list[Any]:
        both = (columns.occurred_us, columns.id)
        return [column.desc() if self.down else column.asc() for column in both]


def walk(
    conn: Connection,
    wanted: UsageFilter,
    *,
    limit: int,
    after: Place | None = None,
    offset: int = 0,
    down: bool = True,
    calls_only: bool = False,
) -> list[Place]:
    """The next places the filter takes. `down`: newest first; `calls_only`: without adjustments."""
    if wanted.organization_id is None and (organizations := _organizations(conn)):
        each = (
            walk(
                conn,
                replace(wanted, organization_id=one),
                limit=limit + offset,
                after=after,
                down=down,
                calls_only=calls_only,
            )
            for one in organizations
        )
        return list(islice(merge(*each, reverse=down), offset, offset + limit))
    step = _Step(wanted, limit, after, offset, down, calls_only)
    ways = _ways(conn, wanted)
    lanes = ways[0] if len(ways) == 1 else min(ways, key=lambda way: sum(_density(conn, lane, step) for lane in way))
    if len(lanes) == 1:
        return _walk(conn, lanes[0], step, limit, offset)
    found = (_walk(conn, lane, step, limit + offset, 0) for lane in lanes)
    return list(islice(merge(*found, reverse=down), offset, offset + limit))


def _organizations(conn: Connection) -> list[str]:
    """All that have used anything; none if they are too many to be merged."""
    found = select(tables.usage_routes.c.organization_id).distinct().limit(_MOST_LANES + 1)
    organizations = [str(one) for one in conn.execute(found).scalars()]
    return organizations if len(organizations) <= _MOST_LANES else []


def _ways(conn: Connection, wanted: UsageFilter) -> list[list[_Lane]]:
    """What could be walked; without a filter the organization's own index."""
    if wanted.organization_id is None:
        return [[_Lane("", tables.usage_records, ())]]
    ours = _t.organization_id == wanted.organization_id
    ways = [
        [_Lane(name, tables.usage_records, (ours, _t[name] == value))]
        for name, value in (("account_id", wanted.account_id), ("key_id", wanted.key_id))
        if value is not None
    ]
    for name, value in wanted.labels.items():
        found = tuple(labelled(wanted.organization_id, name, value))
        ways.append([_Lane(f"label {name}", tables.usage_labels, found)])
    if wanted.model or wanted.provider or wanted.context:
        routes = _routes(conn, wanted)
        if len(routes) <= _MOST_LANES:
            ways.append([_Lane("route", tables.usage_records, (ours, *route)) for route in routes])
    return ways or [[_Lane("organization", tables.usage_records, (ours,))]]


def _routes(conn: Connection, wanted: UsageFilter) -> list[list[ColumnElement[bool]]]:
    c = tables.usage_routes.c
    query = select(c.context, c.provider, c.public_model, c.model).where(c.organization_id == wanted.organization_id)
    for name in ("context", "provider"):
        if getattr(wanted, name) is not None:
            query = query.where(c[name] == getattr(wanted, name))
    if wanted.model is not None:
        query = query.where(or_(c.public_model == wanted.model, c.model == wanted.model))
    columns = (_t.context, _t.provider, _t.public_model, _t.model)
    rows = conn.execute(query.limit(_MOST_LANES + 1)).all()
    return [[column == value for column, value in zip(columns, row, strict=True)] for row in rows]


def _density(conn: Connection, lane: _Lane, step: _Step) -> float:
    """Entries for each microsecond from here."""
    columns = lane.table.c
    ahead = select(columns.occurred_us).where(*lane.conditions, *step.span(columns))
    ahead = ahead.order_by(*step.order(columns)).limit(_PROBE)
    moment = ahead.subquery().c.occurred_us
    count, first, last = conn.execute(select(func.count(), func.min(moment), func.max(moment))).one()
    if count < _PROBE:
        return float(count) * 1e-15  # that is all there is
    return float(count) / max(1, int(last) - int(first))


def _walk(conn: Connection, lane: _Lane, step: _Step, limit: int, offset: int) -> list[Place]:
    columns, rest = lane.table.c, _rest(lane, step)
    query = select(columns.occurred_us, columns.id)
    if rest and lane.table is tables.usage_labels:
        query = query.join(tables.usage_records, _t.id == columns.id)
    query = query.where(*lane.conditions, *step.span(columns), *rest).order_by(*step.order(columns))
    return [(occurred, record_id) for occurred, record_id in conn.execute(query.limit(limit).offset(offset))]


def _rest(lane: _Lane, step: _Step) -> list[ColumnElement[bool]]:
    """What the lane leaves open. Wrapped in coalesce(), so that no other index looks better to the database."""
    wanted, found = step.wanted, []
    open_names = ["account_id", "key_id", "agent", "feature"]
    if lane.name != "route":
        open_names += ["provider", "context"]
        if wanted.model is not None:
            either = (func.coalesce(_t.public_model, ""), func.coalesce(_t.model, ""))
            found.append(or_(*(column == wanted.model for column in either)))
    for name in open_names:
        value = getattr(wanted, name)
        if value is not None and lane.name not in (name, f"label {name}"):
            found.append(func.coalesce(_t[name], "") == value)
    answered = lane.name.removeprefix("label ")
    if len(wanted.attribution) > 1 or answered not in wanted.attribution or _is_cut(wanted, answered):
        found += wanted.tagged()
    return [*found, _t.is_adjustment.is_(False)] if step.calls_only else found


def _is_cut(wanted: UsageFilter, name: str) -> bool:
    return max(len(name), len(wanted.attribution[name])) > tables.MOST_LABEL
