"""The sandbox: a process of its own that reads a file, within limits of memory and time.

Files from strangers are read by libraries that may crash, hang, fill the memory, or be taken over;
then only the sandbox is. It has no variables, so no token; it writes no files, starts no process,
and has no network where the system can do without (`cuts_network`). Plain text is read in this
process, since only our own code reads it.
"""

import ctypes
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
"""Memory of the process; a file of the largest size takes a quarter of it."""

OPEN_FILES = 32
"""Files that the process may hold open; it opens modules of its own, and no more."""

COMMAND = [sys.executable, "-I", "-m", "store.documents.sandbox"]
"""Isolated: no module comes from the working folder, and no variable changes what is run."""

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
"""Flags of Linux's unshare(2)."""

CPU_SECONDS = 60
WALL_SECONDS = 120.0


def parse_apart(
    name: str,
    data: bytes,
    *,
    memory_bytes: int = MEMORY_BYTES,
    wall_seconds: float = WALL_SECONDS,
) -> ParsedDocument:
    """Parse a file in the sandbox. Raises like `parse`, and `UnreadableDocument` at a limit."""
    if PurePosixPath(name).suffix.lower() in PLAIN:
        return parse(name, data)
    try:
        done = subprocess.run(
            [*COMMAND, str(memory_bytes)],
            env={},
            cwd="/",
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


def cuts_network() -> bool:
    """Return whether the system lets the sandbox do without the network."""
    done = subprocess.run(
        [*COMMAND, "network"], env={}, cwd="/", capture_output=True, timeout=30, check=False
    )
    return done.returncode == 0


def _leave_the_network() -> bool:
    """Move this process into a namespace without a network; return whether the system allows it.

    See `unshare(2)`. A process that is not root may do so in a user namespace of its own.
    """
    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None)
    if unshare is None:  # no Linux
        return False
    return any(unshare(flags) == 0 for flags in (_NEW_NETWORK, _NEW_USER | _NEW_NETWORK))


def _limit(memory_bytes: int) -> None:
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        with suppress(ValueError, OSError):  # the system lacks this limit, or allows less
            resource.setrlimit(what, (most, most))


def main() -> None:
    """Read a name and a file from standard input; write the document, or the error, as JSON.

    Run with `python -m store.documents.sandbox BYTES`. With `network` in place of the number, only
    tell by the exit code whether the network can be left.
    """
    is_cut = _leave_the_network()
    if sys.argv[1] == "network":
        sys.exit(0 if is_cut else 1)
    answer, sys.stdout = sys.stdout, sys.stderr  # a library's prints must not mix with the answer
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
