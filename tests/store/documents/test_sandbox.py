"""Uploaded files are read in a process that can do no harm."""

import pytest

from store.documents.parser import parse
from store.documents.sandbox import parse_apart
from store.errors import EmptyDocument, UnreadableDocument, UnsupportedDocument

PAGE = "<html><head><title>Tea</title></head><body><h1>Green</h1><p>Steep it.</p></body></html>"

MEMORY = 2**27
"""Memory limit in bytes, enough for a page."""


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tea.html", PAGE.encode()),
        ("tea.csv", b"tea,minutes\ngreen,3\n"),
        ("tea.md", b"# Tea\n\nHot."),
    ],
)
def test_a_file_is_read_as_it_would_be_here(name: str, data: bytes) -> None:
    assert parse_apart(name, data) == parse(name, data)


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("tea.exe", b"MZ", UnsupportedDocument),
        ("tea.html", b"  ", EmptyDocument),
        ("tea.pdf", b"%PDF-1.7 and no more", UnreadableDocument),
        ("a\0b\n.json", b"{", UnreadableDocument),
    ],
)
def test_what_is_wrong_with_it_is_said_in_the_same_words(
    name: str, data: bytes, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as here:
        parse(name, data)
    with pytest.raises(kind) as apart:
        parse_apart(name, data)
    assert str(apart.value) == str(here.value)


@pytest.mark.bad_input("a file that takes all memory or time")
def test_a_file_that_needs_too_much_memory_is_refused() -> None:
    assert parse_apart("tea.html", PAGE.encode(), memory_bytes=MEMORY).sections
    with pytest.raises(UnreadableDocument, match="too much memory"):
        parse_apart("tea.html", PAGE.encode() + b"tea " * 5_000_000, memory_bytes=MEMORY)


@pytest.mark.bad_input("a file that takes all memory or time")
def test_a_file_that_takes_too_long_is_refused() -> None:
    with pytest.raises(UnreadableDocument, match="too long"):
        parse_apart("tea.html", PAGE.encode(), wall_seconds=0.001)
