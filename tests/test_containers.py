"""Dockerfile and compose.yaml, linted by structure: no daemon is needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SECRET = re.compile(r"password|secret|_key$|token", re.IGNORECASE)
REQUIRED = re.compile(r"\$\{[A-Z_]+:\?[^}]+\}")
VARIABLE = re.compile(r"\$\{[^}]*\}")


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n", " ", DOCKERFILE)
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(words[0], words[1]) for words in lines]


def last_stage() -> list[tuple[str, str]]:
    """What the shipped image is made of."""
    found = instructions()
    starts = [place for place, (name, _) in enumerate(found) if name == "FROM"]
    return found[starts[-1] :]


def argument(name: str) -> str:
    """The last such instruction of the shipped stage."""
    return [text for found, text in last_stage() if found == name][-1]


def is_pinned(image: str) -> bool:
    """By a tag with a version in it, or by digest."""
    name, _, tag = image.partition(":")
    return bool(name) and (re.match(r"\d+\.\d+", tag) is not None or "@sha256:" in image)


# Dockerfile ---------------------------------------------------------------------------------------------


def test_the_image_does_not_run_as_root() -> None:
    assert argument("USER") not in ("root", "0")


def test_the_image_says_when_it_is_healthy() -> None:
    assert "/health/ready" in argument("HEALTHCHECK")


def test_base_images_are_pinned() -> None:
    bases = [text.split()[0] for name, text in instructions() if name == "FROM"]
    assert bases
    assert all(is_pinned(base) for base in bases)


def test_dependencies_come_by_hash_from_the_lock_file() -> None:
    installs = [text for name, text in instructions() if name == "RUN" and "pip install" in text]
    assert any("--require-hashes" in text and "requirements.lock" in text for text in installs)
    assert all("--no-deps" in text for text in installs)


def test_the_image_has_no_secret() -> None:
    assert not re.search(r"(api_key|admin_key|password|secret)\s*=", DOCKERFILE, re.IGNORECASE)


def test_the_image_is_stopped_politely() -> None:
    assert argument("STOPSIGNAL") == "SIGTERM"
    assert argument("ENTRYPOINT") == '["faregate"]'


# compose.yaml -------------------------------------------------------------------------------------------


def test_gateway_valkey_and_postgresql() -> None:
    assert SERVICES.keys() == {"gateway", "valkey", "postgres"}


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())
def test_every_service_is_watched_and_unprivileged(service: dict[str, Any]) -> None:
    assert service["healthcheck"]["test"]
    assert not service.get("privileged")
    assert not service.get("cap_add")
    assert service.get("network_mode") != "host"
    assert service.get("user") not in ("root", "0", 0)
    assert "no-new-privileges:true" in service["security_opt"]


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())
def test_images_are_pinned(service: dict[str, Any]) -> None:
    assert is_pinned(service["image"])


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())
def test_data_lives_in_named_volumes(service: dict[str, Any]) -> None:
    names = {volume.partition(":")[0] for volume in service["volumes"]}
    assert names <= COMPOSE["volumes"].keys()


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())
def test_secrets_come_from_the_environment(service: dict[str, Any]) -> None:
    for name, value in service.get("environment", {}).items():
        if SECRET.search(name):
            assert VARIABLE.fullmatch(value), name
    assert "://" not in "".join(map(str, service.get("command", ())))


def test_what_must_be_set_has_no_default() -> None:
    gateway, postgres = SERVICES["gateway"]["environment"], SERVICES["postgres"]["environment"]
    assert REQUIRED.fullmatch(gateway["FAREGATE_ADMIN_KEY"])
    assert REQUIRED.fullmatch(postgres["POSTGRES_PASSWORD"])
    assert REQUIRED.search(gateway["FAREGATE_DATABASE_URL"])


def test_valkey_neither_evicts_nor_forgets() -> None:
    command = " ".join(SERVICES["valkey"]["command"])
    assert "--maxmemory-policy noeviction" in command
    assert "--appendonly yes" in command


def test_the_stores_are_not_published() -> None:
    assert COMPOSE["networks"]["stores"]["internal"] is True
    for name in ("valkey", "postgres"):
        assert "ports" not in SERVICES[name]
        assert SERVICES[name]["networks"] == ["stores"]


def test_the_gateway_waits_for_healthy_stores() -> None:
    awaited = SERVICES["gateway"]["depends_on"]
    assert {name: each["condition"] for name, each in awaited.items()} == {
        "valkey": "service_healthy",
        "postgres": "service_healthy",
    }


def test_the_journal_is_kept_in_the_images_data_directory() -> None:
    (volume,) = SERVICES["gateway"]["volumes"]
    assert volume.partition(":")[2] == argument("VOLUME")
