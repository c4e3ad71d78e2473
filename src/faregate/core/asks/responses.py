"""OpenAI's responses. What an earlier response brings back as input is not in the body: `Call.prior_tokens`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal

from faregate.core.asks.openai import seconds_of
from faregate.core.asks.shape import MAX_TOKENS, ONE_REQUEST, Allowances, Asked, Input, tier_of, whole
from faregate.core.call import Call
from faregate.errors import InvalidRequest

MOST_TOOL_CALLS = 1_000
"""Of built-in tools in one response; a bound beyond is a mistake."""
_FEES = {
    "web_search": "search",
    "web_search_preview": "search",
    "x_search": "x_search",
    "file_search": "file_search",
    "code_interpreter": "session",
}
"""Tools that are billed by their calls, and the rate's name; dated names begin the same."""


def responses_output(call: Call) -> Asked:
    """`max_output_tokens`, reasoning included, or the model's own maximum; always one choice."""
    return Asked(whole(call.body, "max_output_tokens", 1, MAX_TOKENS), 1, True, "max_output_tokens")


def responses_input(call: Call, allow: Allowances) -> Input:
    """Text by its bytes, allowances for pictures, sound and files, one fee for each tool that has one."""
    tokens, base64, modalities = call.prior_tokens, 0, frozenset({"cache_write"})
    for part in _parts(call.body):
        more, size, kind = _part(part, allow)
        tokens, base64 = tokens + more, base64 + size
        modalities |= {kind} if kind else set()
    kinds = _tools(call.body)
    if any(kind.startswith("image_generation") for kind in kinds):
        modalities |= {"image"}
    tokens += allow.text(call.body_bytes - base64)
    return Input(max(1, tokens), modalities, _units(call.body, kinds), tier_of(call))


def _part(part: Mapping[str, object], allow: Allowances) -> tuple[int, int, str]:
    """Tokens, the characters of base64 among them, and the modality."""
    url, sound, data = part.get("image_url"), part.get("input_audio"), part.get("file_data")
    if part.get("type") in ("input_image", "computer_screenshot"):
        size = len(url) if isinstance(url, str) and url[:5].lower() == "data:" else 0
        return allow.image(part.get("detail")), size, "image"
    if isinstance(sound, dict) and isinstance(recording := sound.get("data"), str):
        return allow.sound(seconds_of(len(recording), sound.get("format"))), len(recording), "audio"
    if part.get("type") == "input_file":
        content = data if isinstance(data, str) else None
        return allow.document(content), len(content or ""), "image"
    return 0, 0, ""


def _parts(body: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Content parts of messages, and what tools handed back."""
    listed = body.get("input")
    for item in listed if isinstance(listed, list) else ():
        if not isinstance(item, dict):
            continue
        for inside in (item.get("content"), item.get("output")):
            parts = inside if isinstance(inside, list) else (inside,)
            yield from (part for part in parts if isinstance(part, dict))


def _tools(body: Mapping[str, object]) -> list[str]:
    """The types of the tools. Raises InvalidRequest."""
    tools = body.get("tools")
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise InvalidRequest("tools must be a list", param="tools")
    return [str(tool.get("type")) for tool in tools if isinstance(tool, dict)]


def _units(body: Mapping[str, object], kinds: list[str]) -> Mapping[str, Decimal]:
    """One call of each tool that costs, or as many as the client allows."""
    calls = whole(body, "max_tool_calls", 0, MOST_TOOL_CALLS)
    units = dict(ONE_REQUEST)
    for kind in kinds:
        rate = next((rate for name, rate in _FEES.items() if kind.startswith(name)), None)
        if rate is not None:
            units[rate] = Decimal(1 if calls is None else calls)
    return units
