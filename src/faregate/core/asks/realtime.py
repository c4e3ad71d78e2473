"""One response of a realtime session. Its input is the whole conversation, which its session counts: `prior_tokens`."""

from __future__ import annotations

from faregate.core.asks.shape import MAX_TOKENS, Allowances, Asked, Input, whole
from faregate.core.call import Call


def realtime_output(call: Call) -> Asked:
    """`max_output_tokens` of the response or its session; "inf" is not sent here: the model's own maximum."""
    return Asked(whole(call.body, "max_output_tokens", 1, MAX_TOKENS), 1, True, "max_output_tokens")


def realtime_input(call: Call, allow: Allowances) -> Input:
    """Anything in it may be sound or a picture; it is never more than the model's context."""
    tokens = call.prior_tokens if allow.context_tokens is None else min(call.prior_tokens, allow.context_tokens)
    return Input(max(1, tokens), frozenset({"audio", "image", "cache_write"}))
