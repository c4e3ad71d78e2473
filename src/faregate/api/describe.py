"""What a route takes and answers, said beside its handler: `@described(...)`. `/openapi.json` is made of it.

    @described(body=NewAccount, answer=success(account=ACCOUNT), example={"name": "Ann"})
    async def create(services: Services, request: Request) -> Reply:

Bodies and queries are the pydantic models that the handler reads; answers are JSON Schemas, put together here. The
handler's docstring is the route's summary. A route without a description fails a test, and schemathesis holds the
answers of a live server against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel

Schema = dict[str, Any]
H = TypeVar("H", bound=Callable[..., Any])

COMPONENTS: dict[str, Schema] = {}
"""Schemas with a name, as their modules are imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """One route. `rules`: what a request must keep besides, that no schema says."""

    summary: str
    answer: Schema
    status: int = 200
    body: type[BaseModel] | Schema | None = None
    query: type[BaseModel] | None = None
    parameters: tuple[Schema, ...] = ()
    answers: Mapping[int, Schema] = field(default_factory=dict)
    """Other answers that are no error of the usual shape."""
    error: Schema
    content: str = "application/json"
    rules: str | None = None
    example: object = None
    """Of the body."""


_DESCRIBED: dict[object, Description] = {}


def described(*, answer: Schema, error: Schema | None = None, **more: Any) -> Callable[[H], H]:
    """Describe the handler below; see Description."""

    def keep(handler: H) -> H:
        summary = (handler.__doc__ or "").strip()
        _DESCRIBED[handler] = Description(summary=summary, answer=answer, error=error or ERROR, **more)
        return handler

    return keep


def description_of(handler: Any) -> Description | None:
    """What was said of it; None: nothing."""
    return _DESCRIBED.get(getattr(handler, "__func__", handler))


# Schemas ------------------------------------------------------------------------------------------------

TEXT: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
ANY: Schema = {}
ANY_OBJECT: Schema = {"type": "object"}
MOMENT: Schema = {"type": "string", "format": "date-time", "example": "2026-01-31T12:00:00.000000Z"}


def maybe(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def many(schema: Schema) -> Schema:
    """A list of them."""
    return {"type": "array", "items": schema}


def by_name(schema: Schema) -> Schema:
    """An object of them, under names that are data."""
    return {"type": "object", "additionalProperties": schema}


def choice(*values: str) -> Schema:
    """One of these texts."""
    return {"type": "string", "enum": list(values)}


def obj(*, optional: Mapping[str, Schema] | None = None, **fields: Schema) -> Schema:
    """An object: all of `fields`, some of `optional`, nothing else."""
    more = dict(optional or {})
    return {"type": "object", "properties": {**fields, **more}, "required": list(fields), "additionalProperties": False}


def with_fields(schema: Schema, *, optional: Mapping[str, Schema] | None = None, **fields: Schema) -> Schema:
    """An object of `obj` or `named` with more fields."""
    whole = COMPONENTS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    own = {name: part for name, part in whole["properties"].items() if name in whole["required"]}
    rest = {name: part for name, part in whole["properties"].items() if name not in whole["required"]}
    return obj(optional={**rest, **(optional or {})}, **own, **fields)


def named(name: str, schema: Schema) -> Schema:
    """A reference to the schema, which is kept under `name`."""
    COMPONENTS[name] = schema
    return {"$ref": f"#/components/schemas/{name}"}


def success(*, optional: Mapping[str, Schema] | None = None, **fields: Schema) -> Schema:
    """`{"success": true, …}`."""
    return obj(optional=optional, success={"type": "boolean", "const": True}, **fields)


ERROR = named(
    "Error",
    obj(
        success={"type": "boolean", "const": False},
        error=obj(
            code={"type": "string", "example": "invalid_request"},
            message={"type": "string", "example": "amount must be greater than 0"},
            optional={"param": {"type": "string", "example": "amount"}},
        ),
    ),
)
PAGINATION = named("Pagination", obj(limit=INTEGER, offset=INTEGER, totalCount=INTEGER, hasMore=FLAG))
CREDITS: Schema = {"type": "number", "description": "Credits, exact to six places.", "example": 12.5}
USD: Schema = {"type": "number", "description": "USD, exact.", "example": 0.00042}
CURSOR = maybe({"type": "string", "description": "Where the next page begins; null: there is none."})
