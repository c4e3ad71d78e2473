"""What every dialect shares: errors, statuses, text delivered."""

from __future__ import annotations

from faregate.meter.dialects.openai import OpenAIReader
from faregate.meter.reader import Source


def reader() -> OpenAIReader:
    return OpenAIReader(Source(kind="openai", endpoint="chat.completions"))


def test_a_status_completes_the_error_of_a_body() -> None:
    one = reader()
    one.body(b'{"error":{"type":"t","code":"c","message":"m"}}')
    error = one.reading(429, {}).error
    assert error is not None
    assert (error.status, error.type, error.code, error.message) == (429, "t", "c", "m")


def test_a_status_alone_is_an_error() -> None:
    error = reader().reading(503, {}).error
    assert error is not None
    assert error.status == 503


def test_without_an_error_there_is_nothing_to_retry() -> None:
    assert reader().retryable is None


def test_text_counts_in_all_its_fields() -> None:
    one = reader()
    one.count_text(b'{"content":"a","reasoning_content":"b","arguments":"c","refusal":"","text" : "d"}')
    assert (one.deltas, one.text_bytes) == (4, 4)
