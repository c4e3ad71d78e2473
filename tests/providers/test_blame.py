from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest

from faregate.providers.blame import reword


class Said:
    """ports.Answer of given pieces."""

    def __init__(self, status: int, *pieces: bytes) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {"content-type": "application/json"}
        self._pieces = pieces

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    def touch(self) -> None: ...

    def abort(self) -> None: ...

    async def close(self) -> None: ...


async def read(answer: Said, mark: bytes = b"bad key") -> tuple[int, list[bytes]]:
    reread = await reword(answer, mark)
    return reread.status, [piece async for piece in reread.chunks()]


@pytest.mark.parametrize(
    "pieces", [(b"a bad key!",), (b"a bad", b" key!"), tuple(b"a bad key!"[i : i + 1] for i in range(10))]
)
async def test_a_bad_request_that_names_the_key_is_unauthorized(pieces: tuple[bytes, ...]) -> None:
    assert await read(Said(400, *pieces)) == (401, list(pieces))


async def test_any_other_bad_request_is_what_it_says() -> None:
    assert await read(Said(400, b"no such", b" field")) == (400, [b"no such", b" field"])


async def test_other_answers_are_not_touched() -> None:
    answer = Said(200, b"a bad key!")
    assert await reword(answer, b"bad key") is answer


async def test_a_body_without_end_is_not_kept() -> None:
    pieces = [b"x" * 40_000] * 5
    assert await read(Said(400, *pieces, b"bad key")) == (400, [*pieces, b"bad key"])
