"""Records and holds to write down."""

from __future__ import annotations

from decimal import Decimal

from faregate.core.call import Hold, Record


def intent(hold_id: str = "h", charge: int = 5) -> Record:
    return Record(
        hold_id=hold_id,
        hold_kind="call",
        kind="actual",
        organization_id="o",
        account_id="a",
        key_id="k",
        request_id="r",
        occurred_at_us=1,
        charge_microcredits=charge,
        cost_usd=Decimal("0.5"),
    )


def hold(hold_id: str = "h", microcredits: int = 100) -> Hold:
    return Hold(
        id=hold_id,
        kind="call",
        organization_id="o",
        account_id="a",
        bucket=7,
        microcredits=microcredits,
        tokens=None,
        limit_keys=("k.credits.day:0",),
    )
