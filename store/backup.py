"""Backups: all stored data in a folder, from which an installation can be restored.

The rows go into a SQLite file, whichever database they come from, in one snapshot while the bot
runs; so a backup also moves an installation from SQLite to Postgres. Adapters are copied with
their hashes. Secrets and files that can be built again (vectors, the converted model) are not.
"""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Table, func, insert, select, text, update

from store.adapter_files import copy_adapter, folder_of, hash_adapter
from store.adapters import Adapters
from store.database import Database
from store.errors import AdapterError, BackupUnusable
from store.tables import AdapterRow, Base, DocumentRow

logger = logging.getLogger(__name__)

ROWS_FILE, MANIFEST_FILE, SETTINGS_FILE = "ratchet.db", "manifest.json", "settings.json"
ADAPTERS_FOLDER = "adapters"
ROWS_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of a backup, against which a restore checks it."""

    created_at: str
    rows: dict[str, int]
    """The number of rows, by table."""
    adapters: dict[str, str]
    """The SHA-256, by name, of the adapters whose files are in the backup."""
    rows_sha256: str
    """The SHA-256 of the file with the rows."""


def back_up(
    database: Database, adapters: Path, folder: Path, settings: Mapping[str, Any]
) -> Manifest:
    """Write a backup into a new `folder`, with a copy of `settings` for people to read.

    It is written elsewhere and then renamed, so that half a backup is never taken for a whole one;
    other users of the machine cannot read it. A version whose files are damaged is left out.
    Raises `BackupUnusable`.
    """
    if folder.exists():
        raise BackupUnusable(f"{folder} exists already: choose a new folder")
    aside = folder.absolute().parent / f".{uuid4().hex}"
    try:
        aside.mkdir(mode=0o700, parents=True)
        with _opened(aside / ROWS_FILE) as copy:
            copy.upgrade()
            rows = _copy_rows(database, copy)
            versions = dict(_copy_sound(Adapters(copy, adapters), aside / ADAPTERS_FOLDER))
        manifest = Manifest(
            created_at=database.now().isoformat(),
            rows=rows,
            adapters=versions,
            rows_sha256=_sha256(aside / ROWS_FILE),
        )
        for name, content in ((MANIFEST_FILE, asdict(manifest)), (SETTINGS_FILE, dict(settings))):
            (aside / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
        aside.rename(folder)
    except OSError as error:
        raise BackupUnusable(f"the backup cannot be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def restore(folder: Path, database: Database, adapters: Path) -> Manifest:
    """Copy a backup into an empty database, after a check of its counts and hashes.

    The bot indexes the documents again when it runs. Raises `BackupUnusable`; no row is written
    then.
    """
    manifest = _manifest(folder)
    database.upgrade()
    taken = {name: count for name, count in _counts(database).items() if count}
    if taken:
        raise BackupUnusable(f"the database has rows already ({', '.join(taken)}): empty it first")
    try:
        with tempfile.TemporaryDirectory() as space:
            rows_file = Path(shutil.copy(folder / ROWS_FILE, space))
            if _sha256(rows_file) != manifest.rows_sha256:
                raise BackupUnusable(
                    f"{folder / ROWS_FILE} is damaged: it was changed after it was written"
                )
            with _opened(rows_file) as copy:
                copy.upgrade()  # it may come from an earlier version
                if not manifest.rows.items() <= _counts(copy).items():
                    raise BackupUnusable(f"the rows in {folder} do not match its manifest")
                with copy.reading() as session:
                    named = set(session.scalars(select(AdapterRow.name)))
                for name in {*manifest.adapters, *named}:
                    folder_of(adapters, name)  # before anything is written
                for name, sha256 in manifest.adapters.items():
                    kept = folder_of(adapters, name)
                    copy_adapter(folder_of(folder / ADAPTERS_FOLDER, name), kept)
                    if hash_adapter(kept) != sha256:
                        raise BackupUnusable(f"{name} in {folder} does not match its manifest")
                _copy_rows(copy, database, index_anew=True)
    except (OSError, AdapterError) as error:
        raise BackupUnusable(f"{folder} cannot be restored: {error}") from error
    return manifest


def _copy_rows(source: Database, target: Database, *, index_anew: bool = False) -> dict[str, int]:
    """Copy the rows of one snapshot in one transaction; return the number of rows by table."""
    counts = {}
    with source.snapshot() as reader, target.engine.begin() as writer:
        for table in Base.metadata.sorted_tables:
            counts[table.name] = 0
            found = reader.execute(select(table).order_by(*table.primary_key.columns))
            for part in found.partitions(ROWS_AT_ONCE):
                writer.execute(insert(table), [dict(row._mapping) for row in part])
                counts[table.name] += len(part)
            _go_on_counting(writer, table)
        if index_anew:
            writer.execute(update(DocumentRow).values(indexed_in=None))
    return counts


def _go_on_counting(writer: Connection, table: Table) -> None:
    """Set Postgres's id counter to the highest id; SQLite looks for it by itself."""
    if writer.dialect.name == "postgresql" and table.autoincrement_column is not None:
        column = table.autoincrement_column.name
        writer.execute(
            text(
                f"SELECT setval(pg_get_serial_sequence('{table.name}', '{column}'), "
                f"(SELECT max({column}) FROM {table.name}))"
            )
        )


def _copy_sound(adapters: Adapters, target: Path) -> Iterator[tuple[str, str]]:
    """Copy the files of versions that match their hashes; yield each one's name and hash."""
    for each in adapters.all():
        try:
            adapters.get(each.name)
        except AdapterError as error:  # removed, or damaged
            logger.warning("the backup leaves out %s: %s", each.name, error)
            continue
        copy_adapter(Path(each.path), target / each.name)
        yield each.name, each.sha256


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _counts(database: Database) -> dict[str, int]:
    with database.snapshot() as reader:
        return {
            table.name: reader.execute(select(func.count()).select_from(table)).scalar_one()
            for table in Base.metadata.sorted_tables
        }


def _manifest(folder: Path) -> Manifest:
    try:
        return Manifest(**json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise BackupUnusable(f"{folder} holds no backup: {error}") from None


@contextmanager
def _opened(file: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{file}")
    try:
        yield database
    finally:
        database.close()
