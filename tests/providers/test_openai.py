from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from faregate.core.call import Call, Candidate
from faregate.core.price import PriceCard
from faregate.errors import ConfigError, UpstreamError
from faregate.meter import meter_for
from faregate.providers.openai import OpenAIProvider, ProviderOptions, passed_down, rewrite
from faregate.providers.upstream import Upstream
from tests.upstreams.scripted import Scripted

KEY = "sk-operator-secret-0123456789"
CARD = PriceCard(id="c", provider="p", model="up", rates={}, source="test", max_output_tokens=500)
PLACE = Candidate(provider="p", kind="openai", model="up", card=CARD)


def call(endpoint: str = "chat.completions", /, **body: Any) -> Call:
    body = {"model": "up", "messages": [], **body}
    options = body.get("stream_options") or {}
    return Call(
        id="h",
        request_id="r",
        endpoint=endpoint,
        model="fast",
        body=body,
        raw_body=orjson.dumps(body, option=orjson.OPT_INDENT_2),
        stream=body.get("stream") is True,
        wants_usage=options.get("include_usage") is True,
        account_id="a",
    )


def sent(asked: Call, cap: int | None = None, field: str = "max_tokens") -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(rewrite(asked, PLACE, cap, field))
    return body


def test_a_body_that_needs_no_change_goes_out_byte_for_byte() -> None:
    asked = call(seed=7)
    assert rewrite(asked, PLACE, None) == asked.raw_body


def test_a_stream_that_asks_for_usage_itself_is_left_alone() -> None:
    asked = call(stream=True, stream_options={"include_usage": True})
    assert rewrite(asked, PLACE, None) == asked.raw_body


def test_only_the_model_name_changes() -> None:
    asked = call(model="fast", temperature=0.1, metadata={"a": [1, None, "\u2028"]})
    assert sent(asked) == {**asked.body, "model": "up"}


def test_include_usage_joins_the_clients_stream_options() -> None:
    asked = call(stream=True, stream_options={"include_obfuscation": False})
    assert sent(asked)["stream_options"] == {"include_obfuscation": False, "include_usage": True}


def test_a_null_stream_options_is_replaced() -> None:
    assert sent(call(stream=True, stream_options=None))["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_cap_goes_into_the_field_the_client_used(name: str) -> None:
    body = sent(call(**dict[str, Any]({name: 400})), 100, "max_completion_tokens")
    assert {key: value for key, value in body.items() if key.startswith("max")} == {name: 100}


def test_a_cap_never_raises_what_was_asked() -> None:
    body = sent(call(max_tokens=50, max_completion_tokens=400), 100)
    assert (body["max_tokens"], body["max_completion_tokens"]) == (50, 100)


def test_a_cap_without_a_field_takes_the_providers() -> None:
    assert sent(call(max_tokens=None), 100, "max_completion_tokens")["max_completion_tokens"] == 100
    assert sent(call("completions"), 10, "max_completion_tokens")["max_tokens"] == 10


def test_a_cap_stays_within_the_models_own_maximum() -> None:
    assert sent(call(), 9999)["max_tokens"] == 500


def test_the_clients_body_is_not_changed_in_place() -> None:
    asked = call(model="fast", stream=True, stream_options={"a": 1})
    sent(asked, 5)
    assert asked.body == orjson.loads(asked.raw_body)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    yield upstream
    await upstream.close()


def provider(upstream: Upstream, base_url: str | None, **options: Any) -> OpenAIProvider:
    built = ProviderOptions(name="p", kind="openai", base_url=base_url, api_key=KEY, **options)
    return OpenAIProvider(built, upstream, meter_for)


@pytest.mark.parametrize("endpoint", ["chat.completions", "completions", "embeddings"])
@pytest.mark.parametrize("slash", ["", "/"])
async def test_the_url_is_base_url_and_path(upstream: Upstream, endpoint: str, slash: str) -> None:
    async with Scripted() as server:
        answer = await provider(upstream, server.url + slash).send(call(endpoint), PLACE, None)
        await answer.close()
        assert server.served[0].path == "/v1/" + endpoint.replace(".", "/")


async def test_the_operators_key_and_listed_headers_go_upstream(upstream: Upstream) -> None:
    headers = {"openai-beta": "x=1", "openai-organization": "org-client", "cookie": "c", "accept": "a/b"}
    asked = replace(call(), idempotency_key="key-1", forward_headers=headers)
    async with Scripted() as server:
        await (await provider(upstream, server.url).send(asked, PLACE, None)).close()
        got = server.served[0].headers
    assert got["authorization"] == f"Bearer {KEY}"
    assert (got["openai-beta"], got["idempotency-key"], got["accept"]) == ("x=1", "key-1", "a/b")
    assert not {"cookie", "openai-organization"} & got.keys()


async def test_an_unknown_endpoint_is_not_served(upstream: Upstream) -> None:
    with pytest.raises(UpstreamError, match="messages"):
        await provider(upstream, None).send(call("messages"), PLACE, None)


def test_headers_for_the_client_are_listed() -> None:
    got = passed_down(
        {
            "content-type": "application/json",
            "x-request-id": "req_1",
            "retry-after": "3",
            "openai-processing-ms": "12",
            "openai-organization": "the-operator",
            "x-ratelimit-remaining-tokens": "9",
            "set-cookie": "a=b",
            "content-length": "5",
        }
    )
    assert got == {
        "content-type": "application/json",
        "x-upstream-request-id": "req_1",
        "retry-after": "3",
        "openai-processing-ms": "12",
    }


def test_keys_and_organizations_are_redacted(upstream: Upstream) -> None:
    body = f"Incorrect key {KEY}, sk-oper****6789 in organization org-AbC123 ask-me".encode()
    redacted = b"Incorrect key [redacted], [redacted] in organization [redacted] ask-me"
    assert provider(upstream, None).redact(body) == redacted


@pytest.mark.parametrize("base_url", ["ftp://x/v1", "x/v1", "http:///v1"])
def test_a_base_url_that_cannot_be_meant_is_a_configuration_error(upstream: Upstream, base_url: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        provider(upstream, base_url)


@pytest.mark.parametrize("wants_usage", [True, False])
async def test_the_meter_takes_out_what_only_we_asked_for(upstream: Upstream, wants_usage: bool) -> None:
    asked = call(stream=True, stream_options={"include_usage": True} if wants_usage else None)
    async with Scripted() as server:
        openai = provider(upstream, server.url)
        answer = await openai.send(asked, PLACE, None)
        meter = openai.meter(asked, answer)
        seen = b"".join([meter.feed(chunk) async for chunk in answer.chunks()]) + meter.finish(None, 0)
    usage = meter.reading(200, answer.headers).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (10, 5)
    assert (b'"completion_tokens"' in seen) == wants_usage
    assert seen.endswith(b"data: [DONE]\n\n")


async def test_an_error_to_a_stream_is_read_as_plain(upstream: Upstream) -> None:
    async with Scripted() as server:
        openai = provider(upstream, server.url)
        asked = call(model="broken-with-usage", stream=True)
        answer = await openai.send(asked, replace(PLACE, model="broken-with-usage"), None)
        meter = openai.meter(asked, answer)
        async for chunk in answer.chunks():
            meter.feed(chunk)
    assert answer.status == 500
    assert meter.reading(500, answer.headers).usage is not None
