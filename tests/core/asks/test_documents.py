from __future__ import annotations

from base64 import b64encode

import pytest

from faregate.core.asks.documents import MOST_PAGES, pages_of


def base64(raw: bytes) -> str:
    return b64encode(raw).decode()


def pdf(pages: int, filling: int = 0) -> bytes:
    listed = b"".join(b"%d 0 obj << /Type /Page /Parent 2 0 R >> endobj\n" % (index + 3) for index in range(pages))
    return b"%PDF-1.4\n2 0 obj << /Type /Pages /Kids [] >> endobj\n" + listed + bytes(filling)


def test_pages_that_show_are_counted() -> None:
    assert pages_of(base64(pdf(7, 100_000))) == 7
    assert pages_of("data:application/pdf;base64," + base64(pdf(7))) == 7


def test_a_count_of_pages_stands_for_them() -> None:
    assert pages_of(base64(b"%PDF-1.4 << /Type /Pages /Count 42 >>" + bytes(9_000))) == 42


def test_a_large_file_has_a_few_more() -> None:
    assert pages_of(base64(pdf(2, 1_500_000))) == 5


@pytest.mark.parametrize(
    ("raw", "pages"),
    [(b"%PDF-1.7 packed" + bytes(30_000), 11), (b"PK\x03\x04" + bytes(9_000), 4), (b"", 1)],
    ids=["packed", "docx", "empty"],
)
def test_else_the_size_tells(raw: bytes, pages: int) -> None:
    assert pages_of(base64(raw)) == pages


def test_no_document_has_more_than_a_thousand() -> None:
    assert pages_of(None) == MOST_PAGES
    assert pages_of("A" * 8_000_000) == MOST_PAGES
    assert pages_of(base64(b"%PDF /Count 9999")) == MOST_PAGES


def test_what_is_no_base64_is_taken_by_its_size() -> None:
    assert pages_of("JVBERi" + "é!" * 3_000) == 2
