"""Images."""

from __future__ import annotations

from tests.meter.support import check, metered


def test_a_page_of_html_is_no_picture() -> None:
    check(metered("openai", "images.generations", "<html>", stream=False), images=0, usage_present=False)


def test_cut_image_and_speech_streams_are_incomplete() -> None:
    partial = {"event": "x", "data": {"type": "image_generation.partial_image", "b64_json": "AAAA"}}
    check(metered("openai", "images.generations", [partial], stream=True), complete=False, usage_present=False)
