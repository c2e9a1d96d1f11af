"""A backup holds everything, is whole or not there, and comes back as it was."""

import errno
import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from store.adapters import Adapters, hash_adapter
from store.backup import MANIFEST_FILE, ROWS_FILE, back_up, restore
from store.database import Database
from store.domain import Rating
from store.errors import BackupUnusable
from store.settings import make_settings
from store.tables import Base, DocumentRow
from tests.store.talk import ADA, rate, talk


def fill(database: Database, adapters: Path, tmp_path: Path) -> None:
    """Add a turn with a rating, a document, and a version in use."""
    rate(database, talk(database, "What is tea?"), Rating.UP)
    with database.session() as session:
        session.add(
            DocumentRow(
                name="tea.md",
                title="Tea",
                media_type="text/markdown",
                sha256="0",
                size_bytes=3,
                chunk_chars=240,
                indexed_in="here",
                added_by=ADA,
                created_at=database.now(),
            )
        )
    made = tmp_path / "made"
    made.mkdir()
    (made / "adapter_config.json").write_text("{}")
    (made / "adapter_model.safetensors").write_bytes(b"weights")
    registry = Adapters(database, adapters)
    version = registry.add(made, base_model="base")
    registry.promote(version.name, base_model="base", reason="test")


def rows(database: Database) -> dict[str, list[dict[str, Any]]]:
    with database.reading() as session:
        return {
            table.name: [dict(row._mapping) for row in session.execute(select(table))]
            for table in Base.metadata.sorted_tables
        }


@pytest.fixture
def empty(tmp_path: Path) -> Database:
    """Return another installation's database, without a schema."""
    return Database(f"sqlite:///{tmp_path / 'other' / 'ratchet.db'}")


def test_what_was_backed_up_comes_back_as_it_was(
    database: Database, empty: Database, tmp_path: Path
) -> None:
    fill(database, tmp_path / "adapters", tmp_path)

    made = back_up(database, tmp_path / "adapters", tmp_path / "backup", {})
    back = restore(tmp_path / "backup", empty, tmp_path / "other" / "adapters")

    before, after = rows(database), rows(empty)
    (document,) = after["documents"]
    assert document["indexed_in"] is None, "it is indexed anew"
    before["documents"][0]["indexed_in"] = None
    assert after == before
    assert made == back
    assert {name: len(found) for name, found in after.items()} == made.rows
    version = Adapters(empty, tmp_path / "other" / "adapters").active()
    assert version is not None
    assert hash_adapter(Path(version.path)) == version.sha256 == made.adapters[version.name]


def test_it_comes_back_into_the_other_kind_of_database_and_ids_go_on(
    sqlite: Database, postgres: Database, tmp_path: Path
) -> None:
    fill(sqlite, tmp_path / "adapters", tmp_path)
    back_up(sqlite, tmp_path / "adapters", tmp_path / "backup", {})

    restore(tmp_path / "backup", postgres, tmp_path / "other")

    assert talk(postgres, "And coffee?") > max(row["id"] for row in rows(sqlite)["turns"])


def test_nothing_is_restored_over_what_is_there(sqlite: Database, tmp_path: Path) -> None:
    fill(sqlite, tmp_path / "adapters", tmp_path)
    back_up(sqlite, tmp_path / "adapters", tmp_path / "backup", {})

    with pytest.raises(BackupUnusable, match="has rows already"):
        restore(tmp_path / "backup", sqlite, tmp_path / "adapters")


def test_a_folder_that_exists_is_not_written_into(sqlite: Database, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()

    with pytest.raises(BackupUnusable, match="exists already"):
        back_up(sqlite, tmp_path / "adapters", tmp_path / "backup", {})


def test_a_backup_that_cannot_be_written_leaves_nothing(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sqlite, tmp_path / "adapters", tmp_path)
    before = {each.name for each in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("store.backup.copy_adapter", full)

    with pytest.raises(BackupUnusable, match="No space left"):
        back_up(sqlite, tmp_path / "adapters", tmp_path / "backup", {})

    assert {each.name for each in tmp_path.iterdir()} == before


def test_a_version_whose_files_are_damaged_is_left_out(
    sqlite: Database, empty: Database, tmp_path: Path
) -> None:
    fill(sqlite, tmp_path / "adapters", tmp_path)
    for file in (tmp_path / "adapters").rglob("*.safetensors"):
        file.write_bytes(b"tampered")

    made = back_up(sqlite, tmp_path / "adapters", tmp_path / "backup", {})
    restore(tmp_path / "backup", empty, tmp_path / "other" / "adapters")

    assert made.adapters == {}
    assert rows(empty)["adapters"] == rows(sqlite)["adapters"]


def test_nobody_else_on_the_machine_can_read_a_backup(sqlite: Database, tmp_path: Path) -> None:
    back_up(sqlite, tmp_path / "adapters", tmp_path / "backup", {})

    assert (tmp_path / "backup").stat().st_mode & 0o077 == 0


@pytest.mark.bad_input("a damaged backup")
@pytest.mark.parametrize(
    "damage", ["no manifest", "fewer rows", "another word", "another adapter", "no folder"]
)
def test_a_damaged_backup_is_refused_and_no_row_is_written(
    sqlite: Database, empty: Database, tmp_path: Path, damage: str
) -> None:
    fill(sqlite, tmp_path / "adapters", tmp_path)
    backup = tmp_path / "backup"
    back_up(sqlite, tmp_path / "adapters", backup, {})
    if damage == "no manifest":
        (backup / MANIFEST_FILE).unlink()
    elif damage == "fewer rows":
        manifest = json.loads((backup / MANIFEST_FILE).read_text())
        manifest["rows"]["turns"] += 1
        (backup / MANIFEST_FILE).write_text(json.dumps(manifest))
    elif damage == "another word":
        content = (backup / ROWS_FILE).read_bytes()
        (backup / ROWS_FILE).write_bytes(content.replace(b"tea", b"pie"))
        assert (backup / ROWS_FILE).read_bytes() != content
    elif damage == "another adapter":
        for file in (backup / "adapters").rglob("*.safetensors"):
            file.write_bytes(b"tampered")
    else:
        shutil.rmtree(backup)

    with pytest.raises(BackupUnusable):
        restore(backup, empty, tmp_path / "other" / "adapters")

    empty.upgrade()
    assert not any(rows(empty).values())


@pytest.mark.bad_input("a damaged backup")
@pytest.mark.parametrize("name", ["../../victim", "..", "/etc", "a1-../../xx", "a1-0000000", ""])
@pytest.mark.parametrize("where", ["manifest", "row"])
def test_a_name_that_leads_out_of_the_folder_is_refused(
    sqlite: Database, empty: Database, tmp_path: Path, name: str, where: str
) -> None:
    fill(sqlite, tmp_path / "adapters", tmp_path)
    backup, victim = tmp_path / "backup", tmp_path / "other" / "victim"
    back_up(sqlite, tmp_path / "adapters", backup, {})
    manifest = json.loads((backup / MANIFEST_FILE).read_text())
    if where == "manifest":
        [(known, sha256)] = manifest["adapters"].items()
        manifest["adapters"] = {name: sha256}
        (backup / "adapters" / known).rename(backup / "moved")
    else:
        with closing(sqlite3.connect(backup / ROWS_FILE)) as rows_file:
            rows_file.execute("UPDATE adapters SET name = ?", (name,))
            rows_file.commit()
            rows_file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        content = (backup / ROWS_FILE).read_bytes()
        manifest["rows_sha256"] = hashlib.sha256(content).hexdigest()
    (backup / MANIFEST_FILE).write_text(json.dumps(manifest))
    victim.mkdir(parents=True)

    with pytest.raises(BackupUnusable, match="no name of a version"):
        restore(backup, empty, tmp_path / "other" / "data" / "adapters")

    empty.upgrade()
    assert not any(rows(empty).values())
    assert list(victim.iterdir()) == []


def test_no_secret_is_in_a_backup(sqlite: Database, tmp_path: Path) -> None:
    settings = make_settings(telegram_token="42:hidden", database_url="postgresql://me:hidden@db/x")

    back_up(sqlite, tmp_path / "adapters", tmp_path / "backup", settings.public)

    files = [each for each in (tmp_path / "backup").iterdir() if each.is_file()]
    assert {each.name for each in files} == {ROWS_FILE, MANIFEST_FILE, "settings.json"}
    assert not any(b"hidden" in each.read_bytes() for each in files)
