"""What a worker and its data directory's clerk say to one another over a unix socket.

request  u32 length, u64 number, then a record (core.codec)
reply    u32 length, u64 0, then JSON: [[number, answer], ...], where an answer is
         {"ok": [usage id, new, charge, [account, posted, seq, overdraft, fresh until, gated, [[key, used, seq], …]]]},
         {"refused": text} or {"away": text}
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from faregate.core.call import Committed, LimitState, Snapshot
from faregate.errors import BookRefused, BookUnavailable

HEAD = struct.Struct("<IQ")
MAX_FRAME_BYTES = 64 << 20
"""Far over any record or batch of answers: a frame beyond is a defect, and the connection is dropped."""


class Frames:
    """Cuts a byte stream into frames. Holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(number, payload) of every frame that is complete now. Raises ValueError for one that is too long."""
        rest = self._rest
        rest += data
        at = 0
        while len(rest) - at >= HEAD.size:
            length, number = HEAD.unpack_from(rest, at)
            if length > MAX_FRAME_BYTES:
                raise ValueError("a frame is too long")
            end = at + HEAD.size + length
            if len(rest) < end:
                break
            yield number, bytes(rest[at + HEAD.size : end])
            at = end
        del rest[:at]


def answer_of(outcome: Committed | BaseException) -> dict[str, object]:
    """An outcome as it goes over the wire."""
    if isinstance(outcome, Committed):
        state = outcome.snapshot
        limits = [(limit.key, limit.used, limit.seq) for limit in state.limits]
        account = (
            state.account_id,
            state.posted,
            state.seq,
            state.overdraft,
            state.fresh_until_ms,
            state.gated,
            limits,
        )
        return {"ok": (outcome.usage_id, outcome.new, outcome.charge_microcredits, account)}
    kind = "refused" if isinstance(outcome, BookRefused) else "away"
    return {kind: outcome.message if isinstance(outcome, BookUnavailable) else type(outcome).__name__}


def outcome_of(answer: dict[str, Any]) -> Committed | BookUnavailable:
    """The outcome again."""
    if "ok" not in answer:
        refused = answer.get("refused")
        return BookRefused(refused) if refused is not None else BookUnavailable(answer["away"])
    usage_id, new, charge, (account_id, posted, seq, overdraft, fresh_until_ms, gated, limits) = answer["ok"]
    snapshot = Snapshot(
        account_id=account_id,
        posted=posted,
        seq=seq,
        overdraft=overdraft,
        fresh_until_ms=fresh_until_ms,
        gated=gated,
        limits=tuple([LimitState(key=key, used=used, seq=at) for key, used, at in limits]),
    )
    return Committed(snapshot=snapshot, usage_id=usage_id, new=new, charge_microcredits=charge)
