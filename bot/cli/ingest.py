"""`ratchet ingest`: adds files and folders to the documents."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bot.errors import UsageError
from store.documents.documents import Documents
from store.documents.parser import MAX_BYTES, SUFFIXES
from store.domain import TERMINAL_PERSON_ID, AddOutcome, Document
from store.errors import DocumentError, DocumentTooLarge


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """The result of one file: a document with its outcome, or the reason for a failure."""

    path: Path
    document: Document | None = None
    outcome: AddOutcome | None = None
    reason: str = ""


def find_files(paths: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Yield every file to add, with its name among the documents.

    A file in `paths` is added whatever its type. In a folder, only readable types are added and
    hidden files are skipped; their names are their paths in the folder. Raises `UsageError`.
    """
    for path in paths:
        if path.is_file():
            yield path.name, path
        elif path.is_dir():
            for file in sorted(path.rglob("*")):
                inside = file.relative_to(path)
                hidden = any(part.startswith(".") for part in inside.parts)
                if file.is_file() and not hidden and file.suffix.lower() in SUFFIXES:
                    yield inside.as_posix(), file
        else:
            raise UsageError(f"there is no file or folder {path}")


def ingest(
    knowledge: Documents, paths: Iterable[Path], report: Callable[[Ingested], None]
) -> list[Ingested]:
    """Add every file; a file that cannot be read does not stop the others."""
    results = []
    files = list(find_files(paths))
    for name, path in _no_name_twice(files):
        results.append(_ingest_one(knowledge, name, path))
        report(results[-1])
    return results


def _no_name_twice(files: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    # A file of the same name counts as a new version, so the second would replace the first.
    seen: dict[str, Path] = {}
    for name, path in files:
        if name in seen and seen[name].resolve() != path.resolve():
            raise UsageError(
                f"{seen[name]} and {path} would both be called {name}: ingest their common folder"
            )
        seen[name] = path
    return files


def _ingest_one(knowledge: Documents, name: str, path: Path) -> Ingested:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DocumentTooLarge(f"{name} is larger than {MAX_BYTES // 1_000_000} MB")
        document, outcome = knowledge.add(name, path.read_bytes(), added_by=TERMINAL_PERSON_ID)
    except (DocumentError, OSError) as error:
        return Ingested(path=path, reason=str(error))
    return Ingested(path=path, document=document, outcome=outcome)
