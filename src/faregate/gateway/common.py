"""What all front doors share: JSON bodies, and the headers of ours that say whom a call is for."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson

from faregate.core.call import Principal
from faregate.core.money import parse_decimal
from faregate.errors import FaregateError, InsufficientCredits, InvalidRequest, LimitExceeded, PermissionDenied

MOST_VALUE = 512
"""Characters of anything a client writes for itself that are kept."""
_MOST_TAGS = 16
_MOST_NAME = 64


def refuse_encoding(headers: Mapping[str, str]) -> None:
    """Bodies come as they are. Raises InvalidRequest."""
    if (encoding := headers.get("content-encoding", "identity")) != "identity":
        raise InvalidRequest(f"content-encoding {encoding[:32]} is not supported: send the body as it is")


def wants_cost(headers: Mapping[str, str]) -> bool:
    """Whether the client wants its cost in the usage of a stream."""
    return headers.get("x-faregate-include-cost", "").lower() == "true"


def parse_object(raw: bytes) -> dict[str, Any]:
    """The body as a JSON object. Raises InvalidRequest."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    return body


def model_of(body: Mapping[str, object]) -> str:
    """The model a body names. Raises InvalidRequest."""
    model = body.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= 256 or not model.isprintable():
        raise InvalidRequest("model must be a string of 1 to 256 printable characters", param="model")
    return model


def flag(body: Mapping[str, object], name: str) -> bool:
    """A boolean of a body; absent and null are false. Raises InvalidRequest."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false", param=name)
    return bool(value)


def error_headers(error: FaregateError) -> dict[str, str]:
    """What an error says beside its body: clients must not hammer a 402, and come back when told."""
    headers = {"content-type": "application/json"}
    hopeless = isinstance(error, LimitExceeded) and error.hopeless
    if isinstance(error, InsufficientCredits) or hopeless:
        headers["x-should-retry"] = "false"
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    return headers


def multiplier_of(headers: Mapping[str, str], principal: Principal) -> Decimal:
    """`x-faregate-multiplier`, 1 to 10 and within the key's own. Raises InvalidRequest, PermissionDenied."""
    text = headers.get("x-faregate-multiplier")
    if text is None:
        return Decimal(1)
    value = parse_decimal(text, "x-faregate-multiplier")
    if not 1 <= value <= 10:
        raise InvalidRequest("x-faregate-multiplier must be from 1 to 10", param="x-faregate-multiplier")
    if value > principal.max_multiplier:
        raise PermissionDenied(
            f"x-faregate-multiplier is over this key's {principal.max_multiplier:f}", param="x-faregate-multiplier"
        )
    return value


def attribution_of(headers: Mapping[str, str], body: Mapping[str, object]) -> dict[str, str]:
    """agent, feature, user, tag.<name>, metadata.<name> of headers and body. Raises InvalidRequest."""
    found: dict[str, str] = {}
    for name in ("agent", "feature"):
        if value := headers.get(f"x-faregate-{name}"):
            found[name] = _bounded(value, f"x-faregate-{name}")
    for name, value in _tags(headers.get("x-faregate-tags", "")):
        found[f"tag.{name}"] = value
    user = body.get("user")
    if isinstance(user, str) and user:
        found["user"] = clean(user)
    metadata = body.get("metadata")
    if isinstance(metadata, dict):
        for name, value in list(metadata.items())[:_MOST_TAGS]:
            if isinstance(value, str) and len(name) <= _MOST_NAME:
                found[f"metadata.{clean(name)}"] = clean(value)
    return found


def clean(text: str) -> str:
    """What a client wrote for itself is kept, as far as a database can hold it."""
    return text[:MOST_VALUE].replace("\x00", "")


def _tags(text: str) -> list[tuple[str, str]]:
    if not text:
        return []
    tags = []
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or not name.strip() or len(name) > _MOST_NAME:
            raise InvalidRequest("x-faregate-tags must read k=v,k=v", param="x-faregate-tags")
        tags.append((name.strip(), _bounded(value.strip(), "x-faregate-tags")))
    if len(tags) > _MOST_TAGS:
        raise InvalidRequest(f"x-faregate-tags takes at most {_MOST_TAGS} tags", param="x-faregate-tags")
    return tags


def _bounded(value: str, param: str) -> str:
    if len(value) > MOST_VALUE:
        raise InvalidRequest(f"{param} is longer than {MOST_VALUE} characters", param=param)
    return value
