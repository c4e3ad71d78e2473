"""Every seam on one page: what the flow wants from the world, in the flow's own words.

    authenticate -> route -> price+estimate -> JOURNAL -> HOLD -> forward -> meter -> JOURNAL -> COMMIT -> close
                                               (disk)   (Redis)                     (disk)    (SQL)    (Redis)

Only `app.py` knows who stands behind a seam.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from faregate.core.call import Call, Candidate, Committed, Estimate, Hold, Limit, Principal, Record, Snapshot
from faregate.core.price import Cost, PriceCard
from faregate.core.usage import Reading
from faregate.errors import FaregateError


class Clock(Protocol):
    """The one clock. Wall time is for records and windows, monotonic time for durations and deadlines."""

    def now_us(self) -> int:
        """UTC in microseconds."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start."""
        ...


class Keys(Protocol):
    """API keys."""

    async def authenticate(self, secret: str) -> Principal:
        """The principal of a presented key, from a bounded cache or the book. Raises InvalidApiKey."""
        ...

    async def refresh(self, principal: Principal) -> Principal:
        """Read the key from the book again (Redis named another rev) and tell Redis its rev. Raises InvalidApiKey."""
        ...


class Accounts(Protocol):
    """Which account a call is charged to."""

    async def resolve(self, principal: Principal, named: str | None) -> str:
        """The id of the account `named` (id or external id), or the key's own. Raises PermissionDenied, NotFound."""
        ...


class Catalog(Protocol):
    """Price cards, in layers, held in memory."""

    def card(
        self, *, provider: str, kind: str, model: str, organization_id: str | None, now_us: int
    ) -> PriceCard | None:
        """The card in force for a provider's model, or None when no layer has one."""
        ...


class Router(Protocol):
    """Public model names to places."""

    def candidates(self, model: str, *, endpoint: str, principal: Principal, now_us: int) -> tuple[Candidate, ...]:
        """In order of preference, each priced. Raises ModelNotFound, ModelNotPriced, PermissionDenied."""
        ...

    def with_models(self, candidate: Candidate, models: Iterable[str], principal: Principal, now_us: int) -> Candidate:
        """The candidate, with the cards of those other models that the provider says it used."""
        ...


# The journal --------------------------------------------------------------------------------------------


class Journal(Protocol):
    """This process's memory on disk. Each append has left the process when it returns (fsync apart)."""

    def open(self, hold_id: str, intent: Record) -> None:
        """Before the reserve: who will be charged, with `intent.charge_microcredits` = what its input costs."""
        ...

    def forward(self, hold_id: str, hold: Hold) -> None:
        """After the hold's ok, before the first byte upstream."""
        ...

    def progress(self, hold_id: str, microcredits: int) -> None:
        """With the heartbeat: what the input and the output delivered so far are worth."""
        ...

    def learned(self, record: Record) -> None:
        """Before the commit: the truth."""
        ...

    def carry(self, hold_id: str, intent: Record, hold: Hold | None, progress_microcredits: int) -> None:
        """A hold that is open for long moves into the newest file, so that the old one can go. `hold`: if forwarded."""
        ...

    def closed(self, hold_id: str) -> None:
        """After SQL and settle."""
        ...

    async def sync(self) -> None:
        """Everything appended so far is on the platter when this returns. Calls share one fsync."""
        ...


# Redis --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What `reserve` is asked for. `forced` takes `want` without a balance check (adjustments, ingested truths)."""

    hold_id: str
    kind: Literal["call", "api", "guard"]
    principal: Principal
    account_id: str
    want_microcredits: int
    floor_microcredits: int
    want_tokens: int
    floor_tokens: int
    progress_microcredits: int
    meta: bytes
    """The journal's intent, so that a sweeper can write the record when the owner and its disk are gone."""
    share_permille: int = 250
    ttl_ms: int | None = None
    """None: the hold deadline of calls; reservations bring their own."""
    forced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """One hold's heartbeat."""

    hold: Hold
    microcredits: int | None
    """None: leave it."""
    progress_microcredits: int
    ttl_ms: int | None = None
    """None: the hold deadline; reservations bring their own."""


BeatAnswer = Literal["ok", "no_hold", "swept", "lost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweptHold:
    """A hold whose owner is gone, as Redis remembers it."""

    hold: Hold
    progress_microcredits: int
    meta: bytes
    ttl_ms: int | None = None
    """For how long it is put back; None: the hold deadline."""


@dataclass(frozen=True, slots=True)
class DueHold:
    """A hold past its deadline, as a sweep has found it. `twice`: on two passes a heartbeat apart."""

    bucket: int
    account_id: str
    hold_id: str
    twice: bool


class Gate(Protocol):
    """Open holds, limits and the absolute copy of balances: Redis behind its scripts.

    Every method raises StoreUnavailable when no answer came in time; a lost reply may have been applied.
    """

    async def reserve(self, ask: Ask) -> Hold:
        """All or none. Raises InsufficientCredits, LimitExceeded, KeyChanged, StoreUnavailable."""
        ...

    async def beat(self, beats: Sequence[Beat], buckets: Iterable[int]) -> tuple[list[BeatAnswer], dict[int, str]]:
        """Extend holds (absolute amounts) and read the epoch of each bucket, in one pipeline."""
        ...

    async def epoch(self, bucket: int, *, for_hold: bool = False) -> str:
        """The bucket's epoch, now. `for_hold`: a new call waits for it, no longer than for its hold."""
        ...

    async def extend(self, beat: Beat) -> BeatAnswer: ...

    async def reassert(self, holds: Sequence[SweptHold]) -> list[BeatAnswer]:
        """Put back what Redis lost: adds without a check."""
        ...

    async def release(self, hold: Hold) -> BeatAnswer: ...

    async def settle(self, hold: Hold | None, snapshot: Snapshot, bucket: int) -> None:
        """Apply the book's absolutes if newer, drop the hold if it is there. Repeatable."""
        ...

    async def fold(self, hold: Hold, arrears: Hold, charge_microcredits: int, record: bytes) -> BeatAnswer:
        """Move a journaled charge into the process's arrears hold of the account."""
        ...

    async def unfold(self, hold: Hold, arrears: Hold, snapshot: Snapshot) -> None:
        """The book has it: `settle` for a folded charge. Repeatable."""
        ...

    async def folded(self, arrears: Hold) -> list[bytes]:
        """The records of an arrears hold."""
        ...

    async def due(self, bucket: int, sweeper: str, most: int) -> list[tuple[str, str]]:
        """(account, hold id) of holds past their deadline; empty when another sweeper has the bucket."""
        ...

    async def claim(self, bucket: int, account_id: str, hold_id: str) -> SweptHold | None:
        """Begin to close a hold whose owner is gone; None when it is not due any more."""
        ...


class KeyChanged(Exception):
    """`reserve` found another rev (or none) for the key: read it again."""


# SQL ----------------------------------------------------------------------------------------------------


class Book(Protocol):
    """The only truth about money. Every method raises BookUnavailable when SQL is out of reach."""

    async def commit(self, record: Record) -> Committed:
        """Write it if the book does not have it, charge what is new; many calls share one transaction."""
        ...

    async def snapshot(self, account_id: str, limits: Sequence[tuple[Limit, int]], *, gate: bool) -> Snapshot:
        """Read the account and its limit windows (limit, window start in s); `gate` marks that it will have holds.

        `Snapshot.gated` is what held *before* the mark. Grants that are due to start or end are booked first.
        With `gate` the snapshot also has the account's pending reservations.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A response that a provider keeps: whose it is, and where."""

    id: str
    organization_id: str
    account_id: str
    key_id: str | None
    hold_id: str
    provider: str
    model: str
    """The upstream name."""
    tokens: int
    """Input and output together: what comes back as input when a response goes on from it."""
    created_us: int
    running: Record | None
    """What is charged when it has ended; None: it has, and was."""


class KeptStore(Protocol):
    """The book's side of them. Every method raises BookUnavailable. What has ended is noted by `Book.commit`."""

    async def find(self, organization_id: str, response_id: str) -> Kept | None: ...

    async def begin(self, record: Record, lease_us: int) -> None:
        """A background response that runs, polled by us until `lease_us` (UTC) at least; `record` as far as known."""
        ...

    async def renew(self, lease_us: int) -> None:
        """All that we poll is still polled."""
        ...

    async def claim(self, lease_us: int, most: int) -> list[Kept]:
        """Responses that run and that nobody polls any more: now we do."""
        ...

    async def end(self, kept: Kept) -> None:
        """It has ended, and owes nothing."""
        ...

    async def drop(self, kept: Kept) -> None:
        """It was deleted."""
        ...

    async def purge(self, most: int) -> int:
        """Forget those whose provider has forgotten them; how many were."""
        ...


# Providers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds. `idle_s` bounds the silence between two real events, comments not counted."""

    connect_s: float = 5.0
    first_byte_s: float = 600.0
    idle_s: float = 120.0


class Answer(Protocol):
    """A provider's response: status and headers are here, the body is still coming."""

    status: int
    headers: Mapping[str, str]
    """Lower-case names."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises UpstreamError or UpstreamTimeout when it breaks off."""
        ...

    def touch(self) -> None:
        """A real event has passed: the idle timer starts again."""
        ...

    def abort(self) -> None:
        """Stop now, from anywhere: `chunks` raises UpstreamError."""
        ...

    async def close(self) -> None:
        """Give the connection back, or cut it when the body is not finished."""
        ...


class Provider(Protocol):
    """One configured provider: where, how to sign, what to rewrite, which dialect."""

    name: str
    kind: str
    on_disconnect: Literal["drain", "cancel"]
    retries: int

    def serves(self, endpoint: str, model: str) -> bool:
        """Whether a model of this provider can be called at an endpoint: in its own dialect or by translation."""
        ...

    async def send(self, call: Call, candidate: Candidate, output_cap: int | None) -> Answer:
        """Send the call. Raises UpstreamError or UpstreamTimeout when no response began."""
        ...

    def meter(self, call: Call, answer: Answer) -> Meter:
        """The reader of this answer: by endpoint, and by whether it really is a stream."""
        ...

    def reply_headers(self, answer: Answer) -> dict[str, str]:
        """The provider's headers that may reach the client."""
        ...

    def redact(self, body: bytes) -> bytes:
        """An error body without the provider's secrets."""
        ...


KeptVerb = Literal["get", "input_items", "cancel", "delete"]


@runtime_checkable
class Keeper(Protocol):
    """A provider that keeps responses, to be asked for again."""

    async def kept(self, verb: KeptVerb, response_id: str, model: str, query: str) -> Answer:
        """Ask for one; `query` as it goes into the URL. Raises UpstreamError or UpstreamTimeout."""
        ...


class Socket(Protocol):
    """One side of a session of text frames."""

    async def receive(self) -> str | None:
        """The next frame; None: the other side has closed."""
        ...

    async def send(self, text: str) -> None:
        """Raises ClientGone (a client's), UpstreamError (a provider's)."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Raises ClientGone (a client's)."""
        ...


@runtime_checkable
class Talker(Protocol):
    """A provider with realtime sessions."""

    async def talk(self, model: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Socket:
        """Open one. Raises UpstreamError, UpstreamTimeout."""
        ...


class Meter(Protocol):
    """Reads usage as the answer passes. Pure: fed with bytes, never holds a whole stream."""

    def feed(self, chunk: bytes) -> bytes:
        """Take what came; return what may go to the client now (the terminal event is kept back)."""
        ...

    def finish(self, cost: Cost | None, charge_microcredits: int) -> bytes:
        """The body has ended: what was kept back, to be sent after the close.

        A client that asked for its cost finds it in the usage chunk. Empty when a stream was cut before its end.
        """
        ...

    @property
    def events(self) -> int:
        """Real events seen so far (comments and keep-alives are none)."""
        ...

    def reading(self, status: int, headers: Mapping[str, str]) -> Reading:
        """What is known so far."""
        ...


class Translator(Protocol):
    """Says a provider's answer in the client's own dialect. One per answer, fed in order; quick, without I/O.

    It never decides what is charged: that is read from the provider's own bytes, beside it.
    """

    def event(self, name: str, data: bytes) -> bytes:
        """One event of a stream; what the client may have of it now. Raises UpstreamError for what makes no sense."""
        ...

    def end(self, reading: Reading, cost: Cost | None, charge_microcredits: int) -> bytes:
        """What the dialect ends a complete stream with: after the charge."""
        ...

    def body(self, data: bytes, reading: Reading) -> bytes:
        """A whole answer, or the body of an error. Raises UpstreamError for what makes no sense."""
        ...


# The client's side --------------------------------------------------------------------------------------


class ClientGone(Exception):
    """The client has hung up; nothing more can be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """A request on the data plane, read whole (bounded)."""

    endpoint: str
    secret: str
    headers: Mapping[str, str]
    body: bytes
    request_id: str
    path: str = ""
    query: bytes = b""
    """As it came, without the question mark."""


class Reply(Protocol):
    """The response on its way to the client."""

    started: bool

    def on_gone(self, act: Callable[[], object] | None) -> None:
        """Call `act` when the client hangs up (at once if it has); None: no more."""
        ...

    async def start(self, status: int, headers: Mapping[str, str]) -> None: ...

    async def send(self, chunk: bytes) -> None:
        """Raises ClientGone."""
        ...

    async def finish(self, chunk: bytes) -> None:
        """The last bytes. Nothing follows."""
        ...


class Dialect(Protocol):
    """A front door's language: how requests are read and errors are said."""

    def read(self, inbound: Inbound, principal: Principal, account_id: str, call_id: str) -> Call:
        """Raises InvalidRequest naming the field."""
        ...

    def error(self, error: FaregateError) -> tuple[dict[str, str], bytes]:
        """Headers and body of an error of ours."""
        ...

    def refusal(self, status: int, body: bytes) -> bytes:
        """A provider's 4xx in this dialect: as it came if it speaks it, else its text in our shape."""
        ...

    def error_event(self, error: Exception) -> bytes:
        """What a stream that has begun ends with when it fails."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayClaim:
    """A data-plane request with an Idempotency-Key. `key` and `fingerprint` are hex digests."""

    organization_id: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedAnswer:
    """A finished plain answer, status 200."""

    headers: Mapping[str, str]
    body: bytes


class ReplayStore(Protocol):
    """Answers kept for repeats. Every method raises BookUnavailable; moments are UTC microseconds."""

    async def begin(self, claim: ReplayClaim, lease_us: int) -> ReplayedAnswer | bool:
        """The kept answer; True: the request is ours to answer until `lease_us`; False: there is no room to keep it.

        Raises IdempotencyMismatch and InProgress.
        """
        ...

    async def renew(self, lease_us: int) -> None:
        """All that this process answers now is still being answered."""
        ...

    async def keep(self, claim: ReplayClaim, answer: ReplayedAnswer, expires_us: int) -> None: ...

    async def drop(self, claim: ReplayClaim) -> None:
        """There is nothing to keep: the key is free again."""
        ...

    async def purge(self, most: int = 500) -> int: ...


class Estimator(Protocol):
    """Upper bounds, pure."""

    def estimate(self, call: Call, candidates: Sequence[Candidate], principal: Principal) -> Estimate: ...

    def output_cap(
        self,
        call: Call,
        candidates: Sequence[Candidate],
        principal: Principal,
        estimate: Estimate,
        hold: Hold,
    ) -> int | None:
        """The bound to send upstream when the hold is less than the worst case; None: leave the call as it is."""
        ...


class Events(Protocol):
    """What operators count. Every label has a bounded set of values."""

    def call_ended(self, record: Record, duration_s: float) -> None: ...

    def call_refused(self, code: str) -> None: ...

    def overrun(self, microcredits: int) -> None:
        """An actual came out above its hold."""
        ...

    def trouble(self, what: str, detail: str) -> None:
        """Something an operator should look at (a parked record, a lost hold); `what` is one of a few words."""
        ...
