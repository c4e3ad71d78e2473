"""Requests read whole and strictly, replies written exactly: JSON numbers are decimals on the way in and out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import unquote_plus

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel
from starlette.types import Message, Receive, Scope, Send

from faregate.core.call import Principal
from faregate.core.people import Person
from faregate.errors import InvalidRequest, RequestTooLarge
from faregate.ports import ClientGone

MAX_DEPTH = 24
_MAX_DIGITS = 64
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""NUL and lone surrogates: no database takes them."""


class Body(BaseModel):
    """A request's body: strict, frozen, camelCase outside, no unknown field."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        hide_input_in_errors=True,
    )


B = TypeVar("B", bound=Body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a handler is given: `principal` where a key opens the route, `person` where a user's token does."""

    method: str
    route: str
    """The route's path as the table has it."""
    path_params: Mapping[str, str]
    headers: Mapping[str, str]
    query: Mapping[str, str]
    raw_body: bytes
    request_id: str
    caller: Principal | None = None
    user: Person | None = None

    @property
    def principal(self) -> Principal:
        assert self.caller is not None, "a route without a scope has no principal"
        return self.caller

    @property
    def person(self) -> Person:
        assert self.user is not None, "only a user's token brings a person"
        return self.user

    def body(self, model: type[B]) -> B:
        """The JSON body as `model`. Raises InvalidRequest naming the field and what is allowed."""
        return validated(model, parse_object(self.raw_body))

    def params(self, model: type[B]) -> B:
        """The query string as `model`."""
        return validated(model, self.query)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a handler answers: a JSON body, or bytes that are ready."""

    body: object
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else encode(self.body)


def ok(**fields: object) -> Reply:
    """200: `{"success": true, …}`."""
    return Reply(body={"success": True, **fields})


def created(**fields: object) -> Reply:
    """201: the same, for something new in a collection."""
    return Reply(body={"success": True, **fields}, status=201)


# JSON ---------------------------------------------------------------------------------------------------


def encode(value: object) -> bytes:
    """JSON with decimals printed as they are: no exponent, no binary rounding."""
    return orjson.dumps(value, default=_exact)


def _exact(value: object) -> orjson.Fragment:
    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f"))
    raise TypeError(f"cannot encode {type(value).__name__}")


def parse_object(raw: bytes) -> dict[str, Any]:
    """A JSON object: UTF-8, each name once, numbers as int or Decimal of at most 64 digits. Raises InvalidRequest."""
    try:
        body = json.loads(
            raw.decode("utf-8"),
            parse_float=_decimal,
            parse_int=_integer,
            parse_constant=_constant,
            object_pairs_hook=_unique,
        )
    except UnicodeDecodeError:
        raise InvalidRequest("the body is not UTF-8") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    _check_texts(body, 0)
    return body


def _decimal(text: str) -> Decimal:
    if len(text) > _MAX_DIGITS:
        raise InvalidRequest(f"a number has more than {_MAX_DIGITS} digits")
    return Decimal(text)


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise InvalidRequest(f"a number has more than {_MAX_DIGITS} digits")
    return int(text)


def _constant(text: str) -> Decimal:
    """Read for now, and refused when the field it stands in is known."""
    return Decimal(text)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(f"the field {doubled[:64]!r} is there twice", param=doubled[:64])
    return found


def _check_texts(value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidRequest("the body is nested too deeply")
    if isinstance(value, Decimal) and not value.is_finite():
        raise InvalidRequest(f"{value} is not a JSON number")
    if isinstance(value, str):
        if _UNSTORABLE.search(value):
            raise InvalidRequest("a string holds a NUL or half a surrogate pair")
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_texts(name, depth)
            if isinstance(item, Decimal) and not item.is_finite():
                raise InvalidRequest(f"{name[:64]}: {item} is not a JSON number", param=name[:64])
            _check_texts(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_texts(item, depth + 1)


# Fields -------------------------------------------------------------------------------------------------


def validated(model: type[B], values: Mapping[str, object]) -> B:
    """The values as `model`. Raises InvalidRequest for the first field that is wrong."""
    try:
        return model.model_validate({name: _whole(value) for name, value in values.items()})
    except ValidationError as error:
        raise _invalid(model, error) from None


def _whole(value: object) -> object:
    """JSON knows one kind of number: 3.0 is 3."""
    if isinstance(value, Decimal) and value.adjusted() < _MAX_DIGITS and value == value.to_integral_value():
        return int(value)
    return value


def _invalid(model: type[Body], error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False, include_input=False)[0]
    param = ".".join(str(part) for part in first["loc"])[:128]
    if first["type"] == "extra_forbidden":
        allowed = ", ".join(field.alias or name for name, field in model.model_fields.items())
        return InvalidRequest(f"unknown field {param!r}; allowed: {allowed or 'none'}", param=param)
    if first["type"] == "missing":
        return InvalidRequest(f"{param} is required", param=param)
    cause = first.get("ctx", {}).get("error")
    message = cause.args[0] if isinstance(cause, ValueError) and cause.args else first["msg"]
    return InvalidRequest(f"{param}: {message}", param=param)


# ASGI ---------------------------------------------------------------------------------------------------


def header_map(scope: Scope) -> dict[str, str]:
    """Lower-case names; of a doubled header the last one."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def presented_key(headers: Mapping[str, str]) -> str:
    """The key of `Authorization: Bearer …` or `X-API-Key: …`; "" when there is none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return headers.get("x-api-key", "")


def query_map(scope: Scope) -> dict[str, str]:
    """The query string, each name at most once. Raises InvalidRequest."""
    found: dict[str, str] = {}
    for part in scope.get("query_string", b"").decode("latin-1").split("&"):
        if not part:
            continue
        name, value = (unquote_plus(text) for text in part.partition("=")[::2])
        if name in found:
            raise InvalidRequest(f"{name[:64]} is there twice", param=name[:64])
        if _UNSTORABLE.search(name + value):
            raise InvalidRequest("the query holds a character that cannot be meant", param=name[:64])
        found[name] = value
    return found


async def read_body(receive: Receive, headers: Mapping[str, str], most: int) -> bytes:
    """The whole body. Raises RequestTooLarge as soon as that is known, ClientGone when it breaks off."""
    declared = headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > most):
        raise RequestTooLarge(f"the body is over {most} bytes")
    parts: list[bytes] = []
    size = 0
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise RequestTooLarge(f"the body is over {most} bytes")
        if not message.get("more_body"):
            return b"".join(parts)


async def send_reply(send: Send, reply: Reply, request_id: str) -> None:
    """Status, headers and body at once."""
    body = reply.encoded()
    headers = {
        "content-type": "application/json",
        "cache-control": "no-store",
        **reply.headers,
        "content-length": str(len(body)),
        "x-faregate-request-id": request_id,
    }
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": False})
