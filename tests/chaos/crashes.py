"""One call in a process of its own that dies, or is lied to, at a step of the way from `open` to `closed`.

    python -m tests.chaos.crashes FOLDER '{"fault": "exit", "stream": false, "aims": [], "mutant": ""}'

Steps are the calls of the ports, before and after each; N = 1, 2, ... until a call gets through:

    exit     `os._exit` at the N-th step
    raise    "unavailable", once: before (it was never done) or after (it was done, the reply was lost)
    freeze   stop there until a sibling has swept what the process holds, then go on

`aims` names the steps to try instead of all. Every process is forked from this one, which has imported everything
already; each first recovers what the ones before it left behind, as a restart does.

Writes FOLDER/points.jsonl (which step was hit) and FOLDER/answers.jsonl (what clients received whole).
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faregate import app
from faregate.credits.embedded import EmbeddedValkey
from faregate.credits.gate import RedisGate
from faregate.errors import BookUnavailable, FaregateError, JournalUnavailable, StoreUnavailable
from faregate.gateway.asgi import AsgiReply
from faregate.journal import FileJournal
from faregate.ledger.book import SqlBook
from faregate.ledger.database import Database
from faregate.providers.openai import OpenAIProvider
from faregate.providers.upstream import UpstreamAnswer
from faregate.settings import Settings, load
from tests.chaos import mutants
from tests.chaos.load import ADMIN_KEY

CRASHED = 77
_TOGETHER = {"exit": 4, "raise": 4, "freeze": 15}
_FROZEN_S = 2.0
"""Far beyond the deadline of three heartbeats (0.2 s each) and the two passes of a sweep."""
_MOST = 80

_LAST = ("before AsgiReply.finish", "after AsgiReply.finish")
_JOURNAL = ("open", "forward", "learned", "closed", "sync")
_GATE = ("reserve", "extend", "reassert", "release", "settle")


@dataclass(slots=True)
class Fault:
    """What goes wrong, and where: at the N-th step, or at the first step of that name."""

    kind: str
    aim: int | str
    folder: Path
    count: int = 0
    armed: bool = False
    hit: bool = False

    def step(self, name: str, error: Callable[[], FaregateError] | None) -> None:
        """Called at every step."""
        if self.kind == "raise" and error is None:
            return
        if name == "before FileJournal.open":
            self.armed = True
        if not self.armed or self.hit:
            return
        self.count += 1
        if self.aim in (self.count, name):
            self.hit = True
            _note(self.folder / "points.jsonl", {"aim": self.aim, "step": name})
            if self.kind == "exit":
                os._exit(CRASHED)
            if self.kind == "freeze":
                time.sleep(_FROZEN_S)
            elif error is not None:
                raise error()


def _note(path: Path, line: dict[str, object]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def install(fault: Fault) -> None:
    """Put the steps around the ports of this process."""

    def journal() -> FaregateError:
        return JournalUnavailable("the disk is full")

    def gate() -> FaregateError:
        return StoreUnavailable("no answer came in time")

    def book() -> FaregateError:
        return BookUnavailable("the book is away")

    for name in _JOURNAL:
        _wrap(fault, FileJournal, name, before=None if name == "closed" else journal)
    for name in _GATE:
        _wrap(fault, RedisGate, name, before=gate, after=gate)
    _wrap(fault, SqlBook, "commit", before=book, after=book)
    _wrap(fault, OpenAIProvider, "send")
    _wrap(fault, UpstreamAnswer, "__anext__")
    for name in ("start", "send", "finish"):
        _wrap(fault, AsgiReply, name)


def _wrap(
    fault: Fault,
    owner: type,
    name: str,
    *,
    before: Callable[[], FaregateError] | None = None,
    after: Callable[[], FaregateError] | None = None,
) -> None:
    real, label = getattr(owner, name), f"{owner.__name__}.{name}"

    async def awaited(self: object, *args: Any, **kwargs: Any) -> Any:
        fault.step(f"before {label}", before)
        result = await real(self, *args, **kwargs)
        fault.step(f"after {label}", after)
        return result

    def called(self: object, *args: Any, **kwargs: Any) -> Any:
        fault.step(f"before {label}", before)
        result = real(self, *args, **kwargs)
        fault.step(f"after {label}", after)
        return result

    setattr(owner, name, awaited if inspect.iscoroutinefunction(real) else called)


@dataclass(slots=True)
class Client:
    """The other side of ASGI: sends one request, notes what it received whole."""

    name: str
    stream: bool
    folder: Path
    status: int = 0
    body: bytes = b""
    _asked: bool = False
    _forever: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def scope(self) -> dict[str, object]:
        headers = {"authorization": f"Bearer {ADMIN_KEY}", "content-type": "application/json"}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        return {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": raw, "query_string": b""}

    async def receive(self) -> dict[str, object]:
        if self._asked:
            await self._forever.wait()
        self._asked = True
        told = json.dumps({"output_tokens": 2})
        messages = [{"role": "user", "content": f"x-script: {told}"}]
        body = {"model": "m", "user": self.name, "stream": self.stream, "messages": messages}
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    async def send(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")
        if message["type"] == "http.response.body" and not message.get("more_body"):
            answer = {"call": self.name, "stream": self.stream, "status": self.status, "body": self.body.decode()}
            _note(self.folder / "answers.jsonl", answer)


async def _one_call(settings: Settings, client: Client) -> None:
    runtime = app.Runtime(settings=settings)
    serve = app.build(runtime)
    await runtime.start()
    with suppress(FaregateError):  # The connection is cut: an answer that is not whole.
        await serve(client.scope, client.receive, client.send)
    await _ended(runtime)


async def _recover(settings: Settings) -> None:
    runtime = app.Runtime(settings=settings)
    await runtime.start()
    await asyncio.sleep(_FROZEN_S)
    await _ended(runtime)


async def _ended(runtime: app.Runtime) -> None:
    for _ in range(100):
        if not runtime.owner.open_holds:
            break
        await asyncio.sleep(0.05)
    await runtime.stop()


async def _credit(settings: Settings) -> None:
    runtime = app.Runtime(settings=settings)
    await runtime.start()
    await runtime.stop()
    database = Database(settings.book_url)
    await SqlBook(database).add_credits("acc_bootstrap", 1_000_000_000)
    await database.close()


def _fork(work: Callable[[], Coroutine[Any, Any, None]]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        asyncio.run(work())
        code = 0
    except BaseException:  # noqa: BLE001 - it is the parent's to know, by the exit code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _join(pids: Sequence[int]) -> set[int]:
    return {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids}


def _hits(folder: Path) -> int:
    path = folder / "points.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def main(folder: Path, task: dict[str, Any]) -> int:
    """Every step in turn, some at a time. Returns 0 when every process ended as it should."""
    settings = load(folder / "faregate.yaml")
    valkey = EmbeddedValkey(settings.data_dir)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    app.prepare(settings)
    valkey.start()
    mutants.apply(task.get("mutant", ""))

    def attempt(aim: int | str) -> int:
        async def work() -> None:
            install(Fault(task["fault"], aim, folder))
            await _one_call(settings, Client(f"aim {aim}", task["stream"], folder))

        return _fork(work)

    codes = _join([_fork(lambda: _credit(settings))])
    codes |= _join([attempt("none: warms key and account")])
    aims: list[int | str] = list(task.get("aims") or range(1, _MOST))
    together = _TOGETHER[task["fault"]]
    for first in range(0, len(aims), together):
        batch = aims[first : first + together]
        before = _hits(folder)
        sibling = [_fork(lambda: _recover(settings))] if task["fault"] == "freeze" else []
        codes |= _join([attempt(aim) for aim in batch] + sibling)
        if not task.get("aims") and _hits(folder) == before:
            break  # Steps differ by how the stream was cut into chunks: some of a batch may be past the end already.
    codes |= _join([attempt(aim) for aim in _LAST])
    codes |= _join([_fork(lambda: _recover(settings))])
    return int(not codes <= {0, CRASHED})


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
