"""The scripted upstream for endpoints whose bodies are forms and whose answers are sound, pictures or text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from faregate.gateway.multipart import is_form, parts_of
from tests.upstreams.play import Line, head, response
from tests.upstreams.script import Served
from tests.upstreams.scripted import Scripted, endpoint_of


@dataclass(frozen=True)
class Reply:
    """One answer; several pieces are sent one by one."""

    pieces: tuple[bytes, ...] = (b"{}",)
    content_type: str = "application/json"
    status: int = 200
    cut: bool = False
    """The connection ends after the pieces, before the body does."""


@dataclass
class Received:
    """A request as it came; of a form also its fields and files."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    fields: dict[str, object] = field(default_factory=dict)
    files: list[tuple[str, bytes]] = field(default_factory=list)


class Media(Scripted):
    """Answers each endpoint with what `answers` has for it."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, Reply] = {}
        self.received: list[Received] = []

    def _receive(self, path: str, headers: dict[str, str], body: bytes) -> Served:
        got = Received(path, headers, body)
        self.received.append(got)
        kind = headers.get("content-type", "")
        if is_form(kind):
            for part in parts_of(body, kind):
                value = body[part.start : part.end]
                if part.filename is None:
                    got.fields[part.name] = value.decode()
                else:
                    got.files.append((part.name, value))
        else:
            got.fields = orjson.loads(body)
        return Served(
            id=str(len(self.received)),
            path=path,
            endpoint=endpoint_of(path),
            headers=headers,
            body=body,
            model=str(got.fields.get("model")),
            stream=False,
        )

    async def _serve(self, line: Line, served: Served) -> bool:
        reply = self.answers.get(served.endpoint, Reply())
        kind = {"content-type": reply.content_type}
        if len(reply.pieces) == 1 and not reply.cut:
            await line.write(response(reply.status, reply.pieces[0], kind))
            return True
        await line.write(head(reply.status, {**kind, "transfer-encoding": "chunked"}))
        for piece in reply.pieces:
            await line.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if reply.cut:
            return False
        await line.write(b"0\r\n\r\n")
        return True


def events(*values: Mapping[str, object]) -> tuple[bytes, ...]:
    """Each value as one event named by its type."""
    return tuple(b"event: %s\ndata: %s\n\n" % (str(v["type"]).encode(), orjson.dumps(v)) for v in values)
