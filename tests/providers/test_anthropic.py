"""Kind anthropic: what is changed of a request, what is kept from clients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from faregate.core.call import Call
from faregate.errors import ConfigError, InvalidRequest
from faregate.meter import meter_for
from faregate.providers.anthropic import AnthropicProvider, passed_up, rewrite
from faregate.providers.openai import ProviderOptions
from faregate.providers.upstream import Upstream
from tests.providers.crossing.parts import Came, candidate, chat

PLACE = candidate("anthropic", "claude")


def message(raw: bytes | None = None, **body: Any) -> Call:
    body = orjson.loads(raw) if raw is not None else {"model": "claude", "max_tokens": 100, "messages": [], **body}
    return replace(chat(), endpoint="messages", body=body, raw_body=raw or orjson.dumps(body))


def provider(**options: Any) -> AnthropicProvider:
    return AnthropicProvider(ProviderOptions(name="a", kind="anthropic", **options), Upstream(), meter_for)


def test_what_needs_no_change_goes_out_as_it_came() -> None:
    raw = b'{ "model":"claude", "max_tokens" : 100,\n"messages":[{"content":"\xe2\x80\xa8 1.10"}] }'
    assert rewrite(message(raw), PLACE, None) == raw


def test_the_model_is_renamed() -> None:
    assert orjson.loads(rewrite(message(model="up/claude"), PLACE, None))["model"] == "claude"


def test_of_a_doubled_name_the_last_is_sent_alone() -> None:
    assert rewrite(message(b'{"max_tokens":9,"model":"claude","max_tokens":5}'), PLACE, None).count(b"max_tokens") == 1


@pytest.mark.parametrize(("cap", "sent"), [(40, 40), (400, 100)])
def test_the_cap_only_lowers(cap: int, sent: int) -> None:
    assert orjson.loads(rewrite(message(), PLACE, cap))["max_tokens"] == sent


def test_thinking_is_lowered_with_it() -> None:
    call = message(max_tokens=9000, thinking={"type": "enabled", "budget_tokens": 8000, "display": "omitted"})
    assert orjson.loads(rewrite(call, PLACE, 3000))["thinking"] == {
        "type": "enabled",
        "budget_tokens": 1500,
        "display": "omitted",
    }


def test_thinking_without_room_is_refused() -> None:
    call = message(max_tokens=9000, thinking={"type": "enabled", "budget_tokens": 8000})
    with pytest.raises(InvalidRequest) as caught:
        rewrite(call, PLACE, 1000)
    assert caught.value.param == "thinking"


@pytest.mark.parametrize("thinking", [{"type": "adaptive"}, {"type": "disabled"}, None, "x", {"budget_tokens": "8"}])
def test_other_thinking_is_left_alone(thinking: object) -> None:
    call = message(max_tokens=9000, thinking=thinking)
    if thinking is None:
        call = replace(call, body={name: value for name, value in call.body.items() if name != "thinking"})
    assert orjson.loads(rewrite(call, PLACE, 1000)).get("thinking") == thinking


def test_headers_upstream() -> None:
    call = replace(message(), forward_headers={"anthropic-beta": "b", "openai-beta": "o"}, idempotency_key="i")
    assert passed_up(call) == {"anthropic-beta": "b", "anthropic-version": "2023-06-01", "idempotency-key": "i"}


def test_headers_to_the_client() -> None:
    answer = Came()
    answer.headers = {
        "content-type": "application/json",
        "request-id": "req_up",
        "anthropic-organization-id": "org",
        "anthropic-ratelimit-tokens-remaining": "1",
        "set-cookie": "c",
    }
    assert provider().reply_headers(answer) == {
        "content-type": "application/json",
        "request-id": "req_up",
        "x-upstream-request-id": "req_up",
    }


def test_keys_are_taken_out() -> None:
    body = provider(api_key="own-key-0123").redact(b'{"m":"own-key-0123 and sk-ant-api03-Ab_c-9... end"}')
    assert body == b'{"m":"[redacted] and [redacted] end"}'


def test_what_it_serves() -> None:
    found = provider()
    assert all(found.serves(name, "m") for name in ("messages", "messages.count_tokens", "chat.completions"))
    assert not found.serves("embeddings", "m")


@pytest.mark.parametrize("url", ["ftp://x", "api.anthropic.com"])
def test_a_base_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        provider(base_url=url)


def test_a_key_with_a_line_break_is_refused() -> None:
    with pytest.raises(ConfigError, match="x-api-key"):
        provider(api_key="sk-ant\n")
