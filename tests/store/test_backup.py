"""A backup holds everything, is whole or not there, and comes back as it was."""

import errno
import hashlib
import json
import shutil
import sqlite3
import tarfile
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from store.adapters import Adapters, hash_adapter
from store.backup import (
    ENCRYPTED_FILE,
    MANIFEST_FILE,
    ROWS_FILE,
    SETTINGS_FILE,
    SIGNATURE_FILE,
    back_up,
    newest_beside,
    restore,
)
from store.backup_key import EncryptionKey, SigningKey
from store.database import Database
from store.domain import Rating
from store.erasure import Eraser
from store.errors import BackupUnusable
from store.settings import make_settings
from store.tables import Base, DocumentRow
from tests.fakes import Clock
from tests.store.talk import ADA, BOB, CLEO, rate, talk


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


KEY = SigningKey(b"k" * 32)


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

    made = back_up(database, tmp_path / "adapters", tmp_path / "backup", {}, key=KEY)
    back = restore(tmp_path / "backup", empty, tmp_path / "other" / "adapters", key=KEY)

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
    back_up(sqlite, tmp_path / "adapters", tmp_path / "backup", {}, key=KEY)

    restore(tmp_path / "backup", postgres, tmp_path / "other", key=KEY)

    assert talk(postgres, "And coffee?") > max(row["id"] for row in rows(sqlite)["turns"])


def test_nothing_is_restored_over_what_is_there(sqlite: Database, tmp_path: Path) -> None:
    fill(sqlite, tmp_path / "adapters", tmp_path)
    back_up(sqlite, tmp_path / "adapters", tmp_path / "backup", {}, key=KEY)

    with pytest.raises(BackupUnusable, match="has rows already"):
        restore(tmp_path / "backup", sqlite, tmp_path / "adapters", key=KEY)


def test_a_folder_that_exists_is_not_written_into(sqlite: Database, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()

    with pytest.raises(BackupUnusable, match="exists already"):
        back_up(sqlite, tmp_path / "adapters", tmp_path / "backup", {}, key=KEY)


def test_a_backup_that_cannot_be_written_leaves_nothing(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sqlite, tmp_path / "adapters", tmp_path)
    before = {each.name for each in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("store.backup.copy_adapter", full)

    with pytest.raises(BackupUnusable, match="No space left"):
        back_up(sqlite, tmp_path / "adapters", tmp_path / "backup", {}, key=KEY)

    assert {each.name for each in tmp_path.iterdir()} == before


def test_a_version_whose_files_are_damaged_is_left_out(
    sqlite: Database, empty: Database, tmp_path: Path
) -> None:
    fill(sqlite, tmp_path / "adapters", tmp_path)
    for file in (tmp_path / "adapters").rglob("*.safetensors"):
        file.write_bytes(b"tampered")

    made = back_up(sqlite, tmp_path / "adapters", tmp_path / "backup", {}, key=KEY)
    restore(tmp_path / "backup", empty, tmp_path / "other" / "adapters", key=KEY)

    assert made.adapters == {}
    assert rows(empty)["adapters"] == rows(sqlite)["adapters"]


def test_nobody_else_on_the_machine_can_read_a_backup(sqlite: Database, tmp_path: Path) -> None:
    back_up(sqlite, tmp_path / "adapters", tmp_path / "backup", {}, key=KEY)

    assert (tmp_path / "backup").stat().st_mode & 0o077 == 0


@pytest.mark.bad_input("a damaged backup")
@pytest.mark.parametrize("key", [KEY, None], ids=["signed", "unsigned"])
@pytest.mark.parametrize(
    "damage", ["no manifest", "fewer rows", "another word", "another adapter", "no folder"]
)
def test_a_damaged_backup_is_refused_and_no_row_is_written(
    sqlite: Database, empty: Database, tmp_path: Path, damage: str, key: SigningKey | None
) -> None:
    fill(sqlite, tmp_path / "adapters", tmp_path)
    backup = tmp_path / "backup"
    back_up(sqlite, tmp_path / "adapters", backup, {}, key=KEY)
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
        restore(backup, empty, tmp_path / "other" / "adapters", key=key)

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
    back_up(sqlite, tmp_path / "adapters", backup, {}, key=KEY)
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
        restore(backup, empty, tmp_path / "other" / "data" / "adapters", key=None)

    empty.upgrade()
    assert not any(rows(empty).values())
    assert list(victim.iterdir()) == []


def test_no_secret_is_in_a_backup(sqlite: Database, tmp_path: Path) -> None:
    chosen = make_settings(telegram_token="42:hidden", database_url="postgresql://me:hidden@db/x")

    back_up(sqlite, tmp_path / "adapters", tmp_path / "backup", chosen.public, key=KEY)

    files = [each for each in (tmp_path / "backup").iterdir() if each.is_file()]
    assert {each.name for each in files} == {
        ROWS_FILE,
        MANIFEST_FILE,
        SIGNATURE_FILE,
        SETTINGS_FILE,
    }
    assert not any(b"hidden" in each.read_bytes() for each in files)


@pytest.mark.bad_input("a damaged backup")
@given(data=st.data())
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_byte_of_a_signed_backup_is_changed_it_is_refused(
    sqlite: Database, tmp_path: Path, data: st.DataObject
) -> None:
    place = Path(tempfile.mkdtemp(dir=tmp_path))
    if not Adapters(sqlite, tmp_path / "adapters").all():
        fill(sqlite, tmp_path / "adapters", tmp_path)
    back_up(sqlite, tmp_path / "adapters", place / "backup", {"model": "starter"}, key=KEY)
    files = sorted(each for each in (place / "backup").rglob("*") if each.is_file())
    changed = data.draw(st.sampled_from(files))
    content = bytearray(changed.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 127))
    changed.write_bytes(content)
    other = Database(f"sqlite:///{place / 'other' / 'ratchet.db'}")

    with pytest.raises(BackupUnusable):
        restore(place / "backup", other, place / "other" / "adapters", key=KEY)

    assert not any(rows(other).values())
    other.close()


def test_a_backup_of_another_installation_is_refused_without_its_key(
    sqlite: Database, empty: Database, tmp_path: Path
) -> None:
    key = SigningKey.read_or_make(tmp_path / "theirs.key")
    back_up(sqlite, tmp_path / "adapters", tmp_path / "backup", {}, key=key)

    with pytest.raises(BackupUnusable, match="another installation signed it"):
        restore(tmp_path / "backup", empty, tmp_path / "other", key=KEY)

    again = SigningKey.read_or_make(tmp_path / "theirs.key")
    restore(tmp_path / "backup", empty, tmp_path / "other", key=again)


def test_a_backup_without_a_signature_says_how_to_restore_it(
    sqlite: Database, empty: Database, tmp_path: Path
) -> None:
    back_up(sqlite, tmp_path / "adapters", tmp_path / "backup", {}, key=KEY)
    (tmp_path / "backup" / SIGNATURE_FILE).unlink()

    with pytest.raises(BackupUnusable, match="--unsigned"):
        restore(tmp_path / "backup", empty, tmp_path / "other", key=KEY)

    restore(tmp_path / "backup", empty, tmp_path / "other", key=None)


@pytest.mark.parametrize("content", ["", "zz", "ab" * 31, "\u00e4"])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "backup.key"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(BackupUnusable, match="no key that signs backups"):
        SigningKey.read_or_make(path)


def test_keys_are_their_owners_alone(tmp_path: Path) -> None:
    SigningKey.read_or_make(tmp_path / "backup.key")
    EncryptionKey.make(tmp_path / "identity")

    for name in ("backup.key", "identity"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0


def test_an_encrypted_backup_comes_back_with_its_key_and_with_no_other(
    sqlite: Database, empty: Database, tmp_path: Path
) -> None:
    fill(sqlite, tmp_path / "adapters", tmp_path)
    ours, other = (EncryptionKey.make(tmp_path / name) for name in ("ours", "other key"))
    made = back_up(sqlite, tmp_path / "adapters", tmp_path / "backup", {}, key=KEY, encryption=ours)

    [file] = (tmp_path / "backup").iterdir()
    assert file.name == ENCRYPTED_FILE
    assert b"What is tea?" not in file.read_bytes()
    with pytest.raises(BackupUnusable, match="--encryption-key"):
        restore(tmp_path / "backup", empty, tmp_path / "other", key=KEY)
    with pytest.raises(BackupUnusable, match="cannot be decrypted"):
        restore(tmp_path / "backup", empty, tmp_path / "other", key=KEY, encryption=other)
    again = EncryptionKey.read(tmp_path / "ours")
    back = restore(tmp_path / "backup", empty, tmp_path / "other", key=KEY, encryption=again)
    assert back == made
    assert rows(empty)["turns"] == rows(sqlite)["turns"]


def test_a_packed_backup_whose_names_lead_out_of_it_is_refused(
    sqlite: Database, empty: Database, tmp_path: Path
) -> None:
    key = EncryptionKey.make(tmp_path / "identity")
    packed, backup = tmp_path / "evil.tar", tmp_path / "backup"
    with tarfile.open(packed, "w") as tar:
        tar.add(__file__, arcname="../victim.py")
    backup.mkdir()
    with packed.open("rb") as source, (backup / ENCRYPTED_FILE).open("wb") as target:
        key.encrypt(source, target)

    with pytest.raises(BackupUnusable, match="holds no backup"):
        restore(backup, empty, tmp_path / "other", key=KEY, encryption=key)


@pytest.mark.parametrize("encrypted", [False, True])
def test_restoring_an_older_backup_brings_nobody_back_whom_a_newer_one_erased(
    database: Database, empty: Database, tmp_path: Path, clock: Clock, encrypted: bool
) -> None:
    encryption = EncryptionKey.make(tmp_path / "identity") if encrypted else None
    keys = {"key": KEY, "encryption": encryption}
    place = tmp_path / "backups"
    talk(database, "a secret", person_id=ADA)
    talk(database, "a question", person_id=BOB)
    Eraser(database).erase_person(CLEO)
    clock.advance(seconds=60)
    back_up(database, tmp_path / "adapters", place / "older", {}, **keys)  # type: ignore[arg-type]
    talk(database, "back again", person_id=CLEO)
    clock.advance(seconds=60)
    Eraser(database).erase_person(ADA)
    time.sleep(0.02)  # folders are told apart by the times of their files
    back_up(database, tmp_path / "adapters", place / "newer", {}, **keys)  # type: ignore[arg-type]

    restore(
        place / "older",
        empty,
        tmp_path / "other",
        newer=newest_beside(place / "older"),
        **keys,  # type: ignore[arg-type]
    )

    assert [row["question"] for row in rows(empty)["turns"]] == ["a question"]
    assert ADA not in {row["id"] for row in rows(empty)["people"]}
    assert len(rows(empty)["tombstones"]) == 2, "so that the next restore knows, too"
    assert newest_beside(place / "newer") is None


def test_who_was_erased_and_came_again_before_the_backup_is_in_it(
    database: Database, empty: Database, tmp_path: Path, clock: Clock
) -> None:
    talk(database, "before", person_id=ADA)
    Eraser(database).erase_person(ADA)
    clock.advance(seconds=60)
    talk(database, "after", person_id=ADA)
    back_up(database, tmp_path / "adapters", tmp_path / "one", {}, key=KEY)
    back_up(database, tmp_path / "adapters", tmp_path / "two", {}, key=KEY)

    restore(tmp_path / "one", empty, tmp_path / "other", key=KEY, newer=tmp_path / "two")

    assert [row["question"] for row in rows(empty)["turns"]] == ["after"]


def test_a_tombstone_names_nobody(database: Database) -> None:
    talk(database, person_id=ADA)
    Eraser(database).erase_person(ADA)

    [stone] = rows(database)["tombstones"]

    assert stone["erased_at"] == database.now()
    assert str(ADA) not in stone["digest"][:8]
    assert stone["digest"] != hashlib.sha256(f"person {ADA}".encode()).hexdigest()
