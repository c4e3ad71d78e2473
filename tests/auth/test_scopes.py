from __future__ import annotations

from dataclasses import replace

import pytest

from faregate.auth.scopes import (
    ALL_SCOPES,
    SCOPES,
    allows_model,
    parse_models,
    parse_scopes,
    require,
    require_model,
)
from faregate.core.call import Principal
from faregate.errors import InvalidRequest, PermissionDenied

PRINCIPAL = Principal(
    key_id="k",
    rev=1,
    organization_id="org_1",
    account_id=None,
    default_account_id="acc_1",
    scopes=frozenset({"proxy"}),
)


def test_a_scope_the_key_has_is_let_through() -> None:
    require(PRINCIPAL, "proxy")


def test_a_missing_scope_is_named() -> None:
    with pytest.raises(PermissionDenied, match="credits:write"):
        require(PRINCIPAL, "credits:write")


def test_admin_implies_no_other_scope() -> None:
    with pytest.raises(PermissionDenied, match="proxy"):
        require(replace(PRINCIPAL, scopes=frozenset({"admin"})), "proxy")


def test_the_table_lists_every_scope() -> None:
    assert set(SCOPES) == ALL_SCOPES == {"proxy", "usage:read", "usage:write", "credits:write", "admin"}


@pytest.mark.parametrize(
    ("allowed", "model", "yes"),
    [
        (None, "anything", True),
        ((), "anything", False),
        (("gpt-5",), "gpt-5", True),
        (("gpt-5",), "gpt-5-mini", False),
        (("gpt-5*",), "gpt-5-mini", True),
        (("gpt-5*",), "gpt-5", True),
        (("gpt-5*",), "my-gpt-5", False),
        (("*",), "anything", True),
        (("openai/*", "fast"), "fast", True),
        (("openai/*",), "azure/gpt-5", False),
    ],
)
def test_models_match_exactly_or_by_prefix(allowed: tuple[str, ...] | None, model: str, yes: bool) -> None:
    assert allows_model(allowed, model) is yes


def test_a_model_that_is_not_allowed_is_named() -> None:
    with pytest.raises(PermissionDenied, match="gpt-5"):
        require_model(replace(PRINCIPAL, models=("fast",)), "gpt-5")


def test_scopes_are_parsed_as_a_set() -> None:
    assert parse_scopes(["proxy", "proxy", "admin"]) == {"proxy", "admin"}


@pytest.mark.parametrize("bad", [None, [], "proxy", ["root"], [["proxy"]], [1], {"proxy": True}])
def test_bad_scopes_are_refused(bad: object) -> None:
    with pytest.raises(InvalidRequest, match="usage:read"):
        parse_scopes(bad)


def test_absent_models_allow_all() -> None:
    assert parse_models(None) is None


def test_models_keep_their_order() -> None:
    assert parse_models(["fast", "openai/*"]) == ("fast", "openai/*")


@pytest.mark.parametrize("bad", [[], "fast", [""], ["a*b"], ["a**"], [1], ["x" * 201], ["m"] * 1001])
def test_bad_models_are_refused(bad: object) -> None:
    with pytest.raises(InvalidRequest, match="models"):
        parse_models(bad)
