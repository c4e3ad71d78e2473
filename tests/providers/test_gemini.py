from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from faregate.core.call import Candidate
from faregate.errors import ConfigError
from faregate.meter import meter_for
from faregate.providers.gemini import GeminiProvider, rewrite
from faregate.providers.openai import ProviderOptions
from faregate.providers.upstream import Upstream
from tests.core.asks.test_gemini import call
from tests.providers.test_openai import CARD
from tests.upstreams.google import Google

KEY = "AIzaOperator0123456789"
PLACE = Candidate(provider="p", kind="gemini", model="gemini-x", card=CARD)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    yield upstream
    await upstream.close()


def provider(upstream: Upstream, base_url: str | None = None) -> GeminiProvider:
    return GeminiProvider(ProviderOptions(name="p", kind="gemini", base_url=base_url, api_key=KEY), upstream, meter_for)


def sent(cap: int | None = None, **body: Any) -> dict[str, Any]:
    parsed: dict[str, Any] = orjson.loads(rewrite(call(**body), PLACE, cap))
    return parsed


@pytest.mark.parametrize("suffix", ["", "/", "/v1beta", "/v1beta/"])
@pytest.mark.parametrize(
    ("stream", "query", "end"),
    [
        (False, {}, ":generateContent"),
        (True, {}, ":streamGenerateContent"),
        (True, {"alt": "sse"}, ":streamGenerateContent?alt=sse"),
    ],
)
async def test_the_path_names_model_and_method(
    upstream: Upstream, suffix: str, stream: bool, query: dict[str, str], end: str
) -> None:
    async with Google() as google:
        asked = replace(call(contents=[]), stream=stream, query=query)
        await (await provider(upstream, google.url + suffix).send(asked, PLACE, None)).close()
    assert google.requests[0].path == "/v1beta/models/gemini-x" + end
    assert google.requests[0].headers["x-goog-api-key"] == KEY


async def test_a_name_stays_one_segment_of_the_path(upstream: Upstream) -> None:
    async with Google() as google:
        place = replace(PLACE, model="../../x?key=y#z%2e")
        await (await provider(upstream, google.url).send(call(contents=[]), place, None)).close()
    assert google.requests[0].path == "/v1beta/models/..%2F..%2Fx%3Fkey%3Dy%23z%252e:generateContent"


async def test_names_that_clients_make_up_are_not_kept_for_ever(upstream: Upstream) -> None:
    gemini = provider(upstream)
    for number in range(3000):
        gemini._target(f"models/m{number}:generateContent")
    assert len(gemini._targets) <= 1024


def test_a_body_that_needs_no_change_goes_out_byte_for_byte() -> None:
    asked = replace(call(contents=[1]), raw_body=b'{ "contents":  [1] }')
    assert rewrite(asked, PLACE, None) == asked.raw_body


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, {"maxOutputTokens": 100}),
        ({"maxOutputTokens": 50}, {"maxOutputTokens": 50}),
        ({"max_output_tokens": 400, "seed": 1}, {"max_output_tokens": 100, "seed": 1}),
    ],
)
def test_the_cap_never_raises_what_was_asked(config: Any, expected: dict[str, int]) -> None:
    body = {} if config is None else {"generationConfig": config}
    assert sent(100, **body) == {"generationConfig": expected}


def test_a_cap_stays_within_the_models_own_maximum() -> None:
    assert sent(9999)["generationConfig"] == {"maxOutputTokens": 500}


def test_the_clients_body_is_not_changed_in_place() -> None:
    asked = call(model="m", generation_config={"max_output_tokens": 9})
    rewrite(asked, PLACE, 5)
    assert asked.body == {"model": "m", "generation_config": {"max_output_tokens": 9}}


def test_keys_and_projects_are_redacted(upstream: Upstream) -> None:
    said = f"key {KEY} of projects/operators-own, project_number:123 AIzaOther".encode()
    assert provider(upstream).redact(said) == b"key [redacted] of [redacted], [redacted] [redacted]"


def test_what_is_served(upstream: Upstream) -> None:
    gemini = provider(upstream)
    assert gemini.serves("generatecontent", "m")
    assert not gemini.serves("messages", "m")


@pytest.mark.parametrize("base_url", ["ftp://x", "x", "http://"])
def test_a_base_url_that_cannot_be_meant_is_a_configuration_error(upstream: Upstream, base_url: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        provider(upstream, base_url)
