from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.configfile import interpolate, parse, read
from faregate.errors import ConfigError


def test_scalars_stay_text() -> None:
    document = parse("a: 0.10\nb: 2024-10-21\nc: 010\nd: yes\ne:\nf: ''\n", "f.yaml", {})
    assert document.data == {"a": "0.10", "b": "2024-10-21", "c": "010", "d": "yes", "e": None, "f": ""}


def test_every_key_and_item_knows_its_line() -> None:
    document = parse("a:\n  b: [x,\n    y]\n", "f.yaml", {})
    assert document.origins == {
        ("a",): "f.yaml:1",
        ("a", "b"): "f.yaml:2",
        ("a", "b", 0): "f.yaml:2",
        ("a", "b", 1): "f.yaml:3",
    }


def test_an_empty_file_is_an_empty_document() -> None:
    assert parse("# nothing\n", "f.yaml", {}).data == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"^f.yaml:3: a: the key stands here twice$"),
        ("a:\n  b: 1\n  b: 2\n", r"^f.yaml:3: a\.b: the key stands here twice$"),
        ("a: [1\nb: 2\n", r"^f.yaml:\d: not valid YAML: "),
        ("- a\n", r"^f.yaml:1: must be a mapping of keys to values$"),
        ("a: 1\n---\nb: 2\n", r"^f.yaml:2: not valid YAML: "),
        ("a: 1\n? [b]\n: 2\n", r"^f.yaml:2: a key must be plain text$"),
        ("a: !!python/name:os.system ls\n", r"^f.yaml:1: a: tags such as .* are not supported$"),
        ("a: !env X\n", r"^f.yaml:1: a: tags such as !env are not supported$"),
        ("a: &a\n  b: *a\n", r"^f.yaml:\d: nested too deeply$"),
        ("a: \0\n", r"^f.yaml: not valid YAML: "),
        ("a: ${NOPE}\n", r"^f.yaml:1: a: the environment variable NOPE is not set"),
        ("a: ${not closed\n", r"^f.yaml:1: a: \$\{…\} must be"),
    ],
)
def test_mistakes_name_file_and_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text, "f.yaml", {})


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("${A}", "one"),
        ("x${A}y${B:-two}", "xoney" + "two"),
        ("${EMPTY}", ""),
        ("${EMPTY:-two}", "two"),
        ("${B:-}", ""),
        ("${A:-two}", "one"),
        ("${B:-http://h:1/}", "http://h:1/"),
        ("$${A}", "${A}"),
        ("$A costs $5", "$A costs $5"),
    ],
)
def test_interpolation(text: str, filled: str) -> None:
    assert interpolate(text, {"A": "one", "EMPTY": ""}) == filled


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_put_in_never_becomes_structure(value: str) -> None:
    document = parse('a: ${X}\nb: ["${X}"]\n', "f.yaml", {"X": value})
    assert document.data == {"a": value, "b": [value]}


def test_what_is_put_in_is_not_filled_in_again() -> None:
    assert interpolate("${A}", {"A": "${B}", "B": "secret"}) == "${B}"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file or directory"):
        read(tmp_path / "none.yaml", {})


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        read(tmp_path / "f.yaml", {})


def test_a_file_too_large(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("#" * 1_000_001)
    with pytest.raises(ConfigError, match="larger than"):
        read(tmp_path / "f.yaml", {})
