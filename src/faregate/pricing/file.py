"""The prices file: YAML whose numbers are read as text, so that 2.50 is exactly 2.50, with line numbers in errors."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path as FilePath

import yaml

from faregate.errors import ConfigError
from faregate.pricing.entries import EntryError, Path, PriceEntry, build

_LOADER: type[yaml.CBaseLoader] | type[yaml.BaseLoader] = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_MAX_DEPTH = 8


def read(path: str | FilePath) -> tuple[PriceEntry, ...]:
    """The entries of a prices file, in order. Raises ConfigError with file, line and what is allowed."""
    try:
        text = FilePath(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return parse(text, name=str(path))


def parse(text: str, *, name: str = "prices", shipped: bool = False) -> tuple[PriceEntry, ...]:
    """The entries of a prices file's text."""
    source = "supplement" if shipped else f"override:{FilePath(name).name}"
    return tuple(entry for entry, _ in _cards(text, name, source, shipped))


def read_fields(path: FilePath) -> tuple[Mapping[str, object], ...]:
    """The cards of a prices file as they are given, checked. Raises ConfigError like `read`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return tuple(fields for _, fields in _cards(text, str(path), "", shipped=False))


def _cards(text: str, name: str, source: str, shipped: bool) -> list[tuple[PriceEntry, dict[str, object]]]:
    lines: dict[Path, int] = {}
    try:
        node = yaml.compose(text, Loader=_LOADER)
        document = None if node is None else _plain(node, (), lines)
    except EntryError as error:
        raise ConfigError(f"{name}:{lines.get(error.path, 1)}: {error.message}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}:{_line_of(error)}: {_first_line(error)}") from None
    if document is None:
        return []
    if not isinstance(document, list):
        raise ConfigError(f"{name}:1: a prices file is a list of price cards, each starting with '- provider:'")
    return [_entry(name, at, part, lines, source, shipped) for at, part in enumerate(document)]


def supplement() -> tuple[PriceEntry, ...]:
    """The cards shipped in the package."""
    text = files("faregate.pricing").joinpath("data", "supplement.yaml").read_text(encoding="utf-8")
    return parse(text, name="supplement.yaml", shipped=True)


def _entry(
    name: str, at: int, part: object, lines: Mapping[Path, int], source: str, shipped: bool
) -> tuple[PriceEntry, dict[str, object]]:
    try:
        if not isinstance(part, dict):
            raise EntryError((), "a price card is a mapping with provider, model and rates")
        return build(part, source=source, shipped=shipped), part
    except EntryError as error:
        path: Path = (at, *error.path)
        while path not in lines:
            path = path[:-1]
        where = ".".join(str(step) for step in error.path)
        raise ConfigError(f"{name}:{lines[path]}: {where + ': ' if where else ''}{error.message}") from None


def _plain(node: yaml.Node, path: Path, lines: dict[Path, int]) -> object:
    """A YAML node as lists, dicts and texts; notes the line of every value."""
    lines.setdefault(path, node.start_mark.line + 1)
    if len(path) > _MAX_DEPTH:
        raise EntryError(path, "nested too deep")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, at), lines) for at, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, lines)
    plain = isinstance(node, yaml.ScalarNode) and not node.style
    return None if plain and node.value in ("", "~", "null") else node.value


def _mapping(node: yaml.MappingNode, path: Path, lines: dict[Path, int]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in node.value:
        where = (*path, str(key.value))
        twice = key.value in found
        lines[where] = key.start_mark.line + 1
        if twice or not isinstance(key, yaml.ScalarNode):
            raise EntryError(where, f"{key.value!r} stands twice" if twice else "keys must be texts")
        found[key.value] = _plain(value, where, lines)
    return found


def _line_of(error: yaml.YAMLError) -> int:
    mark = getattr(error, "problem_mark", None)
    return mark.line + 1 if mark is not None else 1


def _first_line(error: yaml.YAMLError) -> str:
    return f"not YAML: {getattr(error, 'problem', None) or 'unreadable'}"
