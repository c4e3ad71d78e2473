"""One open hold of this process, and the states it lives through. What is not in the table cannot happen:

asking     reserve is on its way           -> held | doubtful | forgotten (refused)
doubtful   reserve was not answered        -> released in the background until twice "no hold"
held       granted, not yet forwarded      -> forwarded | ending
forwarded  the provider may have billed    -> learned | ending
learned    the truth is in the journal     -> ending (SQL first, then Redis)
ending     a closing word went to Redis: from here on it is never re-asserted
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from faregate.core.call import Hold, Record

State = Literal["asking", "doubtful", "held", "forwarded", "learned", "ending"]

KEPT = ("held", "forwarded", "learned")
"""States in which a hold is kept alive, and put back when Redis lost it."""


@dataclass(slots=True, eq=False)
class Held:
    """One open hold of this process."""

    hold: Hold
    intent: Record
    meta: bytes
    taken_at: float
    microcredits: int
    state: State = "held"
    progress: Callable[[], int] | None = None
    """What input and delivered output are worth now, in microcredits; asked once a heartbeat."""
    last_progress: int = 0
    last_ok: float = 0.0
    no_holds: int = 0
    unsure: bool = False
    """A reassert went unanswered: it may still arrive, after a release."""
    lost: bool = False
    """Swept, or not heard of for too long: nothing may be forwarded on it any more."""
    owed: Record | None = None
    """The truth, from the moment it is in the journal."""
    owed_at: float = 0.0
    arrears: Hold | None = None
    """The hold its charge is folded into while SQL is away."""
    folded: bool = False
    """Redis has said that it is."""
    on_cut: Callable[[], None] | None = None
    """Called when the hold was swept under us, or no heartbeat got through: stop upstream, settle what there is."""
