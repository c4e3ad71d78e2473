from __future__ import annotations

from typing import Any

import pytest

from faregate import settings
from faregate.errors import ConfigError
from faregate.meter import meter_for
from faregate.providers.registry import KINDS, ProviderConfig, build_providers, sandbox_name
from faregate.providers.upstream import Upstream
from faregate.settings import Settings


def configs(**providers: dict[str, Any]) -> dict[str, ProviderConfig]:
    return {**Settings.model_validate({"providers": providers}).providers}


def test_configured_providers_are_built_by_name() -> None:
    found = configs(a={"kind": "openai", "api_key": "k", "retries": 4, "on_disconnect": "cancel"})
    built = build_providers(found, Upstream(), meter_for)
    assert list(built) == ["a", "sandbox"]
    provider = built["a"]
    assert (provider.name, provider.kind, provider.retries, provider.on_disconnect) == ("a", "openai", 4, "cancel")


def test_the_configured_sandbox_is_the_test_keys() -> None:
    built = build_providers(configs(play={"kind": "sandbox"}), Upstream(), meter_for)
    assert list(built) == ["play"]
    assert sandbox_name(built) == "play"


def test_the_sandboxs_name_is_taken() -> None:
    with pytest.raises(ConfigError, match="sandbox"):
        build_providers(configs(sandbox={"kind": "openai"}), Upstream(), meter_for)


def test_every_kind_of_the_settings_can_be_built() -> None:
    assert KINDS.keys() == settings.PROVIDERS.keys() == settings.IMPLEMENTED_KINDS
