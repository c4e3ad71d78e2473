"""The control plane on one page: every route with the scopes that open it (any one will do; none: public)."""

from __future__ import annotations

from typing import Any

from starlette.routing import BaseRoute, Route

from faregate.api import (
    accounts,
    admin_keys,
    admin_memberships,
    admin_organizations,
    admin_prices,
    admin_reads,
    admin_services,
    admin_users,
    app_login,
    app_passwords,
    health,
    models,
    openapi,
    plans,
    reservations,
    transactions,
    usage,
    usage_record,
)
from faregate.api.dialects import agent_queries, external_usage
from faregate.api.dialects import transactions as dialect_transactions
from faregate.api.endpoint import Endpoint, Handler, Rule, not_found
from faregate.api.services import Services
from faregate.auth.scopes import Scope

Scopes = tuple[Scope, ...]
_READ: Scopes = ("usage:read",)
_MONEY: Scopes = ("credits:write",)
_EITHER: Scopes = ("usage:read", "credits:write")
_RECORD: Scopes = ("usage:write",)
_TOLD: Scopes = ("usage:write", "usage:read")
_MODELS: Scopes = ("proxy", "usage:read")
_ADMIN: Scopes = ("admin",)


def table() -> tuple[Rule, ...]:
    """Every rule, in the order of the contract."""
    catalogue, readiness, documents = models.Models(), health.Readiness(), openapi.Documents(table)
    return (
        # Operations
        Rule("GET", "/health/live", (), health.live),
        Rule("GET", "/health/ready", (), readiness.ready),
        Rule("GET", "/metrics", (), health.metrics),
        Rule("GET", "/openapi.json", (), documents.openapi),
        Rule("GET", "/docs", (), documents.page),
        # Accounts and credits
        Rule("POST", "/v1/accounts/create", _MONEY, accounts.create),
        Rule("GET", "/v1/accounts", _MONEY, accounts.list_all),
        Rule("GET", "/v1/accounts/get", _MONEY, accounts.get),
        Rule("GET", "/v1/accounts/balance", _MONEY, accounts.balance),
        Rule("POST", "/v1/accounts/credits/add", _MONEY, accounts.credits_add),
        Rule("POST", "/v1/accounts/credits/deduct", _MONEY, accounts.credits_deduct),
        Rule("GET", "/v1/plans", _MONEY, plans.list_all),
        Rule("POST", "/v1/plans/create", _MONEY, plans.create),
        Rule("POST", "/v1/plans/archive", _MONEY, plans.archive),
        Rule("POST", "/v1/plans/activate", _MONEY, plans.activate),
        Rule("POST", "/v1/accounts/plans/assign", _MONEY, plans.assign),
        Rule("GET", "/v1/accounts/plans", _MONEY, plans.of_account),
        Rule("GET", "/v1/transactions", _EITHER, transactions.list_all),
        Rule("POST", "/v1/transactions/create", _MONEY, transactions.create),
        # Reservations
        Rule("POST", "/v1/reservations/create", _MONEY, reservations.create),
        Rule("GET", "/v1/reservations", _MONEY, reservations.list_all),
        Rule("POST", "/v1/reservations/confirm", _MONEY, reservations.confirm),
        Rule("POST", "/v1/reservations/cancel", _MONEY, reservations.cancel),
        Rule("POST", "/v1/reservations/extend", _MONEY, reservations.extend),
        # Usage and models
        Rule("POST", "/v1/usage/record", _RECORD, usage_record.record),
        Rule("GET", "/v1/usage", _READ, usage.list_all),
        Rule("GET", "/v1/usage/{id}", _READ, usage.get),
        Rule("GET", "/v1/models", _MODELS, catalogue.list_all),
        Rule("POST", "/v1/models/calculate", _MODELS, models.calculate),
        Rule("GET", "/v1/models/{id:path}", _MODELS, models.get),
        # Other services' dialects
        Rule(
            "POST",
            "/usage/transactions",
            _RECORD,
            dialect_transactions.post,
            say=dialect_transactions.say,
            max_body_bytes=dialect_transactions.MAX_BODY_BYTES,
        ),
        Rule(
            "POST",
            "/api/usage/increment-agent-queries",
            _RECORD,
            agent_queries.increment,
            say=agent_queries.say,
        ),
        Rule("GET", "/api/consumption-events/summary", _TOLD, agent_queries.summary, say=agent_queries.say),
        Rule("GET", "/api/consumption-events", _TOLD, agent_queries.events, say=agent_queries.say),
        # Users
        Rule("POST", "/api/auth/app-login", (), app_login.login, say=external_usage.say),
        _users("POST", "/api/auth/app-passwords", app_passwords.create_own),
        _users("GET", "/api/auth/app-passwords", app_passwords.list_own),
        _users("DELETE", "/api/auth/app-passwords/{id}", app_passwords.revoke_own),
        _users("POST", "/api/billing/external-usage", external_usage.post),
        _users("GET", "/api/billing/user", external_usage.billing),
        # Administration
        Rule("POST", "/v1/admin/organizations", _ADMIN, admin_organizations.create),
        Rule("GET", "/v1/admin/organizations", _ADMIN, admin_organizations.list_all),
        Rule("GET", "/v1/admin/organizations/{id}", _ADMIN, admin_organizations.get),
        Rule("PATCH", "/v1/admin/organizations/{id}", _ADMIN, admin_organizations.patch),
        Rule("POST", "/v1/admin/users", _ADMIN, admin_users.create),
        Rule("GET", "/v1/admin/users", _ADMIN, admin_users.list_all),
        Rule("GET", "/v1/admin/users/{id}", _ADMIN, admin_users.get),
        Rule("PATCH", "/v1/admin/users/{id}", _ADMIN, admin_users.patch),
        Rule("DELETE", "/v1/admin/users/{id}", _ADMIN, admin_users.delete),
        Rule("POST", "/v1/admin/users/{id}/app-passwords", _ADMIN, app_passwords.create),
        Rule("GET", "/v1/admin/users/{id}/app-passwords", _ADMIN, app_passwords.list_all),
        Rule("GET", "/v1/admin/users/{id}/app-passwords/{passwordId}", _ADMIN, app_passwords.get),
        Rule("DELETE", "/v1/admin/users/{id}/app-passwords/{passwordId}", _ADMIN, app_passwords.revoke),
        Rule("POST", "/v1/admin/memberships", _ADMIN, admin_memberships.create),
        Rule("GET", "/v1/admin/memberships", _ADMIN, admin_memberships.list_all),
        Rule("GET", "/v1/admin/memberships/{id}", _ADMIN, admin_memberships.get),
        Rule("PATCH", "/v1/admin/memberships/{id}", _ADMIN, admin_memberships.patch),
        Rule("DELETE", "/v1/admin/memberships/{id}", _ADMIN, admin_memberships.delete),
        Rule("POST", "/v1/admin/services", _ADMIN, admin_services.create),
        Rule("GET", "/v1/admin/services", _ADMIN, admin_services.list_all),
        Rule("GET", "/v1/admin/services/{id}", _ADMIN, admin_services.get),
        Rule("PATCH", "/v1/admin/services/{id}", _ADMIN, admin_services.patch),
        Rule("DELETE", "/v1/admin/services/{id}", _ADMIN, admin_services.delete),
        Rule("POST", "/v1/admin/keys", _ADMIN, admin_keys.create),
        Rule("GET", "/v1/admin/keys", _ADMIN, admin_keys.list_all),
        Rule("GET", "/v1/admin/keys/{id}", _ADMIN, admin_keys.get),
        Rule("PATCH", "/v1/admin/keys/{id}", _ADMIN, admin_keys.patch),
        Rule("DELETE", "/v1/admin/keys/{id}", _ADMIN, admin_keys.revoke),
        Rule("POST", "/v1/admin/keys/{id}/rotate", _ADMIN, admin_keys.rotate),
        Rule("POST", "/v1/admin/prices", _ADMIN, admin_prices.create),
        Rule("GET", "/v1/admin/prices", _ADMIN, admin_prices.list_all),
        Rule("GET", "/v1/admin/prices/{id}", _ADMIN, admin_prices.get),
        Rule("DELETE", "/v1/admin/prices/{id}", _ADMIN, admin_prices.delete),
        Rule("GET", "/v1/admin/audit", _ADMIN, admin_reads.audit),
        Rule("GET", "/v1/admin/holds", _ADMIN, admin_reads.holds),
    )


def _users(method: str, path: str, handler: Handler) -> Rule:
    """A line that a user's token opens."""
    return Rule(method, path, (), handler, say=external_usage.say, person=True)


def routes(services: Services) -> list[BaseRoute]:
    """The table as Starlette routes, and at their end the 404 of everything else: add other routes before them."""
    by_path: dict[str, dict[str, Rule]] = {}
    for rule in table():
        by_path.setdefault(rule.path, {})[rule.method] = rule
    found: list[BaseRoute] = [Route(path, _asgi(Endpoint(path, rules, services))) for path, rules in by_path.items()]
    return [*found, Route("/{path:path}", _asgi(_NotFound()))]


class _NotFound:
    """Starlette takes objects for ASGI callables, and functions for handlers."""

    __call__ = staticmethod(not_found)


def _asgi(app: object) -> Any:
    return app
