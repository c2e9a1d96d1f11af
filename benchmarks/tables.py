"""The figures that the docs quote: `python -m benchmarks.tables` writes them into the pages.

A file `benchmarks/results/NAME.json` keeps one table: the command that prints such figures, the
date, the machine in words, the columns, and rows of numbers. In a page the table stands between
`<!-- results: NAME -->` and `<!-- end of results -->`. Figures are changed in the JSON alone, and
a test compares. A benchmark writes what it measures to `benchmarks/measured/`, which git ignores;
copy from there what is to be quoted.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"

END = "<!-- end of results -->"
BLOCK = re.compile(rf"<!-- results: (\S+) -->\n.*?{END}", re.DOTALL)
MISSING = "–"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table. `format` is Python's, for the number or numbers of a cell."""

    name: str
    format: str | None = None
    """Format of the numbers; None for a column of words."""

    def shown(self, cell: Any) -> str:
        """Return the text of a cell: a dash for None, words unchanged."""
        if cell is None:
            return MISSING
        if isinstance(cell, str) or self.format is None:
            return str(cell)
        numbers = cell if isinstance(cell, list) else [cell]
        return self.format.format(*numbers).replace("-", "−")


def table(name: str) -> str:
    """Return a table in Markdown, with its command, date and machine below."""
    found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    columns = [Column(**column) for column in found["columns"]]
    lines = [
        _row([column.name for column in columns]),
        _row(["---" if column.format is None else "---:" for column in columns]),
    ]
    for cells in found["rows"]:
        shown = [column.shown(cell) for column, cell in zip(columns, cells, strict=True)]
        lines.append(_row(shown))
    lines += ["", f"`{found['command']}`, {found['date']}, on {found['machine']}."]
    return "\n".join(lines)


def pages() -> list[Path]:
    """Return every page that may quote figures."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def names(page: str) -> list[str]:
    """Return the names of the tables that a page quotes."""
    return BLOCK.findall(page)


def filled(page: str) -> str:
    """Return a page with every table filled from its JSON."""

    def block(match: re.Match[str]) -> str:
        return f"<!-- results: {match[1]} -->\n{table(match[1])}\n{END}"

    return BLOCK.sub(block, page)


def main() -> None:
    """Write the tables into the pages."""
    for path in pages():
        before = path.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"{path.relative_to(ROOT)} is changed")


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
