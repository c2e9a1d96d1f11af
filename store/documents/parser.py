"""The parser: a file's bytes become a title and the text under each heading.

People may send any file. Invariant: `parse` returns text that is clean (NFC, no
control characters, "\\n" line ends) and not empty, or raises a `DocumentError` whose one line can
be shown to the sender; nothing of the reading libraries' own errors, warnings or logs gets out.
Cutting the text for the index is `store.documents.chunker`'s.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from pkgutil import resolve_name
from urllib.parse import unquote

from store.documents.draft import MAX_TEXT, Draft, Section, one_line
from store.documents.magic import check_contents
from store.errors import DocumentTooLarge, EmptyDocument, UnsupportedDocument

__all__ = ["MAX_BYTES", "MAX_TEXT", "SUFFIXES", "ParsedDocument", "Section", "parse"]

MAX_BYTES = 25_000_000
"""Bytes of one file. Telegram hands a bot 20 MB at most; `ratchet ingest` may take a little more,
and what a reader needs is some ten times that in memory."""

_MAX_NAME = 80  # characters of a name in a message


@dataclass(frozen=True, kw_only=True)
class ParsedDocument:
    """The contents of a file: `sections` in order, at least one, none of them empty."""

    title: str
    media_type: str
    sections: tuple[Section, ...]


@dataclass(frozen=True, kw_only=True)
class _FileType:
    media_type: str
    reader: str
    """Module and function, imported for the first such file: not every start needs them all."""

    def read(self, draft: Draft, data: bytes) -> None:
        """Read a file's contents into the draft."""
        resolve_name(f"store.documents.readers.{self.reader}")(draft, data)


_HTML = _FileType(media_type="text/html", reader="web:read_html")
_TYPES = {
    ".txt": _FileType(media_type="text/plain", reader="markdown:read_text"),
    ".md": _FileType(media_type="text/markdown", reader="markdown:read_markdown"),
    ".pdf": _FileType(media_type="application/pdf", reader="pdf:read_pdf"),
    ".docx": _FileType(
        media_type="application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        reader="word:read_docx",
    ),
    ".html": _HTML,
    ".htm": _HTML,
    ".csv": _FileType(media_type="text/csv", reader="records:read_csv"),
    ".json": _FileType(media_type="application/json", reader="records:read_json"),
    ".jsonl": _FileType(media_type="application/jsonl", reader="records:read_jsonl"),
}

SUFFIXES = frozenset(_TYPES)


def make_ready(name: str) -> None:
    """Import the reader of a file before memory is limited: the import takes memory, too."""
    if (found := _TYPES.get(_suffix(name))) is not None:
        resolve_name(f"store.documents.readers.{found.reader}")


def parse(name: str, data: bytes) -> ParsedDocument:
    """Return the document in a file; the suffix of `name`, also of a path, tells the type.

    Raises UnsupportedDocument, DocumentTooLarge, EmptyDocument or UnreadableDocument.
    """
    path, suffix = _path(name), _suffix(name)
    shown = one_line(path.name)[-_MAX_NAME:] or "the file"
    if suffix not in _TYPES:
        raise UnsupportedDocument(
            f"{shown} is a type of file that I cannot read: send {', '.join(sorted(SUFFIXES))}"
        )
    if len(data) > MAX_BYTES:
        raise DocumentTooLarge(
            f"{shown} has {len(data) / 1e6:.0f} MB, and {MAX_BYTES / 1e6:.0f} are the limit: "
            "split it up"
        )
    if not data.strip():
        raise EmptyDocument(f"{shown} is empty")
    check_contents(shown, suffix, data)
    draft = Draft(shown)
    _TYPES[suffix].read(draft, data)
    sections = draft.sections()
    if not sections:
        raise EmptyDocument(f"{shown} has no text in it")
    return ParsedDocument(
        title=draft.title or _title_from(path.stem),
        media_type=_TYPES[suffix].media_type,
        sections=sections,
    )


def _path(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/"))


def _suffix(name: str) -> str:
    return _path(name).suffix.lower()


def _title_from(stem: str) -> str:
    """Make a title of a file name: leave_policy%20v2-final → Leave policy v2 final."""
    # A hyphen between digits is a date's or a number's.
    words = re.sub(r"_+|(?<!\d)-+|-+(?!\d)", " ", unquote(stem))
    title = one_line(words)[:_MAX_NAME] or one_line(stem)[:_MAX_NAME] or "Untitled"
    return title[0].upper() + title[1:]
