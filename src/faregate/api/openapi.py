"""`/openapi.json`: the route table and what its handlers say of themselves (describe.py), as OpenAPI 3.1.

The data plane is told in short: its bodies are the vendors'.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel

from faregate import __version__
from faregate.api.describe import ANY_OBJECT, COMPONENTS, ERROR, Description, Schema, described, description_of
from faregate.api.endpoint import Rule
from faregate.api.errors import error_reply
from faregate.api.http import Reply, Request, encode
from faregate.api.idempotency import MAX_KEY
from faregate.api.services import Services

_REF = "#/components/schemas/{model}"
_ERRORS = {
    400: "A field, a header or the body cannot be meant; `param` names it.",
    401: "No key, or one that is unknown, revoked or expired.",
    402: "The account has too few credits.",
    403: "The key lacks the scope, or may not act for this organization or account.",
    404: "No such thing, or not the caller's.",
    409: "The state contradicts the request, or the Idempotency-Key came with another one.",
    413: "The body is too large.",
    429: "A limit of the key is used up; see Retry-After.",
    500: "A defect of the gateway.",
    503: "Redis or the database is out of reach; try again.",
}
_READ, _WRITTEN = (400, 401, 403, 404, 413, 500, 503), tuple(_ERRORS)
_MORE = r"\u00a1-\u00ac\u00ae-\u00ff"
_IDEMPOTENCY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A repeat within 24 hours gets the first answer; another request with it is a 409.",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_KEY,
        "pattern": f"^[!-~{_MORE}]([ -~{_MORE}]*[!-~{_MORE}])?$",
    },
}
_REQUEST_ID = {"schema": {"type": "string"}, "description": "Names this request in logs and in usage."}
_SECURITY: list[dict[str, list[str]]] = [{"bearer": []}, {"apiKey": []}]
_TAGS = {"accounts": "Accounts", "admin": "Administration", "health": "Operations"}
_TAGS |= dict.fromkeys(("metrics", "openapi.json", "docs"), "Operations")

Door = tuple[str, str, str]
"""Method, path, what it is."""


class Documents:
    """The handlers of the two documents, over a table that is asked for when it is whole."""

    def __init__(self, table: Callable[[], Sequence[Rule]]) -> None:
        self._table = table
        self._made: bytes | None = None

    @described(answer={"type": "object"})
    async def openapi(self, services: Services, request: Request) -> Reply:
        """This description."""
        if self._made is None:
            self._made = encode(document(self._table(), services.doors))
        return Reply(body=self._made)

    @described(answer={"type": "string"}, content="text/html; charset=utf-8")
    async def page(self, services: Services, request: Request) -> Reply:
        """The same for people: a page that needs no network but this server."""
        headers = {
            "content-type": "text/html; charset=utf-8",
            "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
            " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        }
        return Reply(body=_page(), headers=headers)


@lru_cache(maxsize=1)
def _page() -> bytes:
    return files("faregate.api").joinpath("docs.html").read_bytes()


def document(table: Sequence[Rule], doors: Sequence[Door] = ()) -> dict[str, Any]:
    """The whole description. Raises LookupError for a route that nobody has described."""
    schemas: dict[str, Schema] = {}
    paths: dict[str, dict[str, Any]] = {}
    for rule in table:
        path = rule.path.replace(":path}", "}")
        paths.setdefault(path, {})[rule.method.lower()] = _operation(rule, schemas)
    for method, path, what in doors:
        paths.setdefault(path, {}).setdefault(method.lower(), _door(path, what))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Faregate", "version": __version__, "description": _ABOUT},
        "security": _SECURITY,
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer <key>"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
            "schemas": dict(sorted({**COMPONENTS, **schemas}.items())),
        },
    }


_ABOUT = (
    "Credits, usage and prices of LLM calls. Credits and USD in answers are JSON numbers, printed exactly from "
    "decimals; in requests they may be numbers or decimal strings. Moments are ISO 8601, UTC unless they say otherwise."
)


def _operation(rule: Rule, schemas: dict[str, Schema]) -> dict[str, Any]:
    told = description_of(rule.handler)
    if told is None:
        raise LookupError(f"{rule.method} {rule.path} is not described: @described(...) on its handler")
    found: dict[str, Any] = {
        "operationId": f"{rule.method.lower()}{rule.path}".replace("/", "_").replace("{", "").replace("}", ""),
        "tags": [_tag(rule.path)],
        "summary": told.summary.split("\n")[0].split(". ")[0].rstrip(".:") + ".",
        "description": _text(rule, told),
        "parameters": _parameters(rule, told),
        "responses": _responses(rule, told),
    }
    if told.body is not None:
        content: dict[str, Any] = {"schema": _schema(told.body, schemas)}
        if told.example is not None:
            content["example"] = told.example
        found["requestBody"] = {"required": True, "content": {"application/json": content}}
    if rule.public:
        found["security"] = []
    return found


def _tag(path: str) -> str:
    words = [word for word in path.split("/") if word and word not in ("v1", "api")]
    return _TAGS.get(words[0], words[0].replace("-", " ").replace(".json", "").capitalize())


def _text(rule: Rule, told: Description) -> str:
    parts = [told.summary]
    if rule.person:
        parts.append("Opened by a user's token, and by no key.")
    if rule.scopes:
        parts.append(f"Scope: {' or '.join(f'`{scope}`' for scope in rule.scopes)}.")
    if told.rules:
        parts.append(f"Besides: {told.rules}.")
    return "\n\n".join(parts)


def _parameters(rule: Rule, told: Description) -> list[Schema]:
    found: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1, "maxLength": 200}}
        for name in re.findall(r"{(\w+)", rule.path)
    ]
    if told.query is not None:
        model = told.query.model_json_schema(by_alias=True, ref_template=_REF)
        required = model.get("required", ())
        found += [
            {"name": name, "in": "query", "required": name in required, "schema": _not_null(schema)}
            for name, schema in model["properties"].items()
        ]
    found += told.parameters
    return [*found, _IDEMPOTENCY] if rule.method == "POST" and not rule.public else found


def _not_null(schema: Schema) -> Schema:
    """A query has no null: what may be left out is not required."""
    plain = {name: part for name, part in schema.items() if name not in ("title", "default")}
    kinds = [kind for kind in plain.get("anyOf", ()) if kind != {"type": "null"}]
    if kinds:
        del plain["anyOf"]
        plain |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    if schema.get("default") is not None:
        plain["default"] = schema["default"]
    return plain


def _responses(rule: Rule, told: Description) -> dict[str, Any]:
    found = {str(told.status): _response("Done.", told.answer, told.content)}
    for status, schema in told.answers.items():
        found[str(status)] = _response(_ERRORS.get(status, "Done in part."), schema)
    statuses: Sequence[int] = _READ if rule.method == "GET" else _WRITTEN
    if rule.public and rule.method == "GET":
        statuses = (400, 413, 500)
    usual = told.error is not ERROR or rule.say is error_reply
    for status in statuses:
        found.setdefault(str(status), _response(_ERRORS[status], told.error if usual else ANY_OBJECT))
    return found


def _response(text: str, schema: Schema, content: str = "application/json") -> dict[str, Any]:
    headers = {"x-faregate-request-id": _REQUEST_ID}
    return {"description": text, "headers": headers, "content": {content.split(";")[0]: {"schema": schema}}}


def _schema(body: type[BaseModel] | Schema, schemas: dict[str, Schema]) -> Schema:
    if isinstance(body, dict):
        return body
    schema = body.model_json_schema(by_alias=True, ref_template=_REF)
    schemas.update(schema.pop("$defs", {}))
    schemas[body.__name__] = schema
    return {"$ref": _REF.format(model=body.__name__)}


def _door(path: str, what: str) -> dict[str, Any]:
    names = ["model"] if "{model}" in path else ["id"] if "{id}" in path else []
    return {
        "operationId": f"call_{path}".replace("/", "_").replace("{", "").replace("}", "").replace(":", "_"),
        "tags": ["Data plane"],
        "summary": what,
        "description": "Scope: `proxy`. Body, answer and errors are those of the vendor whose path it is.",
        "parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names],
        "responses": {
            "200": {"description": "The provider's answer, as it came."},
            "default": {"description": "An error in the dialect of the path."},
        },
    }
