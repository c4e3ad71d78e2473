"""A running server, asked over its HTTP API with the standard library: the parent of `demo` uses it, too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

from faregate.errors import (
    ConfigError,
    Conflict,
    FaregateError,
    InvalidApiKey,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    StoreUnavailable,
)

_TIMEOUT_S = 30.0
_ERRORS: Mapping[int, type[FaregateError]] = {
    401: InvalidApiKey,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
}


class Api:
    """One server and the key it is asked with. Answers are the API's own JSON, numbers with a point as Decimal."""

    def __init__(self, url: str, key: str, *, direct: bool = False) -> None:
        """`direct`: past any proxy of the environment. Raises ConfigError for what is no http(s) URL."""
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ConfigError("--url must be like https://faregate.example.com")
        self._url = url.rstrip("/")
        self._key = key
        self._opener: OpenerDirector = build_opener(ProxyHandler({})) if direct else build_opener()

    def get(self, path: str, **query: object) -> Any:
        """Raises what the status means; a None is left out of the query."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._send("GET", f"{path}?{urlencode(given)}" if given else path, None, {})

    def post(self, path: str, body: Mapping[str, object], *, idempotency_key: str | None = None) -> Any:
        """Raises what the status means."""
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        given = {name: value for name, value in body.items() if value is not None}
        return self._send("POST", path, json.dumps(given, default=str).encode(), headers)

    def delete(self, path: str) -> Any:
        """Raises what the status means."""
        return self._send("DELETE", path, None, {})

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Any:
        request = Request(self._url + path, data=body, method=method)  # noqa: S310  # http(s) only, see __init__
        request.add_header("Authorization", f"Bearer {self._key}")
        request.add_header("Content-Type", "application/json")
        for name, value in headers.items():
            request.add_header(name, value)
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as response:
                return json.loads(response.read() or b"{}", parse_float=Decimal)
        except HTTPError as error:
            raise _meaning(error.code, error.read()) from None
        except (URLError, HTTPException, OSError) as error:
            raise StoreUnavailable(f"{self._url} does not answer: {getattr(error, 'reason', error)}") from None
        except ValueError:
            raise StoreUnavailable(f"{self._url} does not speak JSON: is it a Faregate server?") from None


def segment(text: str) -> str:
    """A piece of a path."""
    return quote(text, safe="")


def _meaning(status: int, body: bytes) -> FaregateError:
    """The server's refusal, in its own words."""
    try:
        message = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"the server answered {status}"
    kind = _ERRORS.get(status) or (InvalidRequest if 400 <= status < 500 else StoreUnavailable)
    return kind(message)


class RemoteDesk:
    """`desk.Desk` on a running server."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def create_key(self, body: Mapping[str, Any]) -> tuple[Any, str]:
        made = self._api.post("/v1/admin/keys", body)
        return made["key"], made["secret"]

    async def keys(self, organization: str | None) -> Any:
        return self._pages("/v1/admin/keys", "keys", organizationId=organization)

    async def rotate_key(self, key_id: str) -> tuple[Any, str]:
        made = self._api.post(f"/v1/admin/keys/{segment(key_id)}/rotate", {})
        return made["key"], made["secret"]

    async def revoke_key(self, key_id: str) -> None:
        self._api.delete(f"/v1/admin/keys/{segment(key_id)}")

    async def create_account(self, body: Mapping[str, Any]) -> Any:
        return self._api.post("/v1/accounts/create", body)["account"]

    async def accounts(self, organization: str | None) -> Any:
        found: list[Any] = []
        while True:
            page = self._api.get("/v1/accounts", organizationId=organization, limit=100, offset=len(found))
            found += page["accounts"]
            if not page["pagination"]["hasMore"]:
                return found

    async def account(self, organization: str | None, reference: str) -> Any:
        named = {"accountId": reference, "organizationId": organization}
        account = self._api.get("/v1/accounts/get", **named)["account"]
        balance = self._api.get("/v1/accounts/balance", **named)
        return account | {name: balance[name] for name in ("balance", "reserved", "available")}

    async def balance(self, organization: str | None, reference: str, at: str | None) -> Any:
        named = {"accountId": reference, "organizationId": organization, "at": at}
        found = self._api.get("/v1/accounts/balance", **named)
        return {name: value for name, value in found.items() if name != "success"}

    async def create_plan(self, body: Mapping[str, Any]) -> Any:
        return self._api.post("/v1/plans/create", body)["plan"]

    async def plans(self, organization: str | None) -> Any:
        found: list[Any] = []
        while True:
            page = self._api.get("/v1/plans", organizationId=organization, offset=len(found))
            found += page["plans"]
            if not page["pagination"]["hasMore"]:
                return found

    async def archive_plan(self, organization: str | None, plan_id: str) -> Any:
        return self._api.post("/v1/plans/archive", {"planId": plan_id, "organizationId": organization})["plan"]

    async def assign_plan(self, organization: str | None, reference: str, body: Mapping[str, Any]) -> Any:
        named = {"accountId": reference, "organizationId": organization}
        assigned = self._api.post("/v1/accounts/plans/assign", {**body, **named})["plans"][0]
        return {name: value for name, value in assigned.items() if name != "plan"}

    async def create_person(self, kind: str, body: Mapping[str, Any]) -> Any:
        return self._api.post(f"/v1/admin/{kind}", body)[kind.removesuffix("s")]

    async def people(self, kind: str, organization: str | None) -> Any:
        return self._pages(f"/v1/admin/{kind}", kind, organizationId=organization)

    async def prices(self, organization: str | None) -> Any:
        return self._pages("/v1/admin/prices", "prices", organizationId=organization)

    async def grant(self, organization: str | None, reference: str, body: Mapping[str, Any]) -> Any:
        named = {"accountId": reference, "organizationId": organization}
        granted = self._api.post("/v1/accounts/credits/add", {**body, **named})
        return {name: granted[name] for name in ("accountId", "externalId", "added", "balance", "transactionId")}

    async def reserve(self, organization: str | None, reference: str, body: Mapping[str, Any]) -> Any:
        named = {"accountId": reference, "organizationId": organization}
        return self._api.post("/v1/reservations/create", {**body, **named})["reservation"]

    async def reservations(self, organization: str | None, query: Mapping[str, Any]) -> Any:
        found: list[Any] = []
        while True:
            page = self._api.get("/v1/reservations", organizationId=organization, offset=len(found), **query)
            found += page["reservations"]
            if not page["pagination"]["hasMore"]:
                return found

    async def end_reservation(self, organization: str | None, verb: str, body: Mapping[str, Any]) -> Any:
        done = self._api.post(f"/v1/reservations/{verb}", {**body, "organizationId": organization})
        return {name: value for name, value in done.items() if name not in ("success", "reservation")}

    async def usage(self, query: Mapping[str, Any]) -> Any:
        return self._api.get("/v1/usage", **query)["usageRecords"]

    async def usage_page(self, query: Mapping[str, Any], cursor: str | None) -> tuple[Any, str | None]:
        page = self._api.get("/v1/usage", **query, cursor=cursor)
        return page["usageRecords"], page["nextCursor"]

    async def usage_summary(self, query: Mapping[str, Any]) -> Any:
        return self._api.get("/v1/usage", **query, summary="true")["summary"]

    async def holds(self) -> Any:
        return self._pages("/v1/admin/holds", "holds")

    def _pages(self, path: str, name: str, **query: object) -> list[Any]:
        """Every page of an administration list."""
        found: list[Any] = []
        cursor = None
        while True:
            page = self._api.get(path, cursor=cursor, **query)
            found += page[name]
            cursor = page.get("nextCursor")
            if not cursor:
                return found
