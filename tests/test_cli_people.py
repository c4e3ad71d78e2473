"""Users, memberships and services on the command line, on the data directory and over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli_support import faregate, running


def said(*words: str, data_dir: Path) -> Any:
    done = faregate(*words, "--json", data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    assert faregate("keys", "create", "k", data_dir=tmp_path).returncode == 0
    return tmp_path


def test_a_user_gets_a_role(book: Path) -> None:
    user = said("users", "create", "Ann@Example.com", data_dir=book)
    member = said("memberships", "create", user["id"], "admin", data_dir=book)
    assert (user["email"], member["userId"], member["role"]) == ("ann@example.com", user["id"], "admin")
    assert user["id"] in faregate("users", "list", data_dir=book).stdout
    assert member["id"] in faregate("memberships", "list", data_dir=book).stdout


def test_a_service(book: Path) -> None:
    made = said("services", "create", "batch", data_dir=book)
    assert made["id"] in faregate("services", "list", data_dir=book).stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["users", "create", "nobody"], "email"),
        (["memberships", "create", "no-such-user", "admin"], "user"),
        (["memberships", "create", "u", "king"], "role"),
        (["services", "create", ""], "name"),
    ],
)
def test_what_is_wrong_is_named(words: list[str], says: str, book: Path) -> None:
    done = faregate(*words, data_dir=book)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_the_same_on_a_server(tmp_path: Path) -> None:
    admin = "an-admin-key-that-is-long-enough-for-all"
    with running("serve", data_dir=tmp_path / "server", FAREGATE_ADMIN_KEY=admin) as server:
        at = ("--url", server.url, "--key", admin)
        for kind, word in (("users", "a@example.com"), ("services", "batch")):
            made = said(kind, "create", word, *at, data_dir=tmp_path)
            assert made["id"] in faregate(kind, "list", *at, data_dir=tmp_path).stdout
