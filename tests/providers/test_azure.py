from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from faregate.core.call import Candidate
from faregate.errors import ConfigError, UpstreamError
from faregate.meter import meter_for
from faregate.ports import Provider
from faregate.providers import entra
from faregate.providers.registry import build_providers
from faregate.providers.upstream import Upstream
from faregate.settings import Settings
from tests.providers.test_openai import CARD, call
from tests.upstreams.scripted import Script, Scripted

KEY = "azure-resource-key-0123456789"


def place(model: str = "gpt-5") -> Candidate:
    return Candidate(provider="azure-2", kind="azure", model=model, card=CARD)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    yield upstream
    await upstream.close()


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    async with Scripted() as server:
        yield server


def provider(upstream: Upstream, server: Scripted, **options: Any) -> Provider:
    options = {"kind": "azure", "base_url": server.url.removesuffix("/v1"), "api_key": KEY, **options}
    providers = Settings.model_validate({"providers": {"azure-2": options}}).providers
    return build_providers({**providers}, upstream, meter_for)["azure-2"]


async def send(azure: Provider, asked: Any = None, model: str = "gpt-5", cap: int | None = None) -> None:
    await (await azure.send(asked or call(), place(model), cap)).close()


async def test_the_deployment_stands_in_the_url(upstream: Upstream, server: Scripted) -> None:
    await send(provider(upstream, server, deployments={"gpt-5": "my gpt/5"}))
    served = server.served[0]
    assert served.path == "/openai/deployments/my%20gpt%2F5/chat/completions?api-version=2024-10-21"
    assert served.headers["api-key"] == KEY
    assert "authorization" not in served.headers
    assert served.json["model"] == "my gpt/5"


async def test_a_model_that_is_not_listed_is_its_own_deployment(upstream: Upstream, server: Scripted) -> None:
    azure = provider(upstream, server, api_version="2025-01-01-preview")
    await send(azure, call("embeddings"), "text-embedding-3-small")
    path = "/openai/deployments/text-embedding-3-small/embeddings?api-version=2025-01-01-preview"
    assert server.served[0].path == path


@pytest.mark.parametrize(
    ("tail", "version"), [("", "v1"), ("/openai/v1", "2024-10-21"), ("/openai/v1/", "v1"), ("/openai", "v1")]
)
async def test_at_v1_the_deployment_is_the_bodys_model(
    upstream: Upstream, server: Scripted, tail: str, version: str
) -> None:
    base_url = server.url.removesuffix("/v1") + tail
    azure = provider(upstream, server, base_url=base_url, api_version=version, deployments={"gpt-5": "mine"})
    await send(azure)
    assert server.served[0].path == "/openai/v1/chat/completions"
    assert server.served[0].json["model"] == "mine"
    assert server.served[0].headers["api-key"] == KEY


@pytest.mark.parametrize("model", [".", ".."])
async def test_a_deployment_that_would_change_the_path_is_not_served(
    upstream: Upstream, server: Scripted, model: str
) -> None:
    assert not provider(upstream, server).serves("chat.completions", model)
    assert provider(upstream, server).serves("chat.completions", "gpt-4.1")
    assert not provider(upstream, server).serves("moderations", "gpt-4.1")


@pytest.mark.parametrize(
    ("version", "asks"),
    [("2024-06-01", False), ("2024-08-01-preview", False), ("2024-09-01-preview", True), ("v1", True)],
)
async def test_old_versions_are_not_asked_for_usage(
    upstream: Upstream, server: Scripted, version: str, asks: bool
) -> None:
    await send(provider(upstream, server, api_version=version), call(stream=True))
    assert ("stream_options" in server.served[0].json) is asks


async def test_with_the_operators_own_data_usage_is_not_asked_for(upstream: Upstream, server: Scripted) -> None:
    await send(provider(upstream, server), call(stream=True, data_sources=[{"type": "azure_search"}]))
    assert "stream_options" not in server.served[0].json


@pytest.mark.parametrize(
    ("model", "field"),
    [("gpt-5-mini", "max_completion_tokens"), ("o3", "max_completion_tokens"), ("gpt-4o", "max_tokens")],
)
async def test_the_cap_goes_into_the_field_the_model_takes(
    upstream: Upstream, server: Scripted, model: str, field: str
) -> None:
    await send(provider(upstream, server), model=model, cap=20)
    assert server.served[0].json[field] == 20


async def test_a_static_entra_token_is_sent_as_bearer(upstream: Upstream, server: Scripted) -> None:
    azure = provider(upstream, server, api_key="", entra_token="entra-token-0123")
    await send(azure)
    headers = server.served[0].headers
    assert headers["authorization"] == "Bearer entra-token-0123"
    assert "api-key" not in headers
    assert b"entra-token-0123" not in azure.redact(b'{"error":"entra-token-0123"}')


class Token:
    def __init__(self, token: str, expires_on: int) -> None:
        self.token, self.expires_on = token, expires_on


class Chain:
    """A credential that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fails = False

    def get_token(self, scope: str, /) -> Token:
        if self.fails:
            raise RuntimeError("tenant 1234 has no such client")
        self.asked.append(scope)
        return Token(f"token-{len(self.asked)}", 1000 * len(self.asked))


async def test_tokens_are_renewed_some_minutes_before_they_end() -> None:
    chain, now = Chain(), [0]
    tokens = entra.EntraTokens(chain, "s", now_us=lambda: now[0] * 1_000_000)
    assert [await tokens.get(), await tokens.get()] == ["token-1", "token-1"]
    now[0] = 701
    assert await tokens.get() == "token-2"
    assert chain.asked == ["s", "s"]


async def test_a_token_that_cannot_be_renewed_is_used_to_its_end() -> None:
    chain, now = Chain(), [0]
    tokens = entra.EntraTokens(chain, "s", now_us=lambda: now[0] * 1_000_000)
    await tokens.get()
    chain.fails, now[0] = True, 900
    assert await tokens.get() == "token-1"
    now[0] = 1001
    with pytest.raises(UpstreamError) as refused:
        await tokens.get()
    assert "1234" not in str(refused.value)


async def test_entra_signs_in_by_azures_own_chain(
    upstream: Upstream, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain()
    monkeypatch.setattr("faregate.providers.azure.default_credential", lambda name: chain)
    azure = provider(upstream, server, api_key="", entra=True, entra_scope="https://ai.azure.com/.default")
    monkeypatch.setattr(azure._entra, "_now_us", lambda: 0)  # type: ignore[attr-defined]
    await send(azure)
    assert server.served[0].headers["authorization"] == "Bearer token-1"
    assert chain.asked == ["https://ai.azure.com/.default"]


async def test_a_token_that_is_refused_is_not_sent_again(
    upstream: Upstream, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faregate.providers.azure.default_credential", lambda name: Chain())
    server.scripts["gpt-5"] = Script(status=401)
    azure = provider(upstream, server, api_key="", entra=True)
    monkeypatch.setattr(azure._entra, "_now_us", lambda: 0)  # type: ignore[attr-defined]
    await send(azure)
    await send(azure)
    assert [served.headers["authorization"] for served in server.served] == ["Bearer token-1", "Bearer token-2"]


def test_the_chain_is_azure_identitys() -> None:
    credential = entra.default_credential("azure")
    assert type(credential).__name__ == "DefaultAzureCredential"


def test_without_the_extra_the_configuration_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(entra, "import_module", missing)
    with pytest.raises(ConfigError, match=r"providers\.azure\.entra: needs the extra azure"):
        entra.default_credential("azure")


def test_two_credentials_are_one_too_many() -> None:
    found = {"kind": "azure", "base_url": "https://h", "api_key": "k", "entra": True}
    with pytest.raises(ValueError, match="api_key and entra exclude one another"):
        Settings.model_validate({"providers": {"azure": found}})


async def test_the_gateways_request_id_reaches_the_client(upstream: Upstream, server: Scripted) -> None:
    server.scripts["gpt-5"] = Script(headers=(("apim-request-id", "a-1"), ("x-ms-region", "East US")))
    azure = provider(upstream, server)
    answer = await azure.send(call(), place(), None)
    headers = azure.reply_headers(answer)
    await answer.close()
    assert headers["x-upstream-request-id"] == "a-1"
    assert "x-ms-region" not in headers
