"""CSV, JSON and JSON Lines: each record becomes a paragraph that can be read by itself."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import TypeAlias

from store.documents.draft import Draft
from store.documents.encoding import decode
from store.errors import UnreadableDocument

_Json: TypeAlias = "dict[str, _Json] | list[_Json] | str | bool | None"
_DELIMITERS = ",;\t|"
_SAMPLE_ROWS = 20
_SAMPLE_CHARS = 20_000
_MAX_KEY = 200  # a longer one is not a name, and would be repeated in the path of its values


def read_csv(draft: Draft, data: bytes) -> None:
    """Read rows under a header row, each as "Header: value; Header: value"."""
    text = decode(draft.name, data)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    header: list[str] = []
    count = 0
    try:
        for row in rows:
            cells = [" ".join(cell.split()) for cell in row]
            if not any(cells):
                continue
            if not header:
                header = cells
                continue
            draft.paragraph(_row(header, cells))
            count += 1
    except csv.Error as error:
        raise UnreadableDocument(
            f"{draft.name} cannot be read as CSV at line {rows.line_num}: {error}"
        ) from error
    if not count:
        draft.paragraph("; ".join(filter(None, header)))


def read_json(draft: Draft, data: bytes) -> None:
    """Read an object or list as lines of "path: value", with a paragraph for each listed object."""
    text = decode(draft.name, data)
    _write(draft, _load(text, draft.name), split=True)


def read_jsonl(draft: Draft, data: bytes) -> None:
    """Read one value a line, each as a paragraph; a bad line is named by its number."""
    lines = decode(draft.name, data).split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            _write(draft, _load(line, f"line {number} of {draft.name}"), split=False)


def _delimiter(text: str) -> str:
    """Return the delimiter that cuts the first rows into columns most evenly.

    csv.Sniffer is no help with prose in the cells: it takes any letter for a delimiter, or raises.
    """
    return max(_DELIMITERS, key=lambda delimiter: _evenness(text, delimiter))


def _evenness(text: str, delimiter: str) -> tuple[float, int]:
    """Return the share of rows that have the commonest width above one column, and that width."""
    reader = csv.reader(io.StringIO(text[:_SAMPLE_CHARS], newline=""), delimiter=delimiter)
    try:
        widths = [len(row) for row in islice(reader, _SAMPLE_ROWS) if row]
    except csv.Error:
        return 0.0, 0
    wide = Counter(width for width in widths if width > 1)
    if not wide:
        return 0.0, 0
    width, rows = wide.most_common(1)[0]
    return rows / len(widths), width


def _row(header: list[str], cells: list[str]) -> str:
    """Name each cell by its column; a cell beyond the header is "Column N"."""
    named = []
    for number, cell in enumerate(cells):
        title = header[number] if number < len(header) else ""
        if cell:
            named.append(f"{title or f'Column {number + 1}'}: {cell}")
    return "; ".join(named)


def _load(text: str, where: str) -> _Json:
    """Parse JSON with numbers as they are written; raise UnreadableDocument naming `where`."""
    try:
        value: _Json = json.loads(
            text.removeprefix("\ufeff"), parse_int=str, parse_float=str, parse_constant=str
        )
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""
        raise UnreadableDocument(
            f"{where} is not valid JSON: {error.msg} at {line}column {error.colno}"
        ) from error
    except RecursionError as error:
        raise UnreadableDocument(f"{where} nests too deeply to be read as JSON") from error
    return value


def _write(draft: Draft, value: _Json, *, split: bool) -> None:
    """Write a value as a paragraph, or as several when the objects it lists are `split` off."""
    draft.gap()
    for line in _lines(value):
        if line:
            draft.line(line)
        elif split:
            draft.gap()
    draft.gap()


def _lines(value: _Json) -> Iterator[str]:
    """Yield "path: value" lines, and "" where an object of a list begins or a list ends.

    A stack holds what is left at each depth: recursion might go too deep, and all paths at once
    might not fit into memory.
    """
    stack: list[tuple[str, bool, Iterator[tuple[str, _Json]]]] = [("", False, iter([("", value)]))]
    while stack:
        path, listed, children = stack[-1]
        entry = next(children, None)
        if entry is None:
            stack.pop()
            if listed:
                yield ""
            continue
        key, child = entry
        below = ".".join(filter(None, (path, key)))
        if isinstance(child, dict):
            if listed:
                yield ""
            named = ((name[:_MAX_KEY], item) for name, item in child.items())
            stack.append((below, False, named))
        elif isinstance(child, list) and any(isinstance(item, dict | list) for item in child):
            stack.append((below, True, (("", item) for item in child)))
        elif text := _scalars(child if isinstance(child, list) else [child]):
            yield f"{below}: {text}" if below else text


def _scalars(items: list[_Json]) -> str:
    return ", ".join(filter(None, map(_scalar, items)))


def _scalar(value: _Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else ""
