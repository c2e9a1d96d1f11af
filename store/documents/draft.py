"""A draft of a document: the title, headings and text that a reader finds in a file.

Invariant: every text in a `Section` is clean (`clean`), stripped and not empty, and all of a
document together is at most `MAX_TEXT` characters, however small the file it came from.
"""

import re
import unicodedata
from dataclasses import dataclass

from store.domain import HEADING_SEPARATOR
from store.errors import DocumentTooLarge

MAX_TEXT = 5_000_000
"""Characters taken from one document. A long novel is 3 million; this many make some 8,000
chunks, which a small embedder works through in minutes. It also stops a small file whose text
grows as it is read (a long CSV header in front of every cell)."""

MAX_HEADING = 200
"""Characters of one heading or title. A longer one is kept as text: it is really a paragraph, and
would be repeated in the path of everything under it."""

_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Controls other than tab and newline, halves of surrogate pairs (no UTF-8 for those, so no row in
# SQL either) and byte order marks.
_UNWANTED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff]")


@dataclass(frozen=True, kw_only=True)
class Section:
    """Text under one heading; `heading` is the path to it ("A › B"), "" before the first."""

    heading: str
    text: str


def clean(text: str) -> str:
    """Return the text with line ends as newlines, no control characters, and in NFC."""
    text = _UNWANTED.sub("", _LINE_ENDS.sub("\n", text))
    # Last, since what was taken out may have stood between a letter and its accent.
    return unicodedata.normalize("NFC", text)


def one_line(text: str) -> str:
    """Return the text clean and on one line, with single spaces."""
    return " ".join(clean(text).split())


class Draft:
    """A document that is being read. Raises `DocumentTooLarge` past `MAX_TEXT` characters."""

    def __init__(self, name: str) -> None:
        """Start an empty draft; `name` is the file's name in messages."""
        self.name = name
        self.title = ""
        self._path: list[tuple[int, str]] = []
        self._lines: list[str] = []
        self._sections: list[Section] = []
        self._size = 0

    def suggest_title(self, text: str) -> None:
        """Use a text as the title, unless there is one already or the text is too long."""
        title = one_line(text)
        if not self.title and len(title) <= MAX_HEADING:
            self.title = title

    def heading(self, level: int, text: str) -> None:
        """Open a section; a heading closes all of its own level and below (1 is the highest)."""
        title = one_line(text)
        if not title:
            return
        if len(title) > MAX_HEADING:
            self.paragraph(title)
            return
        self._close()
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        self._path.append((level, title))
        if level <= 1:
            self.suggest_title(title)

    def line(self, text: str) -> None:
        """Add one or more lines right under the ones before."""
        added = clean(text)
        self._count(len(added) + 1)
        self._lines.append(added)

    def gap(self) -> None:
        """End the paragraph."""
        if self._lines and self._lines[-1]:
            self._lines.append("")

    def paragraph(self, text: str) -> None:
        """Add text with a blank line on both sides."""
        self.gap()
        self.line(text)
        self.gap()

    def sections(self) -> tuple[Section, ...]:
        """Close the draft and return its sections; a heading without text makes none."""
        self._close()
        return tuple(self._sections)

    def _close(self) -> None:
        # Blank lines go, but not the first line's indent: it may be a line of code.
        text = "\n".join(self._lines).rstrip()
        text = re.sub(r"\A(?:[^\S\n]*\n)+", "", text)
        self._lines = []
        if text:
            heading = HEADING_SEPARATOR.join(title for _, title in self._path)
            self._count(len(heading))
            self._sections.append(Section(heading=heading, text=text))

    def _count(self, characters: int) -> None:
        self._size += characters
        if self._size > MAX_TEXT:
            raise DocumentTooLarge(
                f"{self.name} holds more than {MAX_TEXT:,} characters of text: split it up"
            )
