"""Whose fault a refusal is: some providers call a bad key of the operator's a bad request of the client's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from faregate.ports import Answer

_MOST_BYTES = 64 * 1024


async def reword(answer: Answer, mark: bytes) -> Answer:
    """A 400 whose body has `mark` as the 401 it is: not shown to the client, and tried elsewhere.

    Raises UpstreamError when the body breaks off.
    """
    if answer.status != 400:
        return answer
    chunks, pieces, size = answer.chunks(), [], 0
    async for piece in chunks:
        pieces.append(piece)
        size += len(piece)
        if size > _MOST_BYTES:
            break
    status = 401 if mark in b"".join(pieces) else answer.status
    return _Reread(answer, status, pieces, chunks)


class _Reread:
    """ports.Answer whose first bytes have been looked at."""

    def __init__(self, answer: Answer, status: int, pieces: list[bytes], rest: AsyncIterator[bytes]) -> None:
        self.status = status
        self.headers: Mapping[str, str] = answer.headers
        self.touch = answer.touch
        self.abort = answer.abort
        self.close = answer.close
        self._pieces = pieces
        self._rest = rest

    async def chunks(self) -> AsyncIterator[bytes]:
        """What was read, then the rest."""
        for piece in self._pieces:
            yield piece
        async for piece in self._rest:
            yield piece
