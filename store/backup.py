"""Backups: all stored data in a folder, from which an installation can be restored.

The rows go into a SQLite file, whichever database they come from, in one snapshot while the bot
runs; so a backup also moves an installation from SQLite to Postgres. Adapters are copied with
their hashes. Secrets and files that can be built again (vectors, the converted model) are not.

Invariants: nothing is restored that was changed after it was written, and nobody comes back whom
the installation, or a newer backup beside this one, has erased.
"""

import hashlib
import json
import logging
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Table, func, insert, select, text, update

from store.adapter_files import copy_adapter, folder_of, hash_adapter
from store.adapters import Adapters
from store.backup_key import EncryptionKey, SigningKey
from store.database import Database
from store.erasure import Eraser
from store.errors import AdapterError, BackupUnusable
from store.tables import AdapterRow, Base, DocumentRow
from store.tombstones import erase_again

logger = logging.getLogger(__name__)

ROWS_FILE, MANIFEST_FILE, SETTINGS_FILE = "ratchet.db", "manifest.json", "settings.json"
SIGNATURE_FILE, ENCRYPTED_FILE = "manifest.sig", "backup.age"
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
    settings_sha256: str = ""
    """The SHA-256 of the file with the settings; empty in older backups."""


def back_up(
    database: Database,
    adapters: Path,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    key: SigningKey,
    encryption: EncryptionKey | None = None,
) -> Manifest:
    """Write a signed backup into a new `folder`, with a copy of `settings` for people to read.

    It is written elsewhere and then renamed, so that half a backup is never taken for a whole one;
    other users of the machine cannot read it. With `encryption` it is one encrypted file, and
    nothing that can be read is ever in its place. A version whose files are damaged is left out.
    Raises `BackupUnusable`.
    """
    if folder.exists():
        raise BackupUnusable(f"{folder} exists already: choose a new folder")
    aside = folder.absolute().parent / f".{uuid4().hex}"
    try:
        aside.mkdir(mode=0o700, parents=True)
        if encryption is None:
            manifest = _write(database, adapters, aside, settings, key)
        else:
            adapters.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=adapters.parent) as space:
                plain = Path(space) / "backup"
                plain.mkdir()
                manifest = _write(database, adapters, plain, settings, key)
                _encrypt(plain, aside / ENCRYPTED_FILE, encryption)
        aside.rename(folder)
    except OSError as error:
        raise BackupUnusable(f"the backup cannot be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def _write(
    database: Database,
    adapters: Path,
    folder: Path,
    settings: Mapping[str, Any],
    key: SigningKey,
) -> Manifest:
    with _opened(folder / ROWS_FILE) as copy:
        copy.upgrade()
        rows = _copy_rows(database, copy)
        versions = dict(_copy_sound(Adapters(copy, adapters), folder / ADAPTERS_FOLDER))
    (folder / SETTINGS_FILE).write_text(json.dumps(dict(settings), indent=2), encoding="utf-8")
    manifest = Manifest(
        created_at=database.now().isoformat(),
        rows=rows,
        adapters=versions,
        rows_sha256=_sha256(folder / ROWS_FILE),
        settings_sha256=_sha256(folder / SETTINGS_FILE),
    )
    content = json.dumps(asdict(manifest), indent=2).encode()
    (folder / MANIFEST_FILE).write_bytes(content)
    (folder / SIGNATURE_FILE).write_text(key.sign(content), encoding="ascii")
    return manifest


def restore(
    folder: Path,
    database: Database,
    adapters: Path,
    *,
    key: SigningKey | None,
    encryption: EncryptionKey | None = None,
    newer: Path | None = None,
) -> Manifest:
    """Copy a backup into an empty database, after a check of its signature, counts and hashes.

    Without a `key`, the signature is not asked for. People whom the `newer` backup has erased are
    erased again. The bot indexes the documents again when it runs. Raises `BackupUnusable`; no row
    is written then.
    """
    database.upgrade()
    taken = {name: count for name, count in _counts(database).items() if count}
    if taken:
        raise BackupUnusable(f"the database has rows already ({', '.join(taken)}): empty it first")
    try:
        with tempfile.TemporaryDirectory() as space:
            plain = _plain(folder, Path(space), encryption)
            manifest = _manifest(plain, key)
            rows_file = _checked_rows(plain, manifest, Path(space))
            with _opened(rows_file) as copy:
                copy.upgrade()  # it may come from an earlier version
                if not manifest.rows.items() <= _counts(copy).items():
                    raise BackupUnusable(f"the rows in {folder} do not match its manifest")
                _copy_adapters(plain, copy, manifest, adapters)
                if newer is not None:
                    _erase_again(copy, manifest, newer, key, encryption)
                _copy_rows(copy, database, index_anew=True)
        Eraser(database).resume()
    except (OSError, AdapterError) as error:
        raise BackupUnusable(f"{folder} cannot be restored: {error}") from error
    return manifest


def newest_beside(folder: Path) -> Path | None:
    """Return the newest other backup in the same place, if it is newer than this one."""
    others = [
        each
        for each in folder.absolute().parent.iterdir()
        if (each / MANIFEST_FILE).is_file() or (each / ENCRYPTED_FILE).is_file()
    ]
    newest = max(others, key=lambda each: each.stat().st_mtime, default=None)
    return newest if newest is not None and not newest.samefile(folder) else None


def _checked_rows(plain: Path, manifest: Manifest, space: Path) -> Path:
    """Return a copy of the file with the rows, once its hash is right."""
    rows_file = Path(shutil.copy(plain / ROWS_FILE, space / "rows.db"))
    if _sha256(rows_file) != manifest.rows_sha256:
        raise BackupUnusable(f"{plain / ROWS_FILE} is damaged: it was changed after it was written")
    return rows_file


def _copy_adapters(plain: Path, copy: Database, manifest: Manifest, adapters: Path) -> None:
    with copy.reading() as session:
        named = set(session.scalars(select(AdapterRow.name)))
    for name in {*manifest.adapters, *named}:
        folder_of(adapters, name)  # before anything is written
    for name, sha256 in manifest.adapters.items():
        kept = folder_of(adapters, name)
        copy_adapter(folder_of(plain / ADAPTERS_FOLDER, name), kept)
        if hash_adapter(kept) != sha256:
            raise BackupUnusable(f"{name} in {plain} does not match its manifest")


def _erase_again(
    copy: Database,
    manifest: Manifest,
    newer: Path,
    key: SigningKey | None,
    encryption: EncryptionKey | None,
) -> None:
    with tempfile.TemporaryDirectory() as space:
        plain = _plain(newer, Path(space), encryption)
        rows_file = _checked_rows(plain, _manifest(plain, key), Path(space))
        with _opened(rows_file) as opened:
            opened.upgrade()
            erase_again(copy, opened, datetime.fromisoformat(manifest.created_at))


def _encrypt(plain: Path, target: Path, encryption: EncryptionKey) -> None:
    packed = plain.parent / "backup.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(plain, arcname=".")
    with packed.open("rb") as source, target.open("wb") as encrypted:
        encryption.encrypt(source, encrypted)


def _plain(folder: Path, space: Path, encryption: EncryptionKey | None) -> Path:
    """Return the folder with a backup's files, which are decrypted into `space` if need be."""
    encrypted = folder / ENCRYPTED_FILE
    if not encrypted.is_file():
        return folder
    if encryption is None:
        raise BackupUnusable(f"{folder} is encrypted: name the key with --encryption-key")
    packed, plain = space / "backup.tar", space / "backup"
    with encrypted.open("rb") as source, packed.open("wb") as target:
        encryption.decrypt(source, target)
    try:
        with tarfile.open(packed) as tar:
            tar.extractall(plain, filter="data")  # it refuses names that lead out of the folder
    except tarfile.TarError as error:
        raise BackupUnusable(f"{folder} holds no backup: {error}") from None
    packed.unlink()
    return plain


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


def _manifest(folder: Path, key: SigningKey | None) -> Manifest:
    try:
        content = (folder / MANIFEST_FILE).read_bytes()
        manifest = Manifest(**json.loads(content))
    except (OSError, ValueError, TypeError) as error:
        raise BackupUnusable(f"{folder} holds no backup: {error}") from None
    if key is None:
        return manifest
    signature = folder / SIGNATURE_FILE
    if not signature.is_file():
        raise BackupUnusable(f"{folder} is not signed; --unsigned restores it all the same")
    if not key.matches(content, signature.read_text(encoding="ascii", errors="replace").strip()):
        raise BackupUnusable(
            f"{folder} was changed after it was written, or another installation signed it: name "
            "that one's key with --signing-key"
        )
    if _sha256(folder / SETTINGS_FILE) != manifest.settings_sha256:
        raise BackupUnusable(f"{folder / SETTINGS_FILE} was changed after it was written")
    return manifest


@contextmanager
def _opened(file: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{file}")
    try:
        yield database
    finally:
        database.close()
