"""Anthropic's messages, and the counting of their tokens, which is free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal

from faregate.core.asks.shape import MAX_TOKENS, ONE_REQUEST, Allowances, Asked, Input, tier_of, whole
from faregate.core.call import Call
from faregate.errors import InvalidRequest

LEAST_WITH_THINKING = 2048
"""The smallest thinking budget there is, and as much again for what is said after it."""
_TOOL_TOKENS = 804
"""The prompt that makes tools work: Anthropic documents 159 to 804 tokens, by model and `tool_choice`."""
_OWN_TOOL_TOKENS = 3_000
_MOST_OWN_TOOLS = 20
_MOST_SEARCHES = 50
_SEARCHES = 10
"""Of a web search tool without `max_uses`."""


def messages_output(call: Call) -> Asked:
    """`max_tokens`, which includes thinking. Raises InvalidRequest: Anthropic wants it, and so do we."""
    most = whole(call.body, "max_tokens", 0, MAX_TOKENS)
    if most is None:
        raise InvalidRequest("max_tokens is required", param="max_tokens")
    return Asked(most, 1, True, "max_tokens", least=least_of(call.body))


def least_of(fields: Mapping[str, object]) -> int:
    """The least output that leaves room for the `thinking` asked for."""
    thinking = fields.get("thinking")
    return LEAST_WITH_THINKING if isinstance(thinking, dict) and thinking.get("type") == "enabled" else 0


def messages_input(call: Call, allow: Allowances) -> Input:
    """Text by its bytes; allowances for pictures and documents. Base64 is counted by its length, never read."""
    base64 = tokens = 0
    for block in _blocks(call.body):
        size, more = _file(block, allow)
        base64 += size
        tokens += more
    text = allow.text(call.body_bytes - base64)
    tokens += hidden_tokens(call.body.get("tools"))
    return Input(max(1, text + tokens), _modalities(call), _units(call), _tier(call))


def counting(call: Call, allow: Allowances) -> Input:
    """Costs nothing, so it holds nothing."""
    return Input(0, units={})


def hidden_tokens(tools: object) -> int:
    """What Claude is told about tools beside their definitions; of Anthropic's own tools the definition, too."""
    if not isinstance(tools, list) or not tools:
        return 0
    own = [tool for tool in tools if isinstance(tool, dict) and tool.get("type") not in (None, "custom", "function")]
    return _TOOL_TOKENS + _OWN_TOOL_TOKENS * min(len(own), _MOST_OWN_TOOLS)


def _blocks(body: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """All content blocks of all messages, those inside tool results and documents included."""
    messages = body.get("messages")
    waiting = list(messages) if isinstance(messages, list) else []
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            source = item.get("source")
            for inside in (item.get("content"), source.get("content") if isinstance(source, dict) else None):
                if isinstance(inside, list):
                    waiting += inside


def _file(block: Mapping[str, object], allow: Allowances) -> tuple[int, int]:
    """(bytes that are no text, tokens in their place) of a picture or a document."""
    kind, source = block.get("type"), block.get("source")
    if kind not in ("image", "document") or not isinstance(source, dict):
        return 0, 0
    if source.get("type") in ("text", "content"):
        return 0, 0  # its text counts as such, its pictures are blocks
    data = source.get("data")
    content = data if isinstance(data, str) else None
    return len(content or ""), allow.image() if kind == "image" else allow.document(content)


def _modalities(call: Call) -> frozenset[str]:
    """Cache writes (and for an hour, if that is asked for anywhere), and a geography with its own price."""
    raw = call.raw_body
    hidden = b"\\u00" in raw  # a plain letter, escaped: nobody needs that, so it is not read but feared
    found = set()
    if hidden or b'"cache_control"' in raw:
        found |= {"cache_write", "cache_write_1h"} if hidden or b'"1h"' in raw else {"cache_write"}
    if isinstance(geo := call.body.get("inference_geo"), str):
        found.add(f"geo:{geo[:16]}")
    if call.body.get("speed") == "fast":
        found.add("speed:fast")
    return frozenset(found)


def _units(call: Call) -> Mapping[str, Decimal]:
    """The searches that the provider may run by itself."""
    tools = call.body.get("tools")
    searches = 0
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict) and str(tool.get("type")).startswith("web_search"):
            uses = tool.get("max_uses")
            searches += min(uses, _MOST_SEARCHES) if isinstance(uses, int) and uses > 0 else _SEARCHES
    return {**ONE_REQUEST, "search": Decimal(min(searches, _MOST_SEARCHES))} if searches else ONE_REQUEST


def _tier(call: Call) -> str:
    return "fast" if call.body.get("speed") == "fast" else tier_of(call)
