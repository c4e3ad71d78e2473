"""How the time of a shutdown is shared out between a worker's steps, and how long the parent waits for them."""

from __future__ import annotations

_CLOSE_S = 5.0
"""What a worker gets to close its book and its files, once its shares are used up."""


def shutdown_shares(shutdown_s: float) -> tuple[int, float]:
    """Seconds for open calls to finish by themselves, and for what is left of them to be charged.

    Each is at least one second, together they are `shutdown_s` or 2.
    """
    graceful_s = max(1, int(shutdown_s * 2 / 3))
    return graceful_s, max(1.0, shutdown_s - graceful_s)


def kill_after_s(shutdown_s: float) -> float:
    """When the parent kills a worker that was told to stop: later than both of its shares."""
    return sum(shutdown_shares(shutdown_s)) + _CLOSE_S
