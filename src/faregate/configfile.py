"""YAML as an operator writes it: every value as text, every key with the line it stands on.

Scalars stay text until a settings model gives them a type: `0.25` never passes through a binary float,
`2024-10-21` stays a version, `010` is ten. `${NAME}` and `${NAME:-default}` are filled in after parsing, so
what is put in is a value and never YAML; `$${` is a literal `${`. Duplicate keys are an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from faregate.errors import ConfigError

KeyPath = tuple[str | int, ...]

_MAX_BYTES = 1_000_000
_MAX_DEPTH = 12
_CORE = "tag:yaml.org,2002:"
_NULL = f"{_CORE}null"
_NAMES = ("null", "bool", "int", "float", "str", "timestamp", "merge", "value", "map", "seq")
_TAGS = frozenset(_CORE + name for name in _NAMES)
_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}|\$\{[^}]*\}?")


@dataclass(slots=True)
class Document:
    """A parsed file: nested dicts, lists, texts and None, and where each key path stands (`file:line`)."""

    data: dict[str, object] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)


def read(path: Path, environ: Mapping[str, str]) -> Document:
    """Read a configuration file. Raises ConfigError naming file and line."""
    try:
        text = path.read_bytes()[: _MAX_BYTES + 1].decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError(f"{path}: {reason}") from None
    if len(text) > _MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {_MAX_BYTES} bytes")
    return parse(text, str(path), environ)


def parse(text: str, name: str, environ: Mapping[str, str]) -> Document:
    """Parse the text of a configuration file called `name`. Raises ConfigError naming file and line."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{name}{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError:
        raise ConfigError(f"{name}: not valid YAML: it holds a character that is not allowed") from None
    if root is None:
        return Document()
    reader = _Reader(name, environ)
    if not isinstance(root, MappingNode):
        raise reader.error(root, "must be a mapping of keys to values")
    data = reader.mapping(root, ())
    return Document(data, reader.origins)


class _Reader:
    """Walks a node tree; remembers the line of every key path."""

    def __init__(self, name: str, environ: Mapping[str, str]) -> None:
        self.name = name
        self.environ = environ
        self.origins: dict[KeyPath, str] = {}

    def mapping(self, node: MappingNode, path: KeyPath) -> dict[str, object]:
        found: dict[str, object] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                raise self.error(key_node, "a key must be plain text")
            key = str(key_node.value)
            if key in found:
                raise self.error(key_node, f"{dotted((*path, key))}: the key stands here twice")
            self.origins[*path, key] = self.place(key_node)
            found[key] = self.value(value_node, (*path, key))
        return found

    def value(self, node: Node, path: KeyPath) -> object:
        if len(path) > _MAX_DEPTH:
            raise self.error(node, "nested too deeply")
        if node.tag not in _TAGS:
            raise self.error(node, f"{dotted(path)}: tags such as {node.tag} are not supported")
        if isinstance(node, MappingNode):
            return self.mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.item(item, (*path, index)) for index, item in enumerate(node.value)]
        return None if node.tag == _NULL else self.text(node, path)

    def item(self, node: Node, path: KeyPath) -> object:
        self.origins[path] = self.place(node)
        return self.value(node, path)

    def text(self, node: Node, path: KeyPath) -> str:
        try:
            return interpolate(str(node.value), self.environ)
        except ConfigError as error:
            raise self.error(node, f"{dotted(path)}: {error.message}") from None

    def place(self, node: Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"

    def error(self, node: Node, message: str) -> ConfigError:
        return ConfigError(f"{self.place(node)}: {message}")


def interpolate(text: str, environ: Mapping[str, str]) -> str:
    """Fill in `${NAME}` and `${NAME:-default}` (unset or empty). ConfigError names an unset variable."""

    def fill(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        if match[1] is None:
            raise ConfigError("${…} must be ${NAME} or ${NAME:-default}")
        value = environ.get(match[1])
        if match[2] is not None:
            return value or match[3]
        if value is None:
            raise ConfigError(
                f"the environment variable {match[1]} is not set; ${{{match[1]}:-default}} gives a default"
            )
        return value

    return _VARIABLE.sub(fill, text)


def dotted(path: KeyPath) -> str:
    """A key path for people: `providers.openai.timeout_s`."""
    return ".".join(map(str, path))
