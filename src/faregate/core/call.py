"""A call from its request to its record: what was asked, whom it may go to, what it may cost, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal
from zlib import crc32

from faregate.core.limit_ids import kind_of_key
from faregate.core.price import PriceCard

LimitKind = Literal["credits", "requests", "tokens", "concurrency"]
Window = Literal["minute", "hour", "day", "week", "month", "total"]
HoldKind = Literal["call", "api", "arrears", "guard"]
"""`guard`: stands before records that are booked apart from it, and owes nothing itself."""
RecordKind = Literal["actual", "unconfirmed", "adjustment", "ingested"]
ReservationState = Literal["pending", "settled", "released", "expired"]


def bucket_of(organization_id: str) -> int:
    """The logical bucket (0-255) that carries an organization's keys in Redis: one hash slot, one script."""
    return crc32(organization_id.encode()) % 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A cap. `id` is stable; `max` counts microcredits, requests, tokens or open holds."""

    id: str
    kind: LimitKind
    window: Window
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who calls, as the key says. Valid while Redis names the same `rev` for the key."""

    key_id: str
    rev: int
    organization_id: str
    account_id: str | None
    """The account the key is bound to; None: it may act for any account of its organization."""
    default_account_id: str
    scopes: frozenset[str]
    models: tuple[str, ...] | None = None
    """Allowed model names, each exact or with one trailing "*"; None: all."""
    limits: tuple[Limit, ...] = ()
    max_multiplier: Decimal = Decimal(1)
    test: bool = False
    above_organizations: bool = False
    """Only the bootstrap admin key."""
    expires_at: float | None = None
    credits_per_usd: Decimal = Decimal(1000)
    markup_percent: Decimal = Decimal(0)

    @property
    def bucket(self) -> int:
        return bucket_of(self.organization_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What a multipart body is beside its text fields (those are the call's `body`)."""

    model_at: tuple[int, int]
    """Where in `raw_body` the model's name stands."""
    files: tuple[tuple[str, int], ...] = ()
    """Field and bytes of each file."""
    seconds: int | None = None
    """How long its recording lasts, in whole seconds; None: it has none."""
    most_seconds: int | None = None
    """The same where it is only guessed: what it can last at most."""
    guessed: bool = False
    """`seconds` is taken from the file's size, not from what the file says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request as asked. `body` is the parsed JSON; nothing in it is changed in place."""

    id: str
    """The hold id: UUIDv7, so time-ordered."""
    request_id: str
    endpoint: str
    """chat.completions | completions | responses | embeddings | messages | generatecontent | audio.speech | ..."""
    model: str
    body: Mapping[str, object]
    """The parsed JSON; of a form its text fields."""
    raw_body: bytes
    """The request as it came: what goes upstream when nothing in it must change."""
    stream: bool
    wants_usage: bool
    """The client itself asked for the usage chunk."""
    wants_cost: bool = False
    account_id: str
    multiplier: Decimal = Decimal(1)
    idempotency_key: str | None = None
    attribution: Mapping[str, str] = field(default_factory=dict)
    """agent, feature, user, tag.<name>, metadata.<name>: recorded, filterable, never sent upstream."""
    forward_headers: Mapping[str, str] = field(default_factory=dict)
    """Allow-listed client headers that go upstream."""
    query: Mapping[str, str] = field(default_factory=dict)
    """Allow-listed query parameters that go upstream."""
    prior_tokens: int = 0
    """What it goes on from: the tokens of an earlier response, which are input again though not in the body."""
    background: bool = False
    """The provider answers at once and works on: see `background.py`."""
    content_type: str = "application/json"
    """Of `raw_body`; a form's with its boundary."""
    form: Form | None = None
    """A multipart body's shape; None: the body is JSON."""

    @property
    def body_bytes(self) -> int:
        return len(self.raw_body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One place the call may go to, with its price card pinned."""

    provider: str
    kind: str
    model: str
    """The upstream model name."""
    card: PriceCard
    also: Mapping[str, PriceCard] = field(default_factory=dict)
    """Cards of other models that the provider says it used for the call (an advisor, a fallback of its own)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An upper bound of a call, before it is made. Microcredits are already charges (markup and multiplier in)."""

    input_tokens: int
    output_tokens: int
    """The bound asked for (or the model's own), times `choices`."""
    choices: int
    """n or best_of: the factor between the bound sent upstream and the tokens it allows."""
    floor_output_tokens: int
    want_microcredits: int
    floor_microcredits: int
    input_microcredits: int
    """The input alone: the first progress of a hold."""
    input_usd: Decimal = Decimal(0)
    """What the input alone costs the operator."""
    cappable: bool
    """The endpoint has an output bound that can be lowered."""

    @property
    def want_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def floor_tokens(self) -> int:
        return self.input_tokens + self.floor_output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Credits set aside. `microcredits` is what was granted, `tokens` what token limits leave (None: no such limit)."""

    id: str
    kind: HoldKind
    organization_id: str
    account_id: str
    bucket: int
    microcredits: int
    tokens: int | None
    limit_keys: tuple[str, ...]
    """The limit windows that admitted it: `<limit id>:<window start>`; the ones its charge counts in."""
    rests: tuple[int, ...] = ()
    """What each of those windows had left after it was admitted."""
    asked_at: float = 0.0
    """When the reserve that was granted was sent (monotonic, this process): its deadline is not before that."""
    duplicate: bool = False
    """It was there when it was asked for: a repeat's own, or somebody else's who asked for the same id."""

    @property
    def counted(self) -> tuple[str, ...]:
        """The windows its charge counts in: concurrency ends with the hold."""
        return tuple(key for key in self.limit_keys if kind_of_key(key) != "concurrency")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A priced, attributed line of what was used: what the journal learns and the book commits.

    One per hold. Everything needed to write it is in it, so that a replay needs no other source.
    """

    hold_id: str
    hold_kind: HoldKind
    kind: RecordKind
    organization_id: str
    account_id: str
    key_id: str | None
    request_id: str
    occurred_at_us: int
    """UTC microseconds: the moment the call was admitted."""
    charge_microcredits: int
    cost_usd: Decimal
    context: Literal["customer", "system"] = "customer"
    endpoint: str = ""
    public_model: str = ""
    provider: str = ""
    provider_kind: str = ""
    model: str = ""
    usage: Mapping[str, object] = field(default_factory=dict)
    """Usage without its Nones: counts as int, seconds as decimal strings."""
    tier: str = "default"
    card: PriceCard | None = None
    lines: tuple[tuple[str, str, str, str], ...] = ()
    """item, quantity, rate, amount as decimal strings."""
    multiplier: Decimal = Decimal(1)
    markup_percent: Decimal = Decimal(0)
    credits_per_usd: Decimal = Decimal(1000)
    estimated: bool = False
    outcome: str = "ok"
    """ok | client_gone | upstream_error | truncated | no_usage | unconfirmed | released"""
    status: int = 200
    stream: bool = False
    duration_ms: int = 0
    attribution: Mapping[str, str] = field(default_factory=dict)
    description: str | None = None
    raw_usage: str | None = None
    limit_keys: tuple[str, ...] = ()
    upstream_id: str | None = None
    """The provider's id of an answer that it keeps: the book notes whose it is."""
    paid_by: str | None = None
    """An earlier entry that has paid for it: shown with it, nothing is charged."""
    encoded: bytes | None = field(default=None, init=False, repr=False, compare=False)
    """Its bytes, once somebody has asked for them (core.codec): the journal, Redis and the book's clerk share them."""

    @property
    def tokens(self) -> int:
        """What counts against token limits."""
        return _count(self.usage.get("input_tokens")) + _count(self.usage.get("output_tokens"))


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Credits an app has set aside over the API, as the book has them. Its hold in Redis has the same id.

    pending -> settled | released | expired. Only the book moves it, and nothing leaves one of the last three.
    """

    id: str
    organization_id: str
    account_id: str
    caller_id: str | None = None
    """The caller's own id for it, unique in its organization."""
    microcredits: int
    actual: int | None = None
    """What was charged at last; it may be more than was reserved."""
    state: ReservationState = "pending"
    operation: str | None = None
    model: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    entry_id: str | None = None
    limit_keys: tuple[str, ...] = ()
    """The limit windows that admitted it."""
    expires_us: int
    created_us: int
    updated_us: int

    def state_at(self, now_us: int) -> ReservationState:
        """Past its deadline it is expired, whether or not somebody has written that down already."""
        return "expired" if self.state == "pending" and self.expires_us <= now_us else self.state


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitState:
    """What the book says of one limit window."""

    key: str
    used: int
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the book says of an account: absolute, ordered by `seq`, so any copy of it can be applied any time."""

    account_id: str
    posted: int
    """Microcredits; negative after an overrun."""
    seq: int
    overdraft: int = 0
    fresh_until_ms: int = 0
    """0: for ever; else the moment a grant starts or ends, from which on Redis asks again."""
    gated: bool = False
    """The account has had holds before (so a fresh gate must wait for their owners)."""
    limits: tuple[LimitState, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    """The pending ones, for a gate that has lost them; only read for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The book's answer to a record."""

    snapshot: Snapshot
    usage_id: str
    new: bool
    """False: it was booked before; nothing was charged now."""
    charge_microcredits: int
    """What the book holds for this call (an earlier record's charge, when this one was a duplicate)."""
