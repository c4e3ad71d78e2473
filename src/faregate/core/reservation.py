"""What a reservation is to the gate and to the ledger: a hold that nobody beats, and the debit it may become."""

from __future__ import annotations

from decimal import Decimal

from faregate.core.call import Hold, Record, Reservation, bucket_of
from faregate.core.ids import new_id

ENDPOINT = "reservations.confirm"
"""Of its record: an entry without a usage record."""
MAX_TTL_S = 86_400
MAX_PENDING = 10_000
"""Of one account: a rebuild puts all of them back in one script."""
_PREFIX = "res_"


def new_reservation_id(name: str | None = None) -> str:
    """`res_...`: a new one for each attempt, so that undoing one never touches another's hold.

    With the name of an Idempotency-Key it is the same at each repeat, which then meets what it has made before.
    """
    return new_id("res") if name is None else _PREFIX + name


def is_reservation(hold_id: str) -> bool:
    """Whether a hold is a reservation's: the book, not a heartbeat, says how long it lives."""
    return hold_id.startswith(_PREFIX)


def hold_of(reservation: Reservation) -> Hold:
    """Its hold in the gate."""
    return Hold(
        id=reservation.id,
        kind="api",
        organization_id=reservation.organization_id,
        account_id=reservation.account_id,
        bucket=bucket_of(reservation.organization_id),
        microcredits=reservation.microcredits,
        tokens=None,
        limit_keys=reservation.limit_keys,
    )


def record_of(reservation: Reservation, charge_microcredits: int) -> Record:
    """The debit it becomes: claimed in the ledger by the hold's id, counted in the windows that admitted it."""
    return Record(
        hold_id=reservation.id,
        hold_kind="api",
        kind="actual",
        organization_id=reservation.organization_id,
        account_id=reservation.account_id,
        key_id=None,
        request_id=reservation.id,
        occurred_at_us=reservation.created_us,
        charge_microcredits=charge_microcredits,
        cost_usd=Decimal(0),
        endpoint=ENDPOINT,
        public_model=reservation.model or "",
        attribution={f"metadata.{name}": value for name, value in reservation.metadata.items()},
        description=reservation.operation,
        limit_keys=hold_of(reservation).counted,
    )
