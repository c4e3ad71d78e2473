"""OpenAI's Responses at the front door: what differs from its other endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import orjson

from faregate.core.call import Call, Principal
from faregate.errors import FaregateError, InvalidRequest
from faregate.gateway.common import flag
from faregate.gateway.openai import OpenAIDialect
from faregate.ports import Inbound

MOST_ID = 256
"""Characters of a response's id; longer ones exist nowhere."""


class ResponsesDialect(OpenAIDialect):
    """`ports.Dialect` for POST /v1/responses. Its streams always end with their usage: none is asked for."""

    def read(self, inbound: Inbound, principal: Principal, account_id: str, call_id: str) -> Call:
        call = super().read(inbound, principal, account_id, call_id)
        _check(call.body)
        return replace(call, wants_usage=True, background=flag(call.body, "background"))

    def error_event(self, error: Exception) -> bytes:
        """A bare error event. No event of ours has a place in the provider's numbering: it says 0."""
        known = error if isinstance(error, FaregateError) else FaregateError("the gateway failed")
        said = {
            "type": "error",
            "code": known.code,
            "message": known.message,
            "param": known.param,
            "sequence_number": 0,
        }
        return b"event: error\ndata: " + orjson.dumps(said) + b"\n\n"


def _check(body: Mapping[str, object]) -> None:
    """Raises InvalidRequest for what could not be billed, or would reach into what is somebody else's."""
    previous = body.get("previous_response_id")
    if previous is not None and not (isinstance(previous, str) and 0 < len(previous) <= MOST_ID):
        message = f"previous_response_id must be a string of 1 to {MOST_ID} characters"
        raise InvalidRequest(message, param="previous_response_id")
    if body.get("conversation") is not None:
        # Conversations belong to the operator's key: nothing here knows whose they are.
        raise InvalidRequest("conversation is not supported: use previous_response_id", param="conversation")
    if body.get("store") is not None:
        flag(body, "store")
    if flag(body, "background") and body.get("store") is False:
        raise InvalidRequest("a background response must be stored: leave store out, or true", param="store")
