from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.auth.keys import hash_secret, make, make_admin, parse, same
from faregate.errors import InvalidApiKey


@pytest.mark.parametrize("test", [False, True])
def test_a_made_key_parses_to_its_id(test: bool) -> None:
    key = make(test=test)
    parsed = parse(key.secret)
    assert (parsed.id, parsed.test) == (key.id, test)
    assert key.secret.startswith(f"{key.prefix}_")
    assert key.prefix == f"fg_{'test' if test else 'live'}_{key.id}"


def test_the_hash_is_of_the_whole_key() -> None:
    key = make()
    assert key.secret_hash == sha256(key.secret.encode()).hexdigest()


def test_no_two_keys_are_alike() -> None:
    made = [make() for _ in range(200)]
    assert len({key.id for key in made}) == len({key.secret for key in made}) == 200


def test_rotation_keeps_the_id_and_changes_the_secret() -> None:
    old = make()
    new = make(key_id=old.id)
    assert new.id == old.id
    assert new.secret != old.secret
    assert not same(new.secret_hash, old.secret_hash)


def test_a_key_never_shows_its_secret() -> None:
    key = make()
    assert key.secret not in repr(key)
    assert key.secret_hash not in repr(key)


def test_an_admin_key_is_long_enough_and_is_no_ordinary_key() -> None:
    assert len(make_admin()) >= 32
    with pytest.raises(InvalidApiKey):
        parse(make_admin())


GOOD = f"fg_live_{'0' * 16}_{'a' * 43}"


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "fg_live_",
        GOOD + "a",
        GOOD[:-1],
        GOOD[:-1] + "\n",
        GOOD[:-1] + "é",
        GOOD[:-1] + "٣",
        GOOD.upper(),
        GOOD.replace("live", "prod"),
        GOOD.replace("0000", "000g"),
        " " + GOOD[1:],
        "sk-" + "a" * 60,
        "a" * 1_000_000,
    ],
)
def test_anything_else_is_refused(bad: str) -> None:
    assert parse(GOOD).id == "0" * 16
    with pytest.raises(InvalidApiKey):
        parse(bad)


@given(st.text())
def test_parse_and_hash_stand_any_text(text: str) -> None:
    assert len(hash_secret(text)) == 64
    with pytest.raises(InvalidApiKey):
        parse(text)


def test_lone_surrogates_of_a_broken_header_are_hashed() -> None:
    assert len(hash_secret("\udcff" * 40)) == 64
