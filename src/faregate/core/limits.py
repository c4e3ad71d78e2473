"""A key's own limits as response headers, in the names OpenAI's clients know."""

from __future__ import annotations

from faregate.core.call import Principal
from faregate.core.windows import window_bounds

_YEAR_S = 366 * 86_400


def rate_limit_headers(principal: Principal, rests: tuple[int, ...], now_us: int) -> dict[str, str]:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`: of each kind the window with the least left."""
    tightest: dict[str, tuple[int, int, int]] = {}
    for limit, rest in zip(principal.limits, rests, strict=False):
        if limit.kind not in ("requests", "tokens"):
            continue
        if limit.kind not in tightest or rest < tightest[limit.kind][0]:
            now_s = now_us // 1_000_000
            tightest[limit.kind] = (rest, limit.max, window_bounds(limit.window, now_s)[1] - now_s)
    headers = {}
    for kind, (rest, most, reset_s) in tightest.items():
        headers[f"x-ratelimit-limit-{kind}"] = str(most)
        headers[f"x-ratelimit-remaining-{kind}"] = str(max(rest, 0))
        if reset_s < _YEAR_S:  # a total never resets
            headers[f"x-ratelimit-reset-{kind}"] = f"{reset_s}s"
    return headers
