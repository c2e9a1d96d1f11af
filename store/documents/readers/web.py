"""HTML: headings make sections, blocks make paragraphs, list items and table rows make lines."""

import re
from collections.abc import Iterator
from enum import StrEnum, auto

from bs4 import BeautifulSoup, Tag
from bs4.element import NavigableString, PreformattedString

from store.documents.damage import damage_named
from store.documents.draft import Draft
from store.documents.encoding import decode
from store.errors import DocumentTooLarge

MAX_TAGS = 300_000
"""Tags of a page: Beautiful Soup takes about a kilobyte for each, a few hundred MB for all."""

_DECLARED = re.compile(rb"""charset\s*=\s*["']?([\w-]{1,40})""", re.I)
_XML_DECLARATION = re.compile(r"\A\s*<\?xml[^>]*>")
_SKIPPED = frozenset(
    ("head", "script", "style", "nav", "template", "noscript", "svg", "iframe", "object")
)
_BULLET = "- "
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = {
    *("address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details"),
    *("div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "hr"),
    *("legend", "main", "ol", "option", "p", "pre", "section", "select", "summary", "table"),
    *("td", "th", "ul"),
}


class _Edge(StrEnum):
    OPEN = auto()
    CLOSE = auto()
    TEXT = auto()


def read_html(draft: Draft, data: bytes) -> None:
    """Read a page; scripts, styles and navigation are left out."""
    declared = _DECLARED.search(data[:2048])
    markup = decode(draft.name, data, declared[1].decode() if declared else None)
    if markup.count("<") > MAX_TAGS * 2:  # a tag that opens and one that closes
        raise DocumentTooLarge(f"{draft.name} has more than {MAX_TAGS:,} HTML tags: split it up")
    # The XML declaration of an XHTML page, or markup without any tag, would draw a warning.
    markup = _XML_DECLARATION.sub("", markup) + "\n"
    with damage_named(draft.name, "HTML"):
        # lxml and not html.parser, whose time on a page of unclosed tags is quadratic.
        soup = BeautifulSoup(markup, "lxml")
        _Page(draft).read(soup)
        if soup.title is not None:
            draft.suggest_title(soup.title.get_text())


class _Page:
    """A page that is written into a draft, line by line."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._line: list[str] = []
        self._in_row = False
        self._items = 0  # list items that are open
        self._preformatted = 0

    def read(self, soup: BeautifulSoup) -> None:
        """Write the whole tree into the draft."""
        for edge, node in _walk(soup):
            if isinstance(node, Tag):
                self._tag(edge, node.name)
            else:
                self._line.append(node if self._preformatted else re.sub(r"\s+", " ", node))
        self._end_block()

    def _tag(self, edge: _Edge, name: str) -> None:
        if name == "tr":
            self._row(edge)
        elif self._in_row and name != "table" and name not in _HEADINGS:
            self._inside_row(edge, name)
        elif name in _HEADINGS:
            self._heading(edge, name)
        elif name == "li":
            self._item(edge)
        elif name == "br":
            if edge is _Edge.OPEN:
                self._end_line()
        elif name in _BLOCKS:
            self._block(edge, name)

    def _row(self, edge: _Edge) -> None:
        self._end_line()
        self._in_row = edge is _Edge.OPEN
        if self._in_row:
            self._line.append("| ")

    def _inside_row(self, edge: _Edge, name: str) -> None:
        """Keep everything in a row on one line, with a bar between cells."""
        if name in ("td", "th"):
            if edge is _Edge.CLOSE:
                self._line.append(" | ")
        elif name in _BLOCKS or name in ("li", "br"):
            self._line.append(" ")

    def _heading(self, edge: _Edge, name: str) -> None:
        if edge is _Edge.OPEN:
            self._in_row = False  # a row with a heading lays out the page and is no data
            self._end_block()
        else:
            self._draft.heading(_HEADINGS[name], "".join(self._line))
            self._line = []

    def _item(self, edge: _Edge) -> None:
        self._end_line()
        self._items += 1 if edge is _Edge.OPEN else -1
        if edge is _Edge.OPEN:
            self._line.append(_BULLET)

    def _block(self, edge: _Edge, name: str) -> None:
        if name == "table":
            self._in_row = False  # the outer row of a table in a table is layout too
        if not self._items:
            self._end_block()
        elif self._line != [_BULLET]:  # <li><p>text: the text belongs behind the bullet
            self._end_line()
        if name == "pre":
            self._preformatted += 1 if edge is _Edge.OPEN else -1

    def _end_line(self) -> None:
        text = "".join(self._line)
        self._line = []
        if self._preformatted:
            self._draft.line(text.strip("\n"))
        elif (text := " ".join(text.split())).strip("-| "):
            self._draft.line(text)

    def _end_block(self) -> None:
        self._end_line()
        self._draft.gap()


def _walk(soup: BeautifulSoup) -> Iterator[tuple[_Edge, Tag | NavigableString]]:
    """Yield tags as they open and close, and text, in order. Pages nest too deep for recursion."""
    stack: list[tuple[Tag, Iterator[object]]] = [(soup, iter(soup.contents))]
    while stack:
        tag, children = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
            yield _Edge.CLOSE, tag
        elif isinstance(child, Tag):
            if child.name not in _SKIPPED:
                yield _Edge.OPEN, child
                stack.append((child, iter(child.contents)))
        elif isinstance(child, NavigableString) and not isinstance(child, PreformattedString):
            yield _Edge.TEXT, child  # a PreformattedString is a comment, a doctype and the like
