"""A cold Redis neither refuses everybody nor lets anybody through for free."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.story.conftest import Open
from tests.story.house import House
from tests.story.test_stores_away import FARE, WHOLE, begun

GRACE_S = 3.0


@pytest.fixture
async def patient(open_house: Open) -> House:
    """A house whose grace is long enough to be seen."""
    return await open_house(timing__heartbeat_s=GRACE_S / 3)


async def wiped(house: House) -> None:
    await house.runtime.pipe.command(("FLUSHALL",), 2.0)


async def test_a_new_account_waits_for_no_grace(patient: House) -> None:
    assert (await patient.call()).status_code == 200
    stranger = await patient.caller()
    await wiped(patient)
    known = asyncio.create_task(patient.call())
    began = time.monotonic()
    assert (await patient.call(by=stranger)).status_code == 200
    assert time.monotonic() - began < GRACE_S / 2
    assert not known.done()
    assert (await known).status_code == 200
    await patient.settled()


async def test_limit_windows_come_back_from_the_book(patient: House) -> None:
    by = await patient.caller(limits=[{"kind": "requests", "window": "total", "max": "2"}])
    for _ in range(2):
        assert (await patient.call(by=by, max_tokens=5)).status_code == 200
    await wiped(patient)
    assert (await patient.call(by=by, max_tokens=5)).status_code == 429
    assert await patient.balance(by) == WHOLE - 2 * FARE


async def test_a_call_under_way_is_charged_once_across_a_wipe(patient: House) -> None:
    call = await begun(patient, first_byte_s=1.5)
    await wiped(patient)
    assert (await call).status_code == 200
    assert (await patient.record()).charge_microcredits == FARE
