"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

EXACT = sa.Text().with_variant(sa.Numeric(), "postgresql")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

ROUTE = ("context", "provider", "public_model", "model")

SQLITE_TRIGGER = """
CREATE TRIGGER {name} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END
"""
POSTGRESQL_FUNCTION = """
CREATE OR REPLACE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation'; END $$
"""
POSTGRESQL_TRIGGER = """
CREATE TRIGGER {name} BEFORE {verb} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION append_only()
"""


KINDS = ("api", "call")


def upgrade() -> None:
    _create_tables()
    _create_identity()
    if op.get_bind().dialect.name == "postgresql":
        _create_partitions()
    _make_append_only("entries")
    _make_append_only("grant_moves")


def _make_append_only(table: str) -> None:
    postgresql = op.get_bind().dialect.name == "postgresql"
    if postgresql:
        op.execute(POSTGRESQL_FUNCTION)
    trigger = POSTGRESQL_TRIGGER if postgresql else SQLITE_TRIGGER
    for verb in ("UPDATE", "DELETE"):
        op.execute(trigger.format(name=f"{table}_no_{verb.lower()}", verb=verb, table=table))


def _create_partitions() -> None:
    """A branch for each kind of hold id that comes in numbers, and defaults; months are made by partitions.py."""
    op.execute("CREATE TABLE usage_records_other PARTITION OF usage_records DEFAULT")
    for kind in KINDS:
        bounds = f"FROM ('{kind}_') TO ('{kind}`')"  # "`" follows "_"
        branch = f"usage_records_{kind}"
        op.execute(f"CREATE TABLE {branch} PARTITION OF usage_records FOR VALUES {bounds} PARTITION BY RANGE (hold_id)")
        op.execute(f"CREATE TABLE {branch}_other PARTITION OF {branch} DEFAULT")


def _usage_key() -> sa.PrimaryKeyConstraint:
    """PostgreSQL wants the partition key in it."""
    columns = ("id", "hold_id") if op.get_bind().dialect.name == "postgresql" else ("id",)
    return sa.PrimaryKeyConstraint(*columns, name=op.f("pk_usage_records"))


def _create_rollups(name: str, unit: str, others: tuple[str, ...]) -> None:
    sums = ("charge", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "count")
    op.create_table(
        name,
        sa.Column("organization_id", TEXT, nullable=False),
        sa.Column(unit, sa.BigInteger(), autoincrement=False, nullable=False),
        *(sa.Column(other, TEXT, nullable=False) for other in others),
        sa.Column("cost", EXACT, nullable=False),
        *(sa.Column(column, sa.BigInteger(), nullable=False) for column in sums),
        sa.PrimaryKeyConstraint("organization_id", unit, *others, name=op.f(f"pk_{name}")),
        sqlite_with_rowid=False,
    )


def _create_tables() -> None:
    op.create_table(
        "admin_audit",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("organization_id", TEXT, nullable=True),
        sa.Column("who", TEXT, nullable=False),
        sa.Column("what", TEXT, nullable=False),
        sa.Column("target", TEXT, nullable=False),
        sa.Column("detail", TEXT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_admin_audit")),
    )
    op.create_table(
        "cards",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("body", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cards")),
    )
    op.create_table(
        "external_ids",
        sa.Column("organization_id", TEXT, nullable=False),
        sa.Column("source", TEXT, nullable=False),
        sa.Column("external_id", TEXT, nullable=False),
        sa.Column("hold_id", TEXT, nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "source", "external_id", name=op.f("pk_external_ids")),
    )
    op.create_table(
        "idempotency",
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("route", TEXT, nullable=False),
        sa.Column("fingerprint", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("results", TEXT, nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("body", TEXT, nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('running', 'done')", name=op.f("ck_idempotency_state")),
        sa.PrimaryKeyConstraint("tenant", "key", name=op.f("pk_idempotency")),
    )
    op.create_index("ix_idempotency_expires_us", "idempotency", ["expires_us"], unique=False)
    op.create_table(
        "limit_windows",
        sa.Column("limit_id", TEXT, nullable=False),
        sa.Column("start_s", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("limit_id", "start_s", name=op.f("pk_limit_windows")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "organizations",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("uuid", TEXT, nullable=False),
        sa.Column("external_id", TEXT, nullable=True),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("credits_per_usd", EXACT, nullable=False),
        sa.Column("markup_percent", EXACT, nullable=False),
        sa.Column("ingest_charges", sa.Boolean(), nullable=False),
        sa.Column("stripe_customer_id", TEXT, nullable=True),
        sa.Column("default_account_id", TEXT, nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_organizations")),
        sa.UniqueConstraint("external_id", name=op.f("uq_organizations_external_id")),
        sa.UniqueConstraint("uuid", name=op.f("uq_organizations_uuid")),
    )
    op.create_table(
        "metered",
        sa.Column("organization_id", TEXT, nullable=False),
        sa.Column("source_id", TEXT, nullable=False),
        sa.Column("customer", TEXT, nullable=False),
        sa.Column("amount", EXACT, nullable=False),
        sa.Column("occurred_us", sa.BigInteger(), nullable=False),
        sa.Column("window_us", sa.BigInteger(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "source_id", name=op.f("pk_metered")),
    )
    op.create_index(
        "ix_metered_open",
        "metered",
        ["organization_id", "customer", "occurred_us"],
        unique=False,
        sqlite_where=sa.text("window_us IS NULL"),
        postgresql_where=sa.text("window_us IS NULL"),
    )
    op.create_table(
        "meter_sums",
        sa.Column("organization_id", TEXT, nullable=False),
        sa.Column("customer", TEXT, nullable=False),
        sa.Column("carry", EXACT, nullable=False),
        sa.Column("window_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "customer", name=op.f("pk_meter_sums")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("organization_id", TEXT, nullable=False),
        sa.Column("customer", TEXT, nullable=False),
        sa.Column("meter", TEXT, nullable=False),
        sa.Column("window_us", sa.BigInteger(), nullable=False),
        sa.Column("timestamp_s", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_us", sa.BigInteger(), nullable=False),
        sa.Column("lease_us", sa.BigInteger(), nullable=True),
        sa.Column("tried_us", sa.BigInteger(), nullable=True),
        sa.Column("code", TEXT, nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('queued', 'sending', 'sent', 'dead')", name=op.f("ck_outbox_state")),
        sa.CheckConstraint("value > 0", name=op.f("ck_outbox_value")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    op.create_index("ix_outbox_state_due_us", "outbox", ["state", "due_us"], unique=False)
    op.create_index(
        "ix_outbox_customer_meter_timestamp_s", "outbox", ["customer", "meter", "timestamp_s"], unique=False
    )
    op.create_index(
        "uq_outbox_sending",
        "outbox",
        ["customer", "meter"],
        unique=True,
        sqlite_where=sa.text("state = 'sending'"),
        postgresql_where=sa.text("state = 'sending'"),
    )
    op.create_table(
        "prices",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("organization_id", TEXT, nullable=True),
        sa.Column("provider", TEXT, nullable=False),
        sa.Column("model", TEXT, nullable=False),
        sa.Column("tier", TEXT, nullable=False),
        sa.Column("effective_us", sa.BigInteger(), nullable=False),
        sa.Column("body", TEXT, nullable=False),
        sa.Column("source", TEXT, nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("deleted_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prices")),
    )
    op.create_index("ix_prices_organization_id", "prices", ["organization_id", "id"], unique=False)
    _create_rollups("hour_rollups", "hour", ROUTE)
    _create_rollups("day_rollups", "day", ROUTE)
    _create_rollups("detail_rollups", "day", ("account_id", "key_id", *ROUTE, "agent", "feature"))
    op.create_table(
        "usage_routes",
        *(sa.Column(name, TEXT, nullable=False) for name in ("organization_id", *ROUTE)),
        sa.PrimaryKeyConstraint("organization_id", *ROUTE, name=op.f("pk_usage_routes")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage_labels",
        sa.Column("organization_id", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("value", TEXT, nullable=False),
        sa.Column("occurred_us", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "name", "value", "occurred_us", "id", name=op.f("pk_usage_labels")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage_records",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("hold_id", TEXT, nullable=False),
        sa.Column("is_adjustment", sa.Boolean(), nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("organization_id", TEXT, nullable=False),
        sa.Column("account_id", TEXT, nullable=False),
        sa.Column("key_id", TEXT, nullable=True),
        sa.Column("request_id", TEXT, nullable=False),
        sa.Column("entry_id", TEXT, nullable=True),
        sa.Column("occurred_us", sa.BigInteger(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("charge", sa.BigInteger(), nullable=False),
        sa.Column("cost", EXACT, nullable=False),
        sa.Column("context", TEXT, nullable=False),
        sa.Column("endpoint", TEXT, nullable=False),
        sa.Column("public_model", TEXT, nullable=False),
        sa.Column("provider", TEXT, nullable=False),
        sa.Column("provider_kind", TEXT, nullable=False),
        sa.Column("model", TEXT, nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cached_input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cache_write_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=True),
        sa.Column("usage", TEXT, nullable=True),
        sa.Column("tier", TEXT, nullable=False),
        sa.Column("card_id", TEXT, nullable=True),
        sa.Column("lines", TEXT, nullable=True),
        sa.Column("multiplier", EXACT, nullable=False),
        sa.Column("markup_percent", EXACT, nullable=False),
        sa.Column("credits_per_usd", EXACT, nullable=False),
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.Column("outcome", TEXT, nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("stream", sa.Boolean(), nullable=False),
        sa.Column("duration_ms", sa.BigInteger(), nullable=False),
        sa.Column("agent", TEXT, nullable=True),
        sa.Column("feature", TEXT, nullable=True),
        sa.Column("tags", TEXT, nullable=True),
        sa.Column("description", TEXT, nullable=True),
        sa.Column("raw_usage", TEXT, nullable=True),
        sa.Column("limit_keys", TEXT, nullable=True),
        _usage_key(),
        sa.UniqueConstraint("hold_id", "is_adjustment", name=op.f("uq_usage_records_hold_id_is_adjustment")),
        postgresql_partition_by="RANGE (hold_id)",
    )
    op.create_index(
        "ix_usage_records_account",
        "usage_records",
        ["organization_id", "account_id", "occurred_us", "id"],
        unique=False,
    )
    op.create_index(
        "ix_usage_records_organization", "usage_records", ["organization_id", "occurred_us", "id"], unique=False
    )
    op.create_index(
        "ix_usage_records_key",
        "usage_records",
        ["organization_id", "key_id", "occurred_us", "id"],
        unique=False,
        sqlite_where=sa.text("key_id IS NOT NULL"),
        postgresql_where=sa.text("key_id IS NOT NULL"),
    )
    op.create_index(
        "ix_usage_records_route",
        "usage_records",
        ["organization_id", *ROUTE, "occurred_us", "id"],
        unique=False,
    )
    op.create_index("ix_usage_records_request_id", "usage_records", ["request_id"], unique=False)
    op.create_index(
        "ix_usage_records_paid_by",
        "usage_records",
        ["entry_id"],
        unique=False,
        sqlite_where=sa.text("kind = 'ingested'"),
        postgresql_where=sa.text("kind = 'ingested'"),
    )
    op.create_table(
        "accounts",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("organization_id", TEXT, nullable=False),
        sa.Column("external_id", TEXT, nullable=True),
        sa.Column("bucket", sa.Integer(), nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("email", TEXT, nullable=True),
        sa.Column("meta", TEXT, nullable=True),
        sa.Column("posted", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("overdraft", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("gated_us", sa.BigInteger(), nullable=True),
        sa.Column("grants_until_us", sa.BigInteger(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("overdraft >= 0", name=op.f("ck_accounts_overdraft")),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name=op.f("fk_accounts_organization_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("organization_id", "external_id", name=op.f("uq_accounts_organization_id_external_id")),
    )
    op.create_index(
        "ix_accounts_grants_until_us",
        "accounts",
        ["grants_until_us", "id"],
        unique=False,
        sqlite_where=sa.text("grants_until_us IS NOT NULL"),
        postgresql_where=sa.text("grants_until_us IS NOT NULL"),
    )
    op.create_table(
        "entries",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("organization_id", TEXT, nullable=False),
        sa.Column("account_id", TEXT, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("type", TEXT, nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("balance_after", sa.BigInteger(), nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("description", TEXT, nullable=True),
        sa.Column("meta", TEXT, nullable=True),
        sa.Column("payment_method", TEXT, nullable=True),
        sa.Column("usage_id", TEXT, nullable=True),
        sa.Column("hold_id", TEXT, nullable=True),
        sa.Column("limit_keys", TEXT, nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "(type = 'credit' AND amount >= 0) OR (type = 'debit' AND amount <= 0)", name=op.f("ck_entries_sign")
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_entries_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_entries")),
        sa.UniqueConstraint("account_id", "seq", name=op.f("uq_entries_account_id_seq")),
    )
    op.create_index("ix_entries_organization_id_id", "entries", ["organization_id", "id"], unique=False)
    op.create_index(
        "uq_entries_hold_id",
        "entries",
        ["hold_id"],
        unique=True,
        sqlite_where=sa.text("hold_id IS NOT NULL"),
        postgresql_where=sa.text("hold_id IS NOT NULL"),
    )
    op.create_table(
        "leases",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("holder", TEXT, nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "plans",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("organization_id", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("interval", TEXT, nullable=False),
        sa.Column("occurrences", sa.Integer(), nullable=True),
        sa.Column("accumulate", sa.Boolean(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("interval IN ('1d', 'week', 'month')", name=op.f("ck_plans_interval")),
        sa.CheckConstraint("amount > 0", name=op.f("ck_plans_amount")),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name=op.f("fk_plans_organization_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plans")),
    )
    op.create_index("ix_plans_organization_id_id", "plans", ["organization_id", "id"], unique=False)
    op.create_table(
        "plan_assignments",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("organization_id", TEXT, nullable=False),
        sa.Column("account_id", TEXT, nullable=False),
        sa.Column("plan_id", TEXT, nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("started_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_plan_assignments_account_id")),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_plan_assignments_plan_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plan_assignments")),
    )
    op.create_index("ix_plan_assignments_account_id_id", "plan_assignments", ["account_id", "id"], unique=False)
    op.create_index(
        "uq_plan_assignments_active",
        "plan_assignments",
        ["account_id"],
        unique=True,
        sqlite_where=sa.text("active"),
        postgresql_where=sa.text("active"),
    )
    op.create_table(
        "grants",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("account_id", TEXT, nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("remaining", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("effective_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=True),
        sa.Column("started", sa.Boolean(), nullable=False),
        sa.Column("description", TEXT, nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("plan_id", TEXT, nullable=True),
        sa.Column("assignment_id", TEXT, nullable=True),
        sa.Column("period", sa.Integer(), nullable=True),
        sa.CheckConstraint("remaining >= 0 AND remaining <= amount", name=op.f("ck_grants_remaining")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_grants_account_id")),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_grants_plan_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grants")),
    )
    op.create_index(
        "ix_grants_live",
        "grants",
        ["account_id"],
        unique=False,
        sqlite_where=sa.text("remaining > 0"),
        postgresql_where=sa.text("remaining > 0"),
    )
    op.create_index(
        "uq_grants_period",
        "grants",
        ["account_id", "plan_id", "effective_us"],
        unique=True,
        sqlite_where=sa.text("plan_id IS NOT NULL"),
        postgresql_where=sa.text("plan_id IS NOT NULL"),
    )
    op.create_table(
        "keys",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("organization_id", TEXT, nullable=False),
        sa.Column("account_id", TEXT, nullable=True),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("prefix", TEXT, nullable=False),
        sa.Column("secret_hash", TEXT, nullable=False),
        sa.Column("scopes", TEXT, nullable=False),
        sa.Column("models", TEXT, nullable=True),
        sa.Column("limits", TEXT, nullable=False),
        sa.Column("rev", sa.Integer(), nullable=False),
        sa.Column("max_multiplier", EXACT, nullable=False),
        sa.Column("test", sa.Boolean(), nullable=False),
        sa.Column("above_organizations", sa.Boolean(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=True),
        sa.Column("revoked_us", sa.BigInteger(), nullable=True),
        sa.Column("last_used_us", sa.BigInteger(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_keys_account_id")),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name=op.f("fk_keys_organization_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
    )
    op.create_index("ix_keys_organization_id_id", "keys", ["organization_id", "id"], unique=False)
    op.create_table(
        "responses",
        sa.Column("organization_id", TEXT, nullable=False),
        sa.Column("id", TEXT, nullable=False),
        sa.Column("account_id", TEXT, nullable=False),
        sa.Column("key_id", TEXT, nullable=True),
        sa.Column("hold_id", TEXT, nullable=False),
        sa.Column("provider", TEXT, nullable=False),
        sa.Column("model", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("meta", TEXT, nullable=True),
        sa.Column("poller", TEXT, nullable=True),
        sa.Column("due_us", sa.BigInteger(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('running', 'ended')", name=op.f("ck_responses_state")),
        sa.PrimaryKeyConstraint("organization_id", "id", name=op.f("pk_responses")),
    )
    op.create_index("ix_responses_state_due_us", "responses", ["state", "due_us"], unique=False)
    op.create_table(
        "replays",
        sa.Column("organization_id", TEXT, nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("fingerprint", TEXT, nullable=False),
        sa.Column("holder", TEXT, nullable=True),
        sa.Column("head", TEXT, nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "key", name=op.f("pk_replays")),
    )
    op.create_index("ix_replays_expires_us", "replays", ["expires_us"], unique=False)
    op.create_index("ix_replays_organization_id_size", "replays", ["organization_id", "size"], unique=False)
    op.create_table(
        "reservations",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("organization_id", TEXT, nullable=False),
        sa.Column("account_id", TEXT, nullable=False),
        sa.Column("hold_id", TEXT, nullable=False),
        sa.Column("caller_id", TEXT, nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("actual", sa.BigInteger(), nullable=True),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("operation", TEXT, nullable=True),
        sa.Column("model", TEXT, nullable=True),
        sa.Column("meta", TEXT, nullable=True),
        sa.Column("entry_id", TEXT, nullable=True),
        sa.Column("limit_keys", TEXT, nullable=True),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('pending', 'settled', 'released', 'expired')", name=op.f("ck_reservations_state")
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_reservations_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservations")),
        sa.UniqueConstraint("hold_id", name=op.f("uq_reservations_hold_id")),
        sa.UniqueConstraint("organization_id", "caller_id", name=op.f("uq_reservations_organization_id_caller_id")),
    )
    op.create_index("ix_reservations_account_id_state", "reservations", ["account_id", "state"], unique=False)
    op.create_index("ix_reservations_organization_id_id", "reservations", ["organization_id", "id"], unique=False)
    op.create_index(
        "ix_reservations_expires_us",
        "reservations",
        ["expires_us"],
        unique=False,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_table(
        "grant_moves",
        sa.Column("entry_id", TEXT, nullable=False),
        sa.Column("grant_id", TEXT, nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["grant_id"], ["grants.id"], name=op.f("fk_grant_moves_grant_id")),
        sa.PrimaryKeyConstraint("entry_id", "grant_id", name=op.f("pk_grant_moves")),
    )
    op.create_index("ix_grant_moves_grant_id", "grant_moves", ["grant_id"], unique=False)


def _create_identity() -> None:
    op.create_table(
        "users",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("uuid", TEXT, nullable=False),
        sa.Column("home", TEXT, nullable=False),
        sa.Column("email", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=True),
        sa.Column("subject", TEXT, nullable=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("home", "email", name=op.f("uq_users_home_email")),
        sa.UniqueConstraint("subject", name=op.f("uq_users_subject")),
        sa.UniqueConstraint("uuid", name=op.f("uq_users_uuid")),
    )
    op.create_table(
        "memberships",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("user_id", TEXT, nullable=False),
        sa.Column("organization_id", TEXT, nullable=False),
        sa.Column("role", TEXT, nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("role IN ('superadmin', 'admin', 'member', 'service')", name=op.f("ck_memberships_role")),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name=op.f("fk_memberships_organization_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_memberships_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_memberships")),
        sa.UniqueConstraint("user_id", "organization_id", name=op.f("uq_memberships_user_id_organization_id")),
    )
    op.create_index("ix_memberships_organization_id_id", "memberships", ["organization_id", "id"], unique=False)
    op.create_table(
        "app_passwords",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("user_id", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("secret_hash", TEXT, nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=True),
        sa.Column("revoked_us", sa.BigInteger(), nullable=True),
        sa.Column("last_used_us", sa.BigInteger(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_app_passwords_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_app_passwords")),
    )
    op.create_index("ix_app_passwords_user_id_id", "app_passwords", ["user_id", "id"], unique=False)
    op.create_table(
        "signing_keys",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("secret", TEXT, nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_signing_keys")),
    )
    op.create_table(
        "services",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("home", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_services")),
        sa.UniqueConstraint("home", "name", name=op.f("uq_services_home_name")),
    )
    op.create_table(
        "service_usage",
        sa.Column("hold_id", TEXT, nullable=False),
        sa.Column("service_id", TEXT, nullable=False),
        sa.Column("service_name", TEXT, nullable=False),
        sa.Column("user_id", TEXT, nullable=False),
        sa.Column("reported_by", TEXT, nullable=False),
        sa.Column("organization_id", TEXT, nullable=False),
        sa.Column("channel", TEXT, nullable=False),
        sa.Column("model", TEXT, nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("billed", EXACT, nullable=False),
        sa.Column("metered", sa.Boolean(), nullable=False),
        sa.Column("occurred_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hold_id", name=op.f("pk_service_usage")),
    )
    op.create_index(
        "ix_service_usage_user_id_occurred_us", "service_usage", ["user_id", "occurred_us", "hold_id"], unique=False
    )
