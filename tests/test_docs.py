"""What the documentation says is there: links, commands, routes, metrics, settings, snippets."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from faregate.api import routes
from faregate.cli import COMMANDS, _load
from faregate.gateway.doors import DOORS, PATTERNS
from faregate.gateway.kept import ROUTES
from faregate.gateway.metrics import Metrics
from faregate.modes import MODES
from faregate.settings import IMPLEMENTED_KINDS, PROVIDERS, Settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
BY_NAME = [str(page.relative_to(ROOT)) for page in PAGES]
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
REFERENCE = ROOT / "docs" / "reference"


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of one language."""
    return [text for name, text in BLOCK.findall(page.read_text()) if name == language]


def commands(page: Path) -> Iterator[list[str]]:
    """Every `./scripts/…` or `faregate …` of its shell blocks, in words: at a line's start, in $( ) or after a pipe."""
    for block in blocks(page, "bash"):
        text = re.sub(r"\\\n", " ", block)
        for found in re.finditer(r"(?:^|\$\(|\| *)((?:\./scripts/|faregate )[^\n|)#]*)", text, re.MULTILINE):
            yield shlex.split(found[1])


def anchors(page: Path) -> set[str]:
    """The names that a page's headings can be linked by."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# Links and snippets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=BY_NAME)
def test_relative_links_resolve(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        found = page.parent / name if name else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=BY_NAME)
def test_python_snippets_compile(page: Path) -> None:
    for place, snippet in enumerate(blocks(page, "python")):
        compile(snippet, f"{page.name}, snippet {place}", "exec")


def test_the_readme_fits() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 200


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "decisions").glob("000[13456]-*.md")), ids=lambda p: p.stem)
def test_decisions_are_short(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= 40


# Commands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=BY_NAME)
def test_commands_exist(page: Path) -> None:
    for words in commands(page):
        if words[0] == "faregate":
            _check_command(words[1:])
        else:
            script = ROOT / words[0]
            assert script.is_file(), words
            assert script.stat().st_mode & 0o111, words


def test_the_readme_names_commands() -> None:
    named = [words[0] for words in commands(ROOT / "README.md")]
    assert "./scripts/serve" in named
    assert "./scripts/test" in named
    assert "faregate" in named


def _check_command(words: list[str]) -> None:
    """The command, its subcommand and every option it is given."""
    assert words[0] in COMMANDS, words
    command = _load(words[0])
    if hasattr(command, "commands"):
        assert words[1] in command.commands, words
        command = command.commands[words[1]]
    known = {name for parameter in command.params for name in parameter.opts}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert given <= known, words


def test_every_command_is_in_the_reference() -> None:
    text = (REFERENCE / "cli.md").read_text()
    for name in COMMANDS:
        assert f"`faregate {name}" in text, name
    for script in (ROOT / "scripts").iterdir():
        assert f"./scripts/{script.name}" in text, script.name


def test_subcommands_are_in_the_reference() -> None:
    text = (REFERENCE / "cli.md").read_text()
    for name in COMMANDS:
        for under in getattr(_load(name), "commands", ()):
            assert f"`faregate {name} {under}" in text, (name, under)


# The surface --------------------------------------------------------------------------------------------


def doors() -> set[str]:
    """The data plane's paths; of a name's two versions the first."""
    named = {pattern.path for pattern in PATTERNS if pattern.prefix.startswith(("/v1beta/", "/model/"))}
    return {f"POST {path}" for path in {*DOORS, *named}}


def test_every_route_is_in_the_reference() -> None:
    text = (REFERENCE / "api.md").read_text()
    named = {f"{rule.method} {rule.path}" for rule in routes.table()} | doors() | set(ROUTES)
    assert not {name for name in named if f"`{name}`" not in text}


def test_the_reference_names_no_other_route() -> None:
    text = (REFERENCE / "api.md").read_text()
    named = {f"{rule.method} {rule.path}" for rule in routes.table()} | doors() | set(ROUTES)
    said = re.findall(r"^\| `((?:GET|POST|PATCH|DELETE) [^`?]+)(?:\?[^`]*)?`", text, re.MULTILINE)
    assert set(said) <= named


def test_every_metric_is_in_the_reference() -> None:
    text = (REFERENCE / "metrics.md").read_text()
    for name in metric_names(Metrics().registry):
        assert f"`{name}`" in text, name


def test_every_word_of_trouble_is_in_the_reference() -> None:
    text = (REFERENCE / "metrics.md").read_text()
    sources = (path.read_text() for path in (ROOT / "src" / "faregate").rglob("*.py"))
    words = {word for source in sources for word in re.findall(r"trouble\(\s*\"(\w+)\"", source)}
    assert words
    assert not {word for word in words if f"`{word}`" not in text}


def metric_names(registry: CollectorRegistry) -> set[str]:
    """As they are scraped: counters end in _total."""
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in registry.collect()
        if family.name.startswith("faregate_")
    }


def test_every_setting_is_in_the_reference() -> None:
    text = (REFERENCE / "configuration.md").read_text()
    missing = [name for name in setting_names() if f"`{name}`" not in text]
    assert not missing


def setting_names() -> Iterator[str]:
    """`section.key` and plain keys, without providers, whose keys stand beneath any name."""
    for name, field in Settings.model_fields.items():
        if name in ("admin_key", "providers"):
            continue
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from (f"{name}.{key}" for key in section.model_fields)
        else:
            yield name


def test_every_provider_key_is_in_the_reference() -> None:
    text = (REFERENCE / "configuration.md").read_text()
    for kind in PROVIDERS:
        assert kind in text, kind
        for key in PROVIDERS[kind].model_fields:
            assert f"`{key}`" in text, (kind, key)


def test_no_page_promises_a_provider_that_is_not_there() -> None:
    for page in PAGES:
        for block in blocks(page, "yaml"):
            kinds = set(re.findall(r"\bkind: ([a-z]+)", block))
            assert kinds <= IMPLEMENTED_KINDS, page.name


def test_every_degraded_mode_is_in_the_reference() -> None:
    text = (REFERENCE / "metrics.md").read_text()
    assert not [mode for mode in MODES if f"| `{mode}` |" not in text]
