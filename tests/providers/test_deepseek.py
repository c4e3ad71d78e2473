from __future__ import annotations

from typing import Any

import orjson
import pytest

from faregate.meter import meter_for
from faregate.providers.deepseek import DeepSeekProvider, in_its_words
from faregate.providers.openai import ProviderOptions
from faregate.providers.upstream import Upstream
from tests.providers.test_openai import PLACE, call
from tests.upstreams.scripted import Scripted


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/beta"])
async def test_the_paths_are_its_own_whatever_version_the_base_url_names(suffix: str) -> None:
    upstream = Upstream()
    async with Scripted() as server:
        base_url = server.url.removesuffix("/v1") + suffix
        options = ProviderOptions(name="p", kind="deepseek", base_url=base_url, api_key="k")
        deepseek = DeepSeekProvider(options, upstream, meter_for)
        for endpoint in ("chat.completions", "completions"):
            await (await deepseek.send(call(endpoint), PLACE, None)).close()
        assert [served.path for served in server.served] == ["/chat/completions", "/beta/completions"]
    assert not deepseek.serves("embeddings", "deepseek-chat")
    await upstream.close()


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"max_completion_tokens": 9}, 9),
        ({"max_completion_tokens": 9, "max_tokens": 5}, 5),
        ({"max_completion_tokens": 5, "max_tokens": 9}, 5),
        ({"max_completion_tokens": 5, "max_tokens": None}, 5),
    ],
)
def test_the_newer_bound_is_told_in_the_older_word(given: dict[str, Any], sent: int) -> None:
    asked = in_its_words(call(**given))
    assert asked.body == orjson.loads(asked.raw_body) == {"model": "up", "messages": [], "max_tokens": sent}


@pytest.mark.parametrize("given", [{}, {"max_tokens": 5}, {"max_completion_tokens": None}])
def test_a_body_that_it_understands_stays_as_it_is(given: dict[str, Any]) -> None:
    asked = call(**given)
    assert in_its_words(asked) is asked
