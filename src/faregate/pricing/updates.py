"""Prices taken over from a newer release of genai-prices: each model from its moment on, above everything shipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from genai_prices import types

from faregate.pricing.matching import certain, clauses, spellings


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One model as a release has it."""

    seller: str
    """As genai-prices calls it: google, aws, x-ai."""
    info: types.ModelInfo
    source: str
    """The release: genai-prices 0.3.1."""
    start: datetime
    """In force from then on; before, what was in force stays."""


class Updates:
    """All updates that were ever taken over, by seller, the newest first."""

    def __init__(self, updates: Iterable[Update] = ()) -> None:
        """`updates` in the order in which they were booked: of two with the same start the later one counts."""
        self._by_seller: dict[str, list[Update]] = {}
        for update in sorted(updates, key=lambda update: update.start):
            self._by_seller.setdefault(update.seller, []).insert(0, update)

    def __contains__(self, seller: str) -> bool:
        return seller in self._by_seller

    def __iter__(self) -> Iterator[Update]:
        for found in self._by_seller.values():
            yield from found

    def by_id(self, seller: str, model_id: str, now: datetime) -> Update | None:
        """The one in force for a model of this id."""
        return next((update for update in self._in_force(seller, now) if update.info.id == model_id), None)

    def match(self, seller: str, model: str, now: datetime) -> tuple[Update, bool] | None:
        """The one in force that means a model (in lower case), and whether it has that very name."""
        loose = None
        for update in self._in_force(seller, now):
            how = _means(update.info, spellings(model))
            if how == "exact":
                return update, True
            if how == "loose" and loose is None:
                loose = update
        return None if loose is None else (loose, False)

    def starts(self) -> Sequence[datetime]:
        """The moments at which something came, or comes, into force."""
        return sorted({update.start for update in self})

    def _in_force(self, seller: str, now: datetime) -> Iterator[Update]:
        """The newest of each model."""
        seen = set()
        for update in self._by_seller.get(seller, ()):
            if update.start <= now and update.info.id not in seen:
                seen.add(update.info.id)
                yield update


def _means(info: types.ModelInfo, names: Sequence[str]) -> str | None:
    ways = list(clauses(info.match))
    if any(isinstance(way, types.ClauseEquals) and way.equals.lower() in names for way in ways):
        return "exact"
    return "loose" if any(certain(way, name) for way in ways for name in names) else None


NONE = Updates()
"""Nothing was taken over."""
