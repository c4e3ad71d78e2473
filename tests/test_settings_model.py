from __future__ import annotations

import pickle
from decimal import Decimal

import pytest
from pydantic import ValidationError

from faregate.settings import IMPLEMENTED_KINDS, PROVIDERS, Credits, Settings, load


def test_every_kind_parses() -> None:
    for kind in PROVIDERS:
        config = {"kind": kind, "base_url": "http://127.0.0.1:9"}
        assert Settings.model_validate({"providers": {"p": config}}).providers["p"].kind == kind
    assert set(PROVIDERS) >= IMPLEMENTED_KINDS


def test_settings_are_frozen_and_travel_to_workers() -> None:
    settings = load(None, {"OPENAI_API_KEY": "sk-1"})
    with pytest.raises(ValueError, match="frozen"):
        settings.server.port = 1
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize("url", ["redis://h", "rediss://:p@h:6380/1", "unix:///tmp/r.sock"])
def test_redis_urls(url: str) -> None:
    redis_url = Settings.model_validate({"redis_url": url}).redis_url
    assert redis_url is not None
    assert redis_url.get_secret_value() == url


@pytest.mark.parametrize("url", ["sqlite:///f.db", "postgresql://u:p@h/d", "postgresql+asyncpg://h/d"])
def test_database_urls(url: str) -> None:
    assert Settings.model_validate({"database_url": url}).book_url == url


@pytest.mark.parametrize(("share", "permille"), [("0.25", 250), ("1", 1000), ("0.001", 1), ("0.3339", 333)])
def test_the_share_in_thousandths(share: str, permille: int) -> None:
    assert Credits(share=Decimal(share)).share_permille == permille


def test_the_three_clocks_shorten_together() -> None:
    timing = Settings.model_validate({"timing": {"heartbeat_s": "0.2"}}).timing
    assert timing.deadline_s == pytest.approx(0.6)
    assert timing.sweep_s == timing.heartbeat_s == 0.2


def test_an_api_key_is_stripped_of_the_line_end_of_its_file() -> None:
    config = {"kind": "openai", "api_key": "sk-1\n"}
    api_key = Settings.model_validate({"providers": {"p": config}}).providers["p"].api_key
    assert api_key is not None
    assert api_key.get_secret_value() == "sk-1"


def test_a_model_of_an_unknown_provider_is_refused_without_a_file_too() -> None:
    with pytest.raises(ValidationError, match="no provider is called p"):
        Settings.model_validate({"models": {"fast": ["p/m"]}})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"access_key_id": "AKIA"}, "go together"),
        ({"session_token": "t"}, "needs access_key_id"),
        ({"api_key": "k", "profile": "p"}, "api_key and profile exclude one another"),
    ],
)
def test_credentials_of_aws_are_whole_and_of_one_kind(given: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Settings.model_validate({"providers": {"p": {"kind": "bedrock", **given}}})


def test_a_kinds_own_keys() -> None:
    config = Settings.model_validate({"providers": {"p": {"kind": "azure", "base_url": "http://127.0.0.1:9"}}})
    assert config.providers["p"].own == {
        "api_version": "2024-10-21",
        "deployments": {},
        "deployment_type": "global",
        "entra_token": None,
        "entra": False,
        "entra_scope": "https://cognitiveservices.azure.com/.default",
    }


def test_an_identity_provider_needs_an_audience() -> None:
    with pytest.raises(ValidationError, match="audience is needed with jwks_url"):
        Settings.model_validate({"auth": {"jwks_url": "https://id.example.com/keys"}})
