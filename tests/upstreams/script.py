"""What the scripted upstream can be told to do, and what it remembers of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import orjson

Fault = Literal[
    "",
    "reset_before_headers",  # RST instead of an answer
    "close_before_headers",  # FIN instead of an answer
    "hang_before_headers",
    "hang_mid",  # silent after half of the output
    "comments",  # comments only, for ever, after half of the output
    "reset_mid",  # RST after half of the output
    "truncate",  # the body stops after half of the output: chunked cut, or short of its content-length
    "no_done",  # everything but [DONE]: a clean end of the body
    "error_event",  # an error event after half of the output, then [DONE]
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What one request gets."""

    status: int = 200
    input_tokens: int = 10
    output_tokens: int = 5
    """Per choice; the request's own bound is obeyed unless `ignore_cap`."""
    usage: Literal["honest", "none", "zero"] = "honest"
    error_usage: bool = False
    """An error body that carries usage."""
    ignore_cap: bool = False
    delay_s: float = 0.0
    """Before each event of a stream."""
    first_byte_s: float = 0.0
    fault: Fault = ""
    raw: tuple[str, ...] | None = None
    """The body's exact pieces, one write each (stream: one HTTP chunk each)."""
    headers: tuple[tuple[str, str], ...] = ()


SCRIPTS: dict[str, Script] = {
    "no-usage": Script(usage="none"),
    "zero-usage": Script(usage="zero"),
    "long": Script(output_tokens=60),
    "slow": Script(output_tokens=20, delay_s=0.05),
    "overrun": Script(output_tokens=5000, ignore_cap=True),
    "bad-request": Script(status=400),
    "unauthorized": Script(status=401),
    "rate-limited": Script(status=429, headers=(("retry-after", "7"),)),
    "broken": Script(status=500),
    "broken-with-usage": Script(status=500, error_usage=True),
    "unavailable": Script(status=503),
    "redirect": Script(status=307, headers=(("location", "http://127.0.0.1:9/v1"),)),
    "reset": Script(fault="reset_before_headers"),
    "closed": Script(fault="close_before_headers"),
    "hang": Script(fault="hang_before_headers"),
    "hang-mid": Script(fault="hang_mid", output_tokens=10),
    "comments": Script(fault="comments", output_tokens=10),
    "reset-mid": Script(fault="reset_mid", output_tokens=10),
    "truncated": Script(fault="truncate", output_tokens=10),
    "no-done": Script(fault="no_done"),
    "error-event": Script(fault="error_event", output_tokens=10),
}


@dataclass(slots=True, kw_only=True)
class Served:
    """One request in the server's own account."""

    id: str
    path: str
    endpoint: str
    headers: dict[str, str]
    body: bytes
    model: str
    stream: bool
    status: int = 0
    """0: no status line was sent."""
    input_tokens: int = 0
    output_tokens: int = 0
    """Tokens written to the socket so far."""
    outcome: Literal["open", "completed", "aborted", "faulted"] = "open"
    """aborted: the client hung up; faulted: the script cut it."""

    @property
    def json(self) -> dict[str, object]:
        """The request's body, parsed."""
        parsed: dict[str, object] = orjson.loads(self.body)
        return parsed


def script_in(body: Mapping[str, object]) -> Script | None:
    """The Script that follows `x-script:` as JSON in the prompt's last text, if there is one."""
    messages = body.get("messages")
    prompt = (
        messages[-1].get("content")
        if isinstance(messages, list) and messages
        else body.get("prompt", body.get("input"))
    )
    _, found, rest = prompt.partition("x-script:") if isinstance(prompt, str) else ("", "", "")
    if not found:
        return None
    fields, _ = json.JSONDecoder().raw_decode(rest.lstrip())
    for name in ("raw", "headers"):
        if fields.get(name) is not None:
            fields[name] = tuple(item if isinstance(item, str) else tuple(item) for item in fields[name])
    return Script(**fields)
