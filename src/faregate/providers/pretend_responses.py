"""The sandbox's responses. All of one is in its id, so that any process can tell it again: nothing is kept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256

import orjson

from faregate.providers.pretend import CREATED, MAX_OUTPUT_TOKENS, asked_length, text_of, tokens_of, whole_of, word

_ID = re.compile(r"resp_([0-9a-f]{24})([0-9a-f]{2})([0-9a-f]{8})([0-9a-f]{6})([01])")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is going to be said."""

    digest: str
    seed: int
    input_tokens: int
    output_tokens: int
    cut: bool
    """It ran into the client's bound."""
    model: str
    background: bool = False

    @property
    def id(self) -> str:
        return f"resp_{self.digest}{self.seed:02x}{self.input_tokens:08x}{self.output_tokens:06x}{int(self.cut)}"

    @property
    def words(self) -> list[str]:
        return [word(self.seed, index) for index in range(self.output_tokens)]

    @property
    def status(self) -> str:
        return "incomplete" if self.cut else "completed"

    @property
    def usage(self) -> dict[str, object]:
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.input_tokens + self.output_tokens,
        }

    def response(self, status: str) -> dict[str, object]:
        """The response object, finished or not."""
        ended = status == self.status
        return {
            "id": self.id,
            "object": "response",
            "created_at": CREATED,
            "status": status,
            "background": self.background,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if ended and self.cut else None,
            "model": self.model,
            "output": [self.message("".join(self.words), status)] if ended else [],
            "parallel_tool_calls": True,
            "store": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": self.usage if ended else None,
        }

    def message(self, text: str | None, status: str) -> dict[str, object]:
        content = [] if text is None else [_part(text)]
        made = {"id": f"msg_{self.digest}", "type": "message", "role": "assistant", "status": status}
        return {**made, "content": content}


def pretend_response(body: Mapping[str, object]) -> list[bytes]:
    """The answer to POST /responses: one JSON document, or the events of a stream."""
    plan = _plan(body)
    if body.get("stream") is True:
        return list(_stream(plan))
    return [orjson.dumps(plan.response("queued" if plan.background else plan.status))]


def pretend_kept(verb: str, response_id: str, model: str) -> bytes | None:
    """A response asked for again; None for an id that no pretence has made."""
    found = _ID.fullmatch(response_id)
    if found is None:
        return None
    if verb == "delete":
        return orjson.dumps({"id": response_id, "object": "response", "deleted": True})
    if verb == "input_items":
        return orjson.dumps({"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False})
    digest, seed, given, made, cut = found.groups()
    plan = _Plan(digest, int(seed, 16), int(given, 16), int(made, 16), cut == "1", model)
    return orjson.dumps(plan.response(plan.status))


def _plan(body: Mapping[str, object]) -> _Plan:
    prompt = f"{text_of(body.get('instructions'))}{text_of(body.get('input'))}"
    digest = sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
    length = asked_length(prompt, digest)
    bound = whole_of(body.get("max_output_tokens"), MAX_OUTPUT_TOKENS)
    return _Plan(
        digest=digest.hex()[:24],
        seed=digest[1],
        input_tokens=tokens_of(prompt) + _before(body.get("previous_response_id")),
        output_tokens=min(length, bound),
        cut=length > bound,
        model=str(body.get("model")),
        background=body.get("background") is True,
    )


def _before(previous: object) -> int:
    """What a response goes on from is input again: what it was given, and what it said."""
    found = _ID.fullmatch(previous) if isinstance(previous, str) else None
    return int(found[3], 16) + int(found[4], 16) if found else 0


def _stream(plan: _Plan) -> Iterator[bytes]:
    for number, (kind, said) in enumerate(_events(plan)):
        data = orjson.dumps({"type": kind, "sequence_number": number, **said})
        yield b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def _events(plan: _Plan) -> Iterator[tuple[str, dict[str, object]]]:
    item: dict[str, object] = {"output_index": 0}
    part: dict[str, object] = {**item, "item_id": f"msg_{plan.digest}", "content_index": 0}
    text = "".join(plan.words)
    yield "response.created", {"response": plan.response("in_progress")}
    yield "response.in_progress", {"response": plan.response("in_progress")}
    yield "response.output_item.added", {**item, "item": plan.message(None, "in_progress")}
    yield "response.content_part.added", {**part, "part": _part("")}
    for one in plan.words:
        yield "response.output_text.delta", {**part, "delta": one, "logprobs": []}
    yield "response.output_text.done", {**part, "text": text, "logprobs": []}
    yield "response.content_part.done", {**part, "part": _part(text)}
    yield "response.output_item.done", {**item, "item": plan.message(text, plan.status)}
    yield f"response.{plan.status}", {"response": plan.response(plan.status)}


def _part(text: str) -> dict[str, object]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
