"""Markdown, cut along its headings and otherwise kept as written; and plain text.

Follows CommonMark 0.31 where headings are concerned (§4.2 ATX, §4.3 setext, §4.5 fences), line
by line, so that memory and time stay in proportion to the size of the file.
"""

import re
from collections.abc import Iterator

from store.documents.draft import Draft, clean
from store.documents.encoding import decode

_ATX = re.compile(r" {0,3}(#{1,6})(?=[ \t]|$)(.*)$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
# At any indent and behind a list or quote marker, since most fences off the margin stand there.
_FENCE = re.compile(r"\s*(?:[-*+>]\s*|\d{1,3}[.)]\s+)?(`{3,}(?=[^`]*$)|~{3,})")
_NO_PARAGRAPH = re.compile(r"    |\t|\s*(?:$|[-*+>|]|\d{1,3}[.)]\s)")
_FRONT_MATTER_TITLE = re.compile(r"""title:\s*["']?(.*?)["']?\s*$""")
_TEXT = 0  # the "level" of a line that is no heading


def read_text(draft: Draft, data: bytes) -> None:
    """Read plain text: one section, as written."""
    draft.line(decode(draft.name, data))


def read_markdown(draft: Draft, data: bytes) -> None:
    """Read Markdown: a section for each heading."""
    lines = clean(decode(draft.name, data)).split("\n")
    for line in _take_front_matter(lines):
        if title := _FRONT_MATTER_TITLE.match(line):
            draft.suggest_title(title[1])
        draft.line(line)
    for level, text in _events(lines):
        if level == _TEXT:
            draft.line(text)
        else:
            draft.heading(level, text)


def _take_front_matter(lines: list[str]) -> list[str]:
    """Remove and return metadata between two `---` at the top; the last would make a heading."""
    if lines[0].rstrip() != "---":
        return []
    for number, line in enumerate(lines[1:], start=1):
        if not line.strip():
            return []
        if line.rstrip() in ("---", "..."):
            taken = lines[1:number]
            del lines[: number + 1]
            return taken
    return []


def _events(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield (level, heading) and (_TEXT, line) in order."""
    held: list[str] = []  # a paragraph that an underline may yet make a heading
    fence = ""
    fresh = True  # a paragraph can begin here: it would otherwise continue a list item or quote
    for line in lines:
        if fence:
            yield _TEXT, line
            if _closes(line, fence):
                fence, fresh = "", True
            continue
        if held and (underline := _UNDERLINE.match(line)):
            yield 1 if underline[1].startswith("=") else 2, " ".join(held)
            held, fresh = [], True
            continue
        atx, opened = _ATX.match(line), _FENCE.match(line)
        if not atx and not opened and (held or fresh) and not _NO_PARAGRAPH.match(line):
            held.append(line)
            continue
        yield from ((_TEXT, text) for text in held)
        held = []
        fresh = atx is not None or not line.strip()
        fence = opened[1] if opened else ""
        yield (len(atx[1]), _without_closing_hashes(atx[2])) if atx else (_TEXT, line)
    yield from ((_TEXT, text) for text in held)


def _closes(line: str, fence: str) -> bool:
    mark = line.strip().lstrip("> ")
    return len(mark) >= len(fence) and set(mark) == {fence[0]}


def _without_closing_hashes(text: str) -> str:
    text = text.strip()
    bare = text.rstrip("#")
    return bare.rstrip() if not bare or bare[-1] in " \t" else text
