"""Opening, migrating and sharing a database, on SQLite and on Postgres."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from store.database import Database, alembic_config, head_revision
from store.domain import Access, Place
from store.errors import DatabaseUnavailable, SchemaNotAtHead
from store.people import People
from store.tables import Base, PersonRow
from tests.fakes import Clock
from tests.store.talk import ADA, BOB, begin
from tests.store.threads import at_once

UNREACHABLE = "postgresql+psycopg://ada:hunter2@127.0.0.1:1/ratchet"


@pytest.fixture
def migrated(database_url: str) -> Iterator[Database]:
    """Yield a database of the test's own, for tests that change the schema."""
    database = Database(database_url)
    database.upgrade()
    yield database
    database.close()


def test_an_empty_database_is_upgraded_to_head(database_url: str) -> None:
    database = Database(database_url)
    assert database.revision() is None
    database.upgrade()
    database.check_at_head()
    assert set(Base.metadata.tables) < set(inspect(database.engine).get_table_names())
    database.close()


def test_upgrading_what_is_at_head_keeps_what_is_in_it(migrated: Database) -> None:
    People(migrated).see(ADA, "Ada")
    migrated.upgrade()
    assert People(migrated).find(ADA) is not None


def test_an_empty_database_is_refused_with_the_command_that_helps(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(SchemaNotAtHead, match=r"database is empty, .* run `ratchet db upgrade`"):
        database.check_at_head()
    database.close()


def test_a_schema_of_another_version_is_refused_and_named(migrated: Database) -> None:
    with migrated.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    with pytest.raises(SchemaNotAtHead, match=f"at 0000, this version needs {head_revision()}"):
        migrated.check_at_head()


def test_the_newest_revision_is_alembics_head() -> None:
    script = ScriptDirectory.from_config(alembic_config(""))

    assert head_revision() == script.get_current_head()


def test_models_and_migrations_agree(migrated: Database) -> None:
    command.check(alembic_config(migrated.url))


def test_an_upgrade_overwrites_what_was_deleted_before_it_was_overwritten_at_once(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ratchet.db"
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    command.downgrade(alembic_config(database.url), "0004")
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA secure_delete=OFF")
        connection.exec_driver_sql("INSERT INTO audit VALUES (1, 1, 'Ada', 'xylophone', '2026')")
        connection.exec_driver_sql("DELETE FROM audit")
        connection.commit()
        connection.exec_driver_sql("PRAGMA secure_delete=ON")
    database.scrub()
    assert b"xylophone" in path.read_bytes()
    database.upgrade()
    database.close()
    assert b"xylophone" not in path.read_bytes()


def test_a_downgrade_leaves_nothing_and_can_be_upgraded_again(migrated: Database) -> None:
    command.downgrade(alembic_config(migrated.url), "base")
    assert inspect(migrated.engine).get_table_names() == ["alembic_version"]
    migrated.upgrade()
    migrated.check_at_head()


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "bogus://ada:hunter2@127.0.0.1/ratchet",
        "oracle://ada:hunter2@127.0.0.1/ratchet",
        "postgresql+psycopg://ada:hunter2@127.0.0.1:port/ratchet",
        UNREACHABLE,
        f"{UNREACHABLE}?sslmode=bogus",
        "sqlite:///{folder}",
        "sqlite:///{folder}/file",
        "sqlite:///{folder}/file/ratchet.db",
    ],
)
def test_a_database_that_cannot_be_used_says_so_in_a_line_without_the_password(
    tmp_path: Path, url: str
) -> None:
    (tmp_path / "file").write_text("I am no database and no folder. " * 100)
    with pytest.raises(DatabaseUnavailable, match="RATCHET_D") as caught:
        Database(url.format(folder=tmp_path)).revision()
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_every_use_of_an_unreachable_database_is_translated() -> None:
    database = Database(UNREACHABLE)
    with pytest.raises(DatabaseUnavailable):
        People(database).find(ADA)
    with pytest.raises(DatabaseUnavailable):
        People(database).decide(ADA, Access.ALLOWED)
    with pytest.raises(DatabaseUnavailable):
        database.upgrade()


def test_the_folder_of_a_sqlite_file_is_made(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'a' / 'b' / 'ratchet.db'}")
    database.upgrade()
    assert (tmp_path / "a" / "b" / "ratchet.db").is_file()
    database.close()


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "wal"), ("foreign_keys", 1), ("synchronous", 2)],
)
def test_sqlite_is_set_up_for_readers_foreign_keys_and_power_cuts(
    sqlite: Database, pragma: str, value: object
) -> None:
    with sqlite.session() as session:
        assert session.scalar(text(f"PRAGMA {pragma}")) == value
    with sqlite.reading() as session:
        assert session.scalar(text(f"PRAGMA {pragma}")) == value


def test_a_session_that_raises_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.session() as session:
            session.add(_person(database, ADA))
            session.flush()
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert People(database).find(ADA) is None


def test_times_come_back_as_they_were_and_in_utc(database: Database) -> None:
    east = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    with database.session() as session:
        session.add(_person(database, ADA, first_seen=east))
    person = People(database).find(ADA)
    assert person is not None
    assert person.first_seen == east
    assert person.first_seen.tzinfo is UTC


def test_two_threads_that_write_at_once_both_succeed(database: Database) -> None:
    def write(number: int) -> list[int]:
        place = Place(chat_id=number + 1)
        return [begin(database, person_id=number + 1, place=place) for _ in range(20)]

    written = [turn_id for each in at_once(2, write) for turn_id in each]
    assert len(set(written)) == 40


def test_no_write_to_sqlite_is_lost_between_reading_and_writing(sqlite: Database) -> None:
    People(sqlite).see(ADA, "0")

    def count_up(_number: int) -> None:
        for _ in range(25):
            with sqlite.session() as session:
                row = session.get_one(PersonRow, ADA)
                row.name = str(int(row.name) + 1)

    at_once(2, count_up)
    person = People(sqlite).find(ADA)
    assert person is not None
    assert person.name == "50"


def test_a_reader_does_not_wait_while_a_writer_holds_its_transaction(database: Database) -> None:
    people = People(database)
    people.see(ADA, "before")
    written, read = threading.Event(), threading.Event()

    def write(_number: int) -> None:
        with database.session() as session:
            session.get_one(PersonRow, ADA).name = "after"
            session.flush()
            written.set()
            assert read.wait(20)

    def read_meanwhile(_number: int) -> tuple[str, float]:
        assert written.wait(20)
        started = time.monotonic()
        person = people.find(ADA)
        seconds = time.monotonic() - started
        read.set()
        assert person is not None
        return person.name, seconds

    [_, found] = at_once(2, lambda number: (write, read_meanwhile)[number](number))
    assert found is not None
    name, seconds = found
    assert name == "before"
    assert seconds < 2


def test_what_was_written_is_there_after_opening_again(tmp_path: Path, clock: Clock) -> None:
    url = f"sqlite:///{tmp_path / 'ratchet.db'}"
    first = Database(url, clock=clock)
    first.upgrade()
    People(first).see(BOB, "Bob")
    first.close()
    again = Database(url, clock=clock)
    found = People(again).find(BOB)
    again.close()
    assert found is not None
    assert found.name == "Bob"


def _person(database: Database, person_id: int, first_seen: datetime | None = None) -> PersonRow:
    return PersonRow(
        id=person_id,
        name="",
        access="undecided",
        opted_out=False,
        first_seen=first_seen or database.now(),
    )
