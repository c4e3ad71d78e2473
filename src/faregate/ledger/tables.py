"""The book's tables. Times are UTC microseconds (`_us`), credits are microcredits, USD is exact.

`accounts` is the lock: one update per account and batch. `entries` only grow (triggers in the migration).
`usage_records` are slim: what a price card says is stored once, in `cards`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    UniqueConstraint,
    text,
)

from faregate.ledger.dialect import TEXT, Exact

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id() -> Column[str]:
    return Column("id", TEXT, primary_key=True)


def _text(name: str, *more: Any, null: bool = False) -> Column[str]:
    return Column(name, TEXT, *more, nullable=null)


def _big(name: str, *, null: bool = False, default: str | None = None) -> Column[int]:
    return Column(name, BigInteger, nullable=null, server_default=default)


def _exact(name: str) -> Column[Any]:
    return Column(name, Exact, nullable=False)


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False)


organizations = Table(
    "organizations",
    metadata,
    _id(),
    _text("uuid"),
    _text("external_id", null=True),
    _text("name"),
    _exact("credits_per_usd"),
    _exact("markup_percent"),
    _flag("ingest_charges"),
    _text("stripe_customer_id", null=True),
    _text("default_account_id"),
    _big("created_us"),
    _big("updated_us"),
    UniqueConstraint("uuid"),
    UniqueConstraint("external_id"),
)

accounts = Table(
    "accounts",
    metadata,
    _id(),
    _text("organization_id", ForeignKey("organizations.id")),
    _text("external_id", null=True),
    Column("bucket", Integer, nullable=False),
    _text("name"),
    _text("email", null=True),
    _text("meta", null=True),
    _big("posted", default="0"),
    _big("seq", default="0"),
    _big("overdraft", default="0"),
    _big("gated_us", null=True),  # the first hold: from then on a fresh gate waits for owners
    _big("grants_until_us", null=True),  # the next start or end of a grant; null: no grant that matters
    _big("created_us"),
    _big("updated_us"),
    UniqueConstraint("organization_id", "external_id"),
    CheckConstraint("overdraft >= 0", name="overdraft"),
    Index(
        "ix_accounts_grants_until_us",
        "grants_until_us",
        "id",
        sqlite_where=text("grants_until_us IS NOT NULL"),
        postgresql_where=text("grants_until_us IS NOT NULL"),
    ),
)

entries = Table(
    "entries",
    metadata,
    _id(),
    _text("organization_id"),
    _text("account_id", ForeignKey("accounts.id")),
    _big("seq"),
    _text("type"),
    _big("amount"),  # signed: the sum over an account is its balance
    _big("balance_after"),
    _text(
        "reason"
    ),  # usage | unconfirmed | adjustment | debit | credit | grant | expiry | overdraft | plan | audit repair
    _text("description", null=True),
    _text("meta", null=True),
    _text("payment_method", null=True),
    _text("usage_id", null=True),
    _text("hold_id", null=True),  # of debits without a usage record
    _text("limit_keys", null=True),  # likewise
    _big("created_us"),
    UniqueConstraint("account_id", "seq"),
    CheckConstraint("(type = 'credit' AND amount >= 0) OR (type = 'debit' AND amount <= 0)", name="sign"),
    Index("ix_entries_organization_id_id", "organization_id", "id"),
    Index(
        "uq_entries_hold_id",
        "hold_id",
        unique=True,
        sqlite_where=text("hold_id IS NOT NULL"),
        postgresql_where=text("hold_id IS NOT NULL"),
    ),
)

cards = Table("cards", metadata, _id(), _text("body"))

usage_records = Table(
    "usage_records",
    metadata,
    _id(),
    _text("hold_id"),
    _flag("is_adjustment"),
    _text("kind"),
    _text("organization_id"),
    _text("account_id"),
    _text("key_id", null=True),
    _text("request_id"),
    _text("entry_id", null=True),  # null: nothing was charged
    _big("occurred_us"),
    _big("created_us"),
    _big("charge"),
    _exact("cost"),
    _text("context"),
    _text("endpoint"),
    _text("public_model"),
    _text("provider"),
    _text("provider_kind"),
    _text("model"),
    _big("input_tokens", null=True),
    _big("cached_input_tokens", null=True),
    _big("cache_write_tokens", null=True),
    _big("output_tokens", null=True),
    _big("reasoning_tokens", null=True),
    _text("usage", null=True),  # JSON of the other counts
    _text("tier"),
    _text("card_id", null=True),
    _text("lines", null=True),  # JSON [[item, quantity, rate(, amount unless it is their product)]]
    _exact("multiplier"),
    _exact("markup_percent"),
    _exact("credits_per_usd"),
    _flag("estimated"),
    _text("outcome"),
    Column("status", Integer, nullable=False),
    _flag("stream"),
    _big("duration_ms"),
    _text("agent", null=True),
    _text("feature", null=True),
    _text("tags", null=True),  # JSON of the rest of the attribution: user, tag.*, metadata.*
    _text("description", null=True),
    _text("raw_usage", null=True),
    _text("limit_keys", null=True),  # space-separated windows the charge counted in
    # On PostgreSQL partitioned by hold_id, a month each (partitions.py); its primary key there is (id, hold_id).
    UniqueConstraint("hold_id", "is_adjustment"),
    Index("ix_usage_records_organization", "organization_id", "occurred_us", "id"),
    Index("ix_usage_records_account", "organization_id", "account_id", "occurred_us", "id"),
    Index(
        "ix_usage_records_key",
        "organization_id",
        "key_id",
        "occurred_us",
        "id",
        sqlite_where=text("key_id IS NOT NULL"),
        postgresql_where=text("key_id IS NOT NULL"),
    ),
    Index(
        "ix_usage_records_route",
        "organization_id",
        "context",
        "provider",
        "public_model",
        "model",
        "occurred_us",
        "id",
    ),
    Index("ix_usage_records_request_id", "request_id"),
    Index(  # what a deduction has paid for
        "ix_usage_records_paid_by",
        "entry_id",
        sqlite_where=text("kind = 'ingested'"),
        postgresql_where=text("kind = 'ingested'"),
    ),
    postgresql_partition_by="RANGE (hold_id)",
)

limit_windows = Table(
    "limit_windows",
    metadata,
    Column("limit_id", TEXT, primary_key=True),
    Column("start_s", BigInteger, primary_key=True, autoincrement=False),
    _big("used"),
    _big("seq"),
    sqlite_with_rowid=False,
)

_ROUTE = ("context", "provider", "public_model", "model")
HOUR_KEYS = ("organization_id", "hour", *_ROUTE)
"""Hours since 1970."""
DAY_KEYS = ("organization_id", "day", *_ROUTE)
"""Days since 1970."""
DETAIL_KEYS = ("organization_id", "day", "account_id", "key_id", *_ROUTE, "agent", "feature")
"""The same; "" stands for none."""


def _rollups(name: str, keys: tuple[str, ...]) -> Table:
    return Table(
        name,
        metadata,
        *(
            Column(key, BigInteger if key in ("hour", "day") else TEXT, primary_key=True, autoincrement=False)
            for key in keys
        ),
        _exact("cost"),
        _big("charge"),
        _big("input_tokens"),
        _big("cached_input_tokens"),
        _big("output_tokens"),
        _big("reasoning_tokens"),
        _big("count"),  # adjustments correct a call, they are none
        sqlite_with_rowid=False,
    )


hour_rollups = _rollups("hour_rollups", HOUR_KEYS)
day_rollups = _rollups("day_rollups", DAY_KEYS)
detail_rollups = _rollups("detail_rollups", DETAIL_KEYS)

usage_routes = Table(  # which ways were ever taken: prefixes of ix_usage_records_route
    "usage_routes",
    metadata,
    *(Column(key, TEXT, primary_key=True) for key in ("organization_id", *_ROUTE)),
    sqlite_with_rowid=False,
)

usage_labels = Table(  # the attribution of usage_records, as an index: a name or value is cut to MOST_LABEL
    "usage_labels",
    metadata,
    Column("organization_id", TEXT, primary_key=True),
    Column("name", TEXT, primary_key=True),
    Column("value", TEXT, primary_key=True),
    Column("occurred_us", BigInteger, primary_key=True, autoincrement=False),
    Column("id", TEXT, primary_key=True),
    sqlite_with_rowid=False,
)
MOST_LABEL = 200
"""Characters: PostgreSQL's index entries are at most 2,700 bytes."""

grants = Table(
    "grants",
    metadata,
    _id(),
    _text("account_id", ForeignKey("accounts.id")),
    _big("amount"),
    _big("remaining"),
    Column("priority", Integer, nullable=False),
    _big("effective_us"),
    _big("expires_us", null=True),
    _flag("started"),
    _text("description", null=True),
    _big("created_us"),
    _text("plan_id", ForeignKey("plans.id"), null=True),
    _text("assignment_id", null=True),
    Column("period", Integer),
    CheckConstraint("remaining >= 0 AND remaining <= amount", name="remaining"),
    Index(
        "ix_grants_live",
        "account_id",
        sqlite_where=text("remaining > 0"),
        postgresql_where=text("remaining > 0"),
    ),
    Index(
        "uq_grants_period",
        "account_id",
        "plan_id",
        "effective_us",
        unique=True,
        sqlite_where=text("plan_id IS NOT NULL"),
        postgresql_where=text("plan_id IS NOT NULL"),
    ),
)

plans = Table(
    "plans",
    metadata,
    _id(),
    _text("organization_id", ForeignKey("organizations.id")),
    _text("name"),
    _big("amount"),
    _text("interval"),
    Column("occurrences", Integer),
    _flag("accumulate"),
    _flag("active"),
    _big("created_us"),
    _big("updated_us"),
    CheckConstraint("interval IN ('1d', 'week', 'month')", name="interval"),
    CheckConstraint("amount > 0", name="amount"),
    Index("ix_plans_organization_id_id", "organization_id", "id"),
)

plan_assignments = Table(
    "plan_assignments",
    metadata,
    _id(),
    _text("organization_id"),
    _text("account_id", ForeignKey("accounts.id")),
    _text("plan_id", ForeignKey("plans.id")),
    _flag("active"),
    _big("started_us"),  # the anchor that periods are counted from
    _big("ended_us", null=True),
    _big("created_us"),
    Index("ix_plan_assignments_account_id_id", "account_id", "id"),
    Index(
        "uq_plan_assignments_active",
        "account_id",
        unique=True,
        sqlite_where=text("active"),
        postgresql_where=text("active"),
    ),
)

leases = Table(
    "leases",
    metadata,
    Column("name", TEXT, primary_key=True),
    _text("holder"),
    _big("until_us"),
)

grant_moves = Table(
    "grant_moves",
    metadata,
    Column("entry_id", TEXT, primary_key=True),
    Column("grant_id", TEXT, ForeignKey("grants.id"), primary_key=True),
    _big("amount"),  # signed: the sum over a started grant is what remains
    Index("ix_grant_moves_grant_id", "grant_id"),
)

keys = Table(
    "keys",
    metadata,
    _id(),
    _text("organization_id", ForeignKey("organizations.id")),
    _text("account_id", ForeignKey("accounts.id"), null=True),
    _text("name"),
    _text("prefix"),
    _text("secret_hash"),
    _text("scopes"),
    _text("models", null=True),
    _text("limits"),
    Column("rev", Integer, nullable=False),
    _exact("max_multiplier"),
    _flag("test"),
    _flag("above_organizations"),
    _big("expires_us", null=True),
    _big("revoked_us", null=True),
    _big("last_used_us", null=True),
    _big("created_us"),
    _big("updated_us"),
    Index("ix_keys_organization_id_id", "organization_id", "id"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant", TEXT, primary_key=True),
    Column("key", TEXT, primary_key=True),
    _text("route"),
    _text("fingerprint"),  # hex digest of the request
    _text("state"),  # running | done
    _text("results"),  # JSON of what its transactions returned, while it runs
    Column("status", Integer),
    _text("body", null=True),  # the answer without secrets
    _big("created_us"),
    _big("expires_us"),
    CheckConstraint("state IN ('running', 'done')", name="state"),
    Index("ix_idempotency_expires_us", "expires_us"),
)

reservations = Table(
    "reservations",
    metadata,
    _id(),
    _text("organization_id"),
    _text("account_id", ForeignKey("accounts.id")),
    _text("hold_id"),
    _text("caller_id", null=True),
    _big("amount"),
    _big("actual", null=True),
    _text("state"),
    _text("operation", null=True),
    _text("model", null=True),
    _text("meta", null=True),
    _text("entry_id", null=True),
    _text("limit_keys", null=True),  # space-separated windows that admitted it
    _big("expires_us"),
    _big("created_us"),
    _big("updated_us"),
    UniqueConstraint("organization_id", "caller_id"),
    UniqueConstraint("hold_id"),
    CheckConstraint("state IN ('pending', 'settled', 'released', 'expired')", name="state"),
    Index("ix_reservations_account_id_state", "account_id", "state"),
    Index("ix_reservations_organization_id_id", "organization_id", "id"),
    Index(
        "ix_reservations_expires_us",
        "expires_us",
        sqlite_where=text("state = 'pending'"),
        postgresql_where=text("state = 'pending'"),
    ),
)

responses = Table(
    "responses",
    metadata,
    Column("organization_id", TEXT, primary_key=True),
    Column("id", TEXT, primary_key=True),  # the provider's
    _text("account_id"),
    _text("key_id", null=True),
    _text("hold_id"),
    _text("provider"),
    _text("model"),
    _text("state"),
    _big("tokens"),  # what comes back as input when a response goes on from it
    _text("meta", null=True),  # the record of one that runs, as far as it is known
    _text("poller", null=True),
    _big("due_us"),  # running: until then its poller answers for it; ended: then it is forgotten
    _big("created_us"),
    CheckConstraint("state IN ('running', 'ended')", name="state"),
    Index("ix_responses_state_due_us", "state", "due_us"),
)

replays = Table(
    "replays",
    metadata,
    Column("organization_id", TEXT, primary_key=True),
    Column("key", TEXT, primary_key=True),  # hex digest of the Idempotency-Key
    _text("fingerprint"),  # hex digest of the request
    _text("holder", null=True),  # the process that answers it now; null: it has ended
    _text("head", null=True),  # JSON of its headers
    Column("body", LargeBinary, nullable=True),
    _big("size"),
    _big("expires_us"),
    Index("ix_replays_expires_us", "expires_us"),
    Index("ix_replays_organization_id_size", "organization_id", "size"),
)
"""Answers kept for repeats of an Idempotency-Key on the data plane."""

prices = Table(
    "prices",
    metadata,
    _id(),
    _text("organization_id", null=True),
    _text("provider"),
    _text("model"),
    _text("tier"),
    _big("effective_us"),  # 0: always was
    _text("body"),
    _text("source", null=True),  # the release or file an update came from; null: made over the API
    _big("created_us"),
    _big("deleted_us", null=True),
    Index("ix_prices_organization_id", "organization_id", "id"),
)

external_ids = Table(
    "external_ids",
    metadata,
    Column("organization_id", TEXT, primary_key=True),
    Column("source", TEXT, primary_key=True),
    Column("external_id", TEXT, primary_key=True),
    _text("hold_id"),  # of the usage record it leads to
    _big("created_us"),
)

metered = Table(
    "metered",
    metadata,
    Column("organization_id", TEXT, primary_key=True),
    Column("source_id", TEXT, primary_key=True),
    _text("customer"),
    _exact("amount"),  # USD; negative: a correction
    _big("occurred_us"),
    _big("window_us", null=True),  # the end of the window it was summed into; null: of none yet
    _big("created_us"),
    Index(
        "ix_metered_open",
        "organization_id",
        "customer",
        "occurred_us",
        sqlite_where=text("window_us IS NULL"),
        postgresql_where=text("window_us IS NULL"),
    ),
)

meter_sums = Table(
    "meter_sums",
    metadata,
    Column("organization_id", TEXT, primary_key=True),
    Column("customer", TEXT, primary_key=True),
    _exact("carry"),  # USD that are summed and in no event yet
    _big("window_us"),  # the end of the newest window that is closed
)

outbox = Table(
    "outbox",
    metadata,
    _id(),  # the identifier the other side knows it by
    _text("organization_id"),
    _text("customer"),
    _text("meter"),
    _big("window_us"),
    _big("timestamp_s"),
    _big("value"),  # micro-USD
    _text("state"),
    Column("attempts", Integer, nullable=False),
    _big("due_us"),
    _big("lease_us", null=True),
    _big("tried_us", null=True),  # the first try that may have been applied; null: there was none
    _text("code", null=True),  # how the last try ended
    _big("created_us"),
    _big("updated_us"),
    CheckConstraint("state IN ('queued', 'sending', 'sent', 'dead')", name="state"),
    CheckConstraint("value > 0", name="value"),
    Index("ix_outbox_state_due_us", "state", "due_us"),
    Index("ix_outbox_customer_meter_timestamp_s", "customer", "meter", "timestamp_s"),
    Index(
        "uq_outbox_sending",
        "customer",
        "meter",
        unique=True,
        sqlite_where=text("state = 'sending'"),
        postgresql_where=text("state = 'sending'"),
    ),
)
"""Meter events on their way to Stripe; one at a time for each customer and meter."""

admin_audit = Table(
    "admin_audit",
    metadata,
    _id(),
    _big("created_us"),
    _text("organization_id", null=True),
    _text("who"),
    _text("what"),
    _text("target"),
    _text("detail", null=True),
)

users = Table(
    "users",
    metadata,
    _id(),
    _text("uuid"),
    _text("home"),  # the organization they belong to, "" for the installation: emails are unique within it
    _text("email"),  # lower case
    _text("name", null=True),
    _text("subject", null=True),  # what the identity provider calls them
    _flag("active"),
    _big("created_us"),
    _big("updated_us"),
    UniqueConstraint("uuid"),
    UniqueConstraint("home", "email"),
    UniqueConstraint("subject"),
)

memberships = Table(
    "memberships",
    metadata,
    _id(),
    _text("user_id", ForeignKey("users.id")),
    _text("organization_id", ForeignKey("organizations.id")),
    _text("role"),
    _flag("active"),
    _big("created_us"),
    _big("updated_us"),
    UniqueConstraint("user_id", "organization_id"),
    CheckConstraint("role IN ('superadmin', 'admin', 'member', 'service')", name="role"),
    Index("ix_memberships_organization_id_id", "organization_id", "id"),
)

app_passwords = Table(
    "app_passwords",
    metadata,
    _id(),
    _text("user_id", ForeignKey("users.id")),
    _text("name"),
    _text("secret_hash"),
    _big("expires_us", null=True),
    _big("revoked_us", null=True),
    _big("last_used_us", null=True),
    _big("created_us"),
    Index("ix_app_passwords_user_id_id", "user_id", "id"),
)

signing_keys = Table("signing_keys", metadata, _id(), _text("secret"), _big("created_us"))

services = Table(
    "services",
    metadata,
    _id(),
    _text("home"),  # the organization it belongs to, "" for the installation: names are unique within it
    _text("name"),
    _big("created_us"),
    _big("updated_us"),
    UniqueConstraint("home", "name"),
)

service_usage = Table(
    "service_usage",
    metadata,
    Column("hold_id", TEXT, primary_key=True),  # of the usage record it belongs to
    _text("service_id"),
    _text("service_name"),  # as it was then
    _text("user_id"),  # whose use it was
    _text("reported_by"),
    _text("organization_id"),
    _text("channel"),
    _text("model"),
    _big("input_tokens"),
    _big("output_tokens"),
    _exact("billed"),
    _flag("metered"),
    _big("occurred_us"),
    Index("ix_service_usage_user_id_occurred_us", "user_id", "occurred_us", "hold_id"),
)
