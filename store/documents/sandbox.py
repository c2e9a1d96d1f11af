"""Reads a file in a process of its own, within limits of memory and time.

What strangers send is read by libraries that may crash, hang or fill the memory; then only that
process does. Plain text is read here: nobody's code but ours looks at it.
"""

import json
import resource
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from store import errors
from store.documents.parser import ParsedDocument, Section, make_ready, parse
from store.errors import DocumentError, UnreadableDocument

PLAIN = frozenset({".txt", ".md"})
MEMORY_BYTES = 2**30
"""A file of the largest size takes a quarter of it."""

CPU_SECONDS = 60
WALL_SECONDS = 120.0


def parse_apart(
    name: str,
    data: bytes,
    *,
    memory_bytes: int = MEMORY_BYTES,
    wall_seconds: float = WALL_SECONDS,
) -> ParsedDocument:
    """What `parse` makes of a file; raises what it raises, and `UnreadableDocument` at a limit."""
    if PurePosixPath(name).suffix.lower() in PLAIN:
        return parse(name, data)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "store.documents.sandbox", str(memory_bytes)],
            input=json.dumps(name).encode() + b"\n" + data,
            capture_output=True,
            timeout=wall_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnreadableDocument("that file takes too long to read: split it up") from None
    if done.returncode != 0:
        raise UnreadableDocument(
            "that file cannot be read: it is damaged, or takes too much memory or time"
        )
    return _document(json.loads(done.stdout))


def _document(found: dict[str, Any]) -> ParsedDocument:
    if "error" in found:
        kind: type[DocumentError] = getattr(errors, found["error"])
        raise kind(found["message"])
    sections = tuple(Section(**section) for section in found["sections"])
    return ParsedDocument(title=found["title"], media_type=found["media_type"], sections=sections)


def _limit(memory_bytes: int) -> None:
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
    ):
        with suppress(ValueError, OSError):  # a system that does not know it, or allows less
            resource.setrlimit(what, (most, most))


def main() -> None:
    """`python -m store.documents.sandbox BYTES`: name and file in, document or error out."""
    answer, sys.stdout = sys.stdout, sys.stderr  # where what a library prints does no harm
    name = json.loads(sys.stdin.buffer.readline())
    make_ready(name)
    _limit(int(sys.argv[1]))
    try:
        found = asdict(parse(name, sys.stdin.buffer.read()))
    except DocumentError as error:
        found = {"error": type(error).__name__, "message": str(error)}
    json.dump(found, answer)


if __name__ == "__main__":
    main()
