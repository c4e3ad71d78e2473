"""How the time of a shutdown is shared out, and what is not logged of it."""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest

from faregate.shutdown import kill_after_s, shutdown_shares
from faregate.worker import _not_cut


@pytest.mark.parametrize("shutdown_s", [0.1, 1, 2, 3, 5.0, 30, 600])
def test_the_shares_are_the_whole_and_the_parent_waits_for_both(shutdown_s: float) -> None:
    graceful_s, charging_s = shutdown_shares(shutdown_s)
    assert graceful_s >= 1
    assert charging_s >= 1
    assert graceful_s + charging_s == pytest.approx(max(2.0, shutdown_s))
    assert graceful_s >= charging_s or shutdown_s < 3
    assert kill_after_s(shutdown_s) >= max(2.0, shutdown_s) + 5


@pytest.mark.parametrize(("error", "kept"), [(asyncio.CancelledError(), False), (ValueError("a defect"), True)])
def test_a_call_that_is_cut_leaves_no_traceback_and_a_defect_does(error: BaseException, kept: bool) -> None:
    try:
        raise error
    except BaseException:  # noqa: BLE001 - as uvicorn catches it
        record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, "Exception", (), sys.exc_info())
    assert _not_cut(record) is kept
