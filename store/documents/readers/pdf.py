"""PDF: the text of each page, under the outline's titles or else under "page N"."""

import io
import logging
import re
import time
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import TypeAlias, cast

from pypdf import PasswordType, PdfReader
from pypdf.generic import Destination
from pypdf.types import OutlineType

from store.documents.damage import FAULTS, damage_named
from store.documents.draft import Draft
from store.errors import DocumentTooLarge, EmptyDocument, UnreadableDocument

MAX_PAGES = 2_000
"""Pages of a thick handbook; each takes a hundredth of a second, and a crowded one a tenth."""

MAX_READING_SECONDS = 120.0
"""Time for one file: a page can be built to take seconds within every limit of pypdf's. It is
checked between pages, since nothing can interrupt one."""

_TOP = 2  # the level of chapters and pages; level 1 would be the document's title
_Heading: TypeAlias = tuple[int, str]
_MAX_OUTLINE_ENTRIES = 5_000
_MAX_OUTLINE_DEPTH = 6
# Titles that office programs write when nobody gave one.
_PLACEHOLDER = re.compile(
    r"(?:microsoft (?:word|powerpoint|excel)\b.*|untitled.*|document\d*|.*\.[a-z]{2,4})$", re.I
)

# pypdf logs a warning for each flaw that it works around; nobody here needs them.
logging.getLogger("pypdf").setLevel(logging.CRITICAL)


def read_pdf(draft: Draft, data: bytes) -> None:
    """Read a PDF. Raises EmptyDocument for one that seems to be a scan."""
    with damage_named(draft.name, "a PDF"):
        _read(draft, PdfReader(io.BytesIO(data)))


def _read(draft: Draft, reader: PdfReader) -> None:
    # Many files are encrypted only to restrict printing, and open without a password.
    if reader.is_encrypted and reader.decrypt("") is PasswordType.NOT_DECRYPTED:
        raise UnreadableDocument(f"{draft.name} is locked with a password: send a copy without one")
    count = len(reader.pages)
    if count > MAX_PAGES:
        raise DocumentTooLarge(
            f"{draft.name} has {count:,} pages, and {MAX_PAGES:,} are the limit: split it up"
        )
    if not _read_pages(draft, reader):
        raise EmptyDocument(
            f"{draft.name} has no text in it: it seems to be a scan; "
            "run a text recognition (OCR) over it and send the result"
        )
    title = (reader.metadata.title or "") if reader.metadata else ""
    if not _PLACEHOLDER.match(title):
        draft.suggest_title(title)


def _read_pages(draft: Draft, reader: PdfReader) -> bool:
    """Write all pages into the draft; return whether there was any text."""
    outline = _outline(reader)
    first = min(outline, default=len(reader.pages))
    deadline = time.monotonic() + MAX_READING_SECONDS
    found = False
    for number, page in enumerate(reader.pages):
        text = page.extract_text().strip()
        found = found or bool(text)
        if number < first:
            draft.heading(_TOP, f"page {number + 1}")
        above, below = _parted(outline.get(number, []))
        for level, title in above:
            draft.heading(level, title)
        draft.paragraph(text)
        for level, title in below:
            draft.heading(level, title)
        if time.monotonic() > deadline:
            raise DocumentTooLarge(
                f"{draft.name} takes more than {MAX_READING_SECONDS:.0f} seconds to read: "
                "split it up, or send it as text"
            )
    return found


def _parted(headings: list[_Heading]) -> tuple[list[_Heading], list[_Heading]]:
    """Split a page's headings: the path to the first place on it, and the headings after that.

    A page's text comes in one piece, so it stands under the first; the pages after it stand
    under the last.
    """
    for number, (above, below) in enumerate(pairwise(headings), start=1):
        if below[0] <= above[0]:
            return headings[:number], headings[number:]
    return headings, []


def _outline(reader: PdfReader) -> dict[int, list[_Heading]]:
    """Map page numbers (from 0) to the headings that begin there; empty without an outline."""
    pages: dict[int, list[_Heading]] = {}
    try:
        for level, entry in islice(_entries(reader.outline, _TOP), _MAX_OUTLINE_ENTRIES):
            number = reader.get_destination_page_number(entry)
            if number is not None and number >= 0 and entry.title:
                pages.setdefault(number, []).append((level, str(entry.title)))
    except FAULTS:
        return {}  # a broken outline costs the headings, and not the text
    return pages


def _entries(outline: OutlineType, level: int) -> Iterator[tuple[int, Destination]]:
    for entry in outline:
        if isinstance(entry, Destination):
            yield level, entry
        elif level - _TOP < _MAX_OUTLINE_DEPTH:
            yield from _entries(cast(OutlineType, entry), level + 1)
