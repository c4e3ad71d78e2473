"""Chat, completions, embeddings and their cousins."""

from __future__ import annotations

from faregate.meter import meter_for
from tests.meter.support import check, metered


def test_moonshot_puts_usage_into_the_choice() -> None:
    event = '{"choices":[{"finish_reason":"stop","usage":{"prompt_tokens":9,"completion_tokens":3,"cached_tokens":4}}]}'
    got = metered("moonshot", "chat.completions", [event, "[DONE]"], stream=True)
    check(got, input_tokens=9, output_tokens=3, cached_input_tokens=4, complete=True)


def test_groq_usage_without_include_usage() -> None:
    event = '{"choices":[{"finish_reason":"stop"}],"x_groq":{"usage":{"prompt_tokens":20,"completion_tokens":10}}}'
    check(metered("groq", "chat.completions", [event, "[DONE]"], stream=True), input_tokens=20, output_tokens=10)


def test_zeros_after_the_real_usage_do_not_erase_it() -> None:
    events = [
        '{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":6}}',
        '{"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0}}',
    ]
    check(metered("compat", "chat.completions", events, stream=True), input_tokens=5, output_tokens=6)


def test_echo_without_output_has_no_completion_tokens() -> None:
    check(metered("openai", "completions", {"usage": {"prompt_tokens": 5, "total_tokens": 5}}), output_tokens=0)


def test_the_last_model_name_that_says_something_stays() -> None:
    meter = meter_for("azure", "chat.completions", stream=True)
    meter.feed(b'data: {"model":"gpt-5","choices":[]}\n\n')
    meter.feed(b'data: {"model":"","choices":[],"usage":{"prompt_tokens":1}}\n\n')
    assert meter.reading(200, {}).model == "gpt-5"
