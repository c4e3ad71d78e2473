"""The clerk: one process per data directory that writes the workers' records into an SQLite book.

SQLite has one writer at a time, and its statements take and give back Python's lock at every step: in a thread beside a
busy event loop each of them waits for its turn. Here nobody else wants the interpreter, and the records of all workers
share one transaction. What came while the last one ran is the next one.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import time
from collections import defaultdict
from dataclasses import dataclass, field

import orjson

from faregate.core.call import Committed, Record
from faregate.core.codec import decode_record
from faregate.core.metering import Metered
from faregate.errors import BookRefused
from faregate.ledger.batcher import MAX_BATCH
from faregate.ledger.clerk_wire import HEAD, Frames, answer_of
from faregate.ledger.committer import Committer
from faregate.ledger.engine import wall_us, writer_engine
from faregate.ledger.metering import metering

log = logging.getLogger(__name__)

_READ_BYTES = 1 << 20
_LOOK_S = 0.5
_MOST_UNSENT_BYTES = 8 << 20
"""Answers a worker does not take: over it the worker is hung up on, and asks again."""


@dataclass(slots=True, eq=False)
class _Worker:
    socket: socket.socket
    frames: Frames = field(default_factory=Frames)
    unsent: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True, slots=True)
class _Asked:
    worker: _Worker
    number: int
    record: Record


class Clerk:
    """Serves until `watch` (a pipe's reading end) closes and the workers have hung up.

    A worker whose parent was killed still finishes its calls: it is waited for, up to `patience_s`.
    """

    def __init__(
        self,
        database_url: str,
        listener: socket.socket,
        watch: int,
        patience_s: float,
        *,
        metered: Metered = "off",
    ) -> None:
        self._committer = Committer(metering(writer_engine(database_url), metered), wall_us)
        self._selector = selectors.DefaultSelector()
        self._listener = listener
        self._watch = watch
        self._patience_s = patience_s
        self._workers = 0
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(watch, selectors.EVENT_READ)

    def run(self) -> None:
        """Read what there is, book it, answer; again."""
        end: float | None = None
        while end is None or (self._workers and time.monotonic() < end):
            asked: list[_Asked] = []
            for key, events in self._selector.select(None if end is None else _LOOK_S):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fd == self._watch:
                    end = time.monotonic() + self._patience_s
                    self._selector.unregister(self._watch)
                else:
                    self._serve(key.data, events, asked)
            for start in range(0, len(asked), MAX_BATCH):
                self._book(asked[start : start + MAX_BATCH])

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it has left already
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ, _Worker(connection))
            self._workers += 1

    def _serve(self, worker: _Worker, events: int, asked: list[_Asked]) -> None:
        if events & selectors.EVENT_WRITE:
            self._send(worker)
        if events & selectors.EVENT_READ:
            self._read(worker, asked)

    def _read(self, worker: _Worker, asked: list[_Asked]) -> None:
        refused = []
        try:
            data = worker.socket.recv(_READ_BYTES)
            for number, payload in worker.frames.feed(data):
                try:
                    asked.append(_Asked(worker, number, decode_record(payload)))
                except ValueError as error:
                    refused.append((number, answer_of(BookRefused(str(error)))))
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            log.warning("a worker's line is dropped: %s", type(error).__name__)
            data = b""
        if refused:
            self._answer(worker, refused)
        if not data:
            self._drop(worker)

    def _book(self, asked: list[_Asked]) -> None:
        outcomes = self._committer.commit([one.record for one in asked])
        answers: defaultdict[_Worker, list[tuple[int, dict[str, object]]]] = defaultdict(list)
        for one, outcome in zip(asked, outcomes, strict=True):
            if not isinstance(outcome, Committed):
                log.warning("hold %s is not booked: %s", one.record.hold_id, type(outcome).__name__)
            answers[one.worker].append((one.number, answer_of(outcome)))
        for worker, said in answers.items():
            self._answer(worker, said)

    def _answer(self, worker: _Worker, said: list[tuple[int, dict[str, object]]]) -> None:
        payload = orjson.dumps(said)
        worker.unsent += HEAD.pack(len(payload), 0) + payload
        self._send(worker)

    def _send(self, worker: _Worker) -> None:
        """What the socket takes; the rest when it takes more, and until then nothing more is read from there."""
        if worker.socket.fileno() < 0:
            return
        try:
            sent = worker.socket.send(worker.unsent) if worker.unsent else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(worker)
            return
        del worker.unsent[:sent]
        if len(worker.unsent) > _MOST_UNSENT_BYTES:
            self._drop(worker)
            return
        events = selectors.EVENT_WRITE if worker.unsent else selectors.EVENT_READ
        self._selector.modify(worker.socket, events, worker)

    def _drop(self, worker: _Worker) -> None:
        if worker.socket.fileno() >= 0:
            self._selector.unregister(worker.socket)
            worker.socket.close()
            self._workers -= 1
