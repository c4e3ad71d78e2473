"""What `/openapi.json` says, held against a live server by schemathesis; and the page that shows it, in a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from playwright.sync_api import Request, sync_playwright

from faregate.api.describe import described, description_of, success
from faregate.api.endpoint import Rule
from faregate.api.http import Reply
from faregate.api.openapi import document
from faregate.api.routes import table
from tests.cli_support import Running, running

ADMIN = "an-admin-key-of-at-least-32-characters"
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
BOUNDED_S = 45


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A real one, all defaults."""
    with running("serve", data_dir=tmp_path_factory.mktemp("api"), FAREGATE_ADMIN_KEY=ADMIN) as server:
        yield server


def _spec(server: Running) -> dict[str, Any]:
    with urlopen(f"{server.url}/openapi.json") as answer:
        found: dict[str, Any] = json.load(answer)
    return found


@pytest.mark.parametrize("rule", table(), ids=lambda rule: f"{rule.method} {rule.path}")
def test_every_route_is_described(rule: Rule) -> None:
    told = description_of(rule.handler)
    assert told is not None, "put @described(...) on the handler: api/describe.py"
    assert told.summary
    operation = document([rule])["paths"][rule.path.replace(":path}", "}")][rule.method.lower()]
    assert {"400", "500"} < set(operation["responses"])
    assert "401" in operation["responses"] or rule.public
    if rule.method == "POST" and not rule.public:
        assert "Idempotency-Key" in {parameter["name"] for parameter in operation["parameters"]}


def test_a_route_that_nobody_describes_is_refused() -> None:
    async def handler(services: object, request: object) -> Reply:
        raise AssertionError

    with pytest.raises(LookupError, match="GET /v1/new is not described"):
        document([Rule("GET", "/v1/new", (), handler)])
    described(answer=success())(handler)
    assert "/v1/new" in document([Rule("GET", "/v1/new", (), handler)])["paths"]


def test_every_reference_leads_somewhere(server: Running) -> None:
    spec = _spec(server)
    names = set(spec["components"]["schemas"])
    said = {text.rpartition("/")[2] for text in _references(spec)}
    assert said <= names
    assert {"/v1/chat/completions", "/v1/responses/{id}"} <= set(spec["paths"])


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)


def test_schemathesis_finds_nothing(server: Running, tmp_path: Path) -> None:
    """All of its checks; valid data may be refused only where a route says that it has rules besides its schema."""
    config = tmp_path / "schemathesis.toml"
    config.write_text("\n".join(_settings(_spec(server))))
    words = [
        f"{server.url}/openapi.json",
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        "8",
        "--max-time",
        str(BOUNDED_S),
    ]
    words += ["--generation-deterministic", "--generation-allow-x00", "false", "--no-shrink", "--warnings", "off"]
    words += ["--exclude-tag", "Data plane", "--header", f"Authorization: Bearer {ADMIN}", "--continue-on-failure"]
    found = subprocess.run(
        [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=BOUNDED_S * 3,
    )
    assert found.returncode == 0, found.stdout[-6_000:] + found.stderr[-500:]
    assert "Tested:" in found.stdout


def _settings(spec: dict[str, Any]) -> Iterator[str]:
    for path, verbs in spec["paths"].items():
        for verb, operation in verbs.items():
            if "Besides: " in operation["description"]:
                yield f'[[operations]]\ninclude-name = "{verb.upper()} {path}"'
                yield "checks.positive_data_acceptance.enabled = false"


@pytest.mark.skipif(not shutil.which(CHROMIUM), reason="scripts/services installs chromium")
def test_the_page_shows_every_route_and_asks_nobody_else(server: Running) -> None:
    asked: list[Request] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request))
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(f"{server.url}/docs")
        page.get_by_text("/v1/accounts/credits/add", exact=True).click()
        assert page.get_by_text('-d \'{"externalId":"user-7","amount":"250.5"').is_visible()
        shown = page.locator("#ops details.op").count()
        page.get_by_label("Find a route").fill("credits/add")
        assert page.locator("#menu a:visible").all_inner_texts() == ["POST /v1/accounts/credits/add"]
        browser.close()
    assert shown == sum(len(verbs) for verbs in _spec(server)["paths"].values())
    assert problems == []
    assert {request.url for request in asked} == {f"{server.url}/docs", f"{server.url}/openapi.json"}
