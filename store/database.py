"""The database: SQLAlchemy's engine, sessions, locks, and the schema's revision.

SQLite runs in WAL mode with foreign keys on, so that readers never wait for the writer. Sessions
are for threads: coroutines call repositories through `asyncio.to_thread`.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from enum import IntEnum
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, create_engine, event, func, inspect, select, text
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from store.errors import DatabaseUnavailable, SchemaNotAtHead

if TYPE_CHECKING:
    from alembic.config import Config

logger = logging.getLogger(__name__)

BUSY_TIMEOUT_SECONDS = 30
"""Time that a writer waits for another before the database counts as locked."""

IDS_AT_ONCE = 500
"""Ids in one query: SQLite takes 32,766 parameters, and plans long lists slowly."""

COMMON: dict[str, Any] = {
    "pool_size": 16,
    "max_overflow": 32,
    "hide_parameters": True,  # they hold what people wrote, and errors are logged
}

POSTGRES: dict[str, Any] = {
    "connect_timeout": 10,
    "prepare_threshold": 1,
    "options": "-c jit=off",
}
"""Options of a connection to Postgres: planning a query anew, or compiling its plan, takes longer
than running it (docs/experiments.md, 2026-11-30)."""

_SCRUBS = "scrubs"
"""The key in `Session.info` that is set if the log is to be emptied after the transaction."""

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the current time; repositories use this clock outside tests."""
    return datetime.now(UTC)


class Lock(IntEnum):
    """Keys of locks that span transactions; no Telegram chat has one of them as its id."""

    ADAPTERS = -1
    RUNS = -2
    IMPORTS = -3
    ERASING = -4
    MEMORIES = -5
    AUDIT = -6
    SPLIT = -7


class Database:
    """One database: its sessions, locks and schema."""

    def __init__(self, url: str, *, clock: Clock = utc_now) -> None:
        self.url = url
        self.now = clock
        self._turn = threading.Lock()
        self.engine = create_database_engine(url)
        self._writers = sessionmaker(self.engine, expire_on_commit=False)
        self._readers = sessionmaker(
            self.engine.execution_options(reads_only=True), expire_on_commit=False
        )

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a transaction that may write: committed after the block, undone on an error."""
        with self._translated(), self._turn_to_write(), self._writers.begin() as session:
            yield session
        if session.info.get(_SCRUBS):
            self.scrub()

    @contextmanager
    def _turn_to_write(self) -> Iterator[None]:
        """Wait for the other writers of this process.

        SQLite itself lets writers ask again and again, so that many of them starve each other.
        """
        if not self.alone:
            yield
            return
        if not self._turn.acquire(timeout=BUSY_TIMEOUT_SECONDS):
            raise DatabaseUnavailable("the database is locked by another thread for too long")
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a transaction that only reads, and so never waits for a writer."""
        with self._translated(), self._readers.begin() as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Open a connection that sees the database as of one moment, whoever writes meanwhile."""
        options: dict[str, Any] = {"reads_only": True}
        if self.engine.dialect.name == "postgresql":
            options["isolation_level"] = "REPEATABLE READ"
        with self._translated(), self.engine.connect() as connection:
            yield connection.execution_options(**options)

    def time(self, session: Session) -> datetime:
        """Return the time by the clock of the database, which all machines share.

        SQLite is a file of one machine, whose clock is the process's own.
        """
        if self.alone or self.now is not utc_now:
            return self.now()
        moment: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
        return moment

    @staticmethod
    def lock(session: Session, key: int) -> None:
        """Wait until no other transaction holds `key`, and hold it to the end of this one.

        `key` is a `Lock` or the id of a chat. On SQLite there is nothing to wait for: one
        transaction writes at a time.
        """
        if session.get_bind().dialect.name == "postgresql":
            session.execute(select(func.pg_advisory_xact_lock(key)))

    @staticmethod
    def scrub_after(session: Session) -> None:
        """Have `scrub` called once this transaction is committed."""
        session.info[_SCRUBS] = True

    def scrub(self) -> None:
        """Empty SQLite's write-ahead log, which still has rows that were deleted from the file.

        Pages that somebody is reading stay in the log; nobody has to wait.
        """
        if self.alone:
            with self._outside_transactions() as cursor:
                cursor.execute("PRAGMA busy_timeout=0")
                with suppress(sqlite3.OperationalError):
                    cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")  # the long part: no lock
                    cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                cursor.execute(f"PRAGMA busy_timeout={1000 * BUSY_TIMEOUT_SECONDS}")

    def _compact(self) -> None:
        """Rebuild SQLite's file: rows deleted before `secure_delete` was on may still be in it."""
        if self.alone:
            with self._outside_transactions() as cursor:
                try:
                    cursor.execute("VACUUM")
                except sqlite3.OperationalError as error:  # no room, or the file is in use
                    logger.warning("rows that were deleted may still be in the file: %s", error)

    @contextmanager
    def _outside_transactions(self) -> Iterator[Any]:
        """Open a cursor of the driver, outside any transaction."""
        with (
            self._translated(),
            closing(self.engine.raw_connection()) as connection,
            closing(connection.cursor()) as cursor,
        ):
            yield cursor

    @property
    def alone(self) -> bool:
        """True if no other machine shares the database: SQLite is a file of one machine."""
        return self.engine.dialect.name == "sqlite"

    def revision(self) -> str | None:
        """Return the schema's revision, None for an empty one. Raises `DatabaseUnavailable`."""
        with self._translated(), self.engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
            return found

    def check_at_head(self) -> None:
        """Raise `SchemaNotAtHead` unless the schema is what this code was written for."""
        found, head = self.revision(), head_revision()
        if found != head:
            raise SchemaNotAtHead(found, head)

    def upgrade(self) -> None:
        """Bring the schema to head; do nothing if it is there already.

        Raises `SchemaNotAtHead` for a schema that a newer version made.
        """
        before = self.revision()
        if before == head_revision():
            return
        from alembic import command  # few starts have to upgrade anything
        from alembic.util import CommandError

        try:
            with self._translated():
                command.upgrade(alembic_config(self.url), "head")
        except CommandError:
            raise SchemaNotAtHead(self.revision(), head_revision()) from None
        if before is not None:
            self._compact()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (IntegrityError, DataError):  # of what was to be stored, not of the database
            raise
        except (DBAPIError, PoolTimeout) as error:
            raise DatabaseUnavailable(
                f"the database {self.engine.url!r} cannot be used: {_first_line(error)}; "
                "check RATCHET_DATABASE_URL and RATCHET_DATA_DIR"
            ) from error

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()


def in_parts(ids: Iterable[int]) -> Iterator[list[int]]:
    """Yield ids in sorted lists, each short enough for one query."""
    ordered = sorted(ids)
    for start in range(0, len(ordered), IDS_AT_ONCE):
        yield ordered[start : start + IDS_AT_ONCE]


def alembic_config(url: str) -> "Config":
    """Return Alembic's configuration, made from the installed package instead of an ini file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "migrations:")
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = url
    return config


def head_revision() -> str:
    """Return the newest revision that this installation knows, from the names of the files."""
    files = (resources.files("migrations") / "versions").iterdir()
    return max(each.name.partition("_")[0] for each in files if each.name[0].isdigit())


def create_database_engine(url: str, *, foreign_keys: bool = True) -> Engine:
    """Return SQLAlchemy's engine for a URL; make SQLite's folder. Raises `DatabaseUnavailable`.

    Migrations switch `foreign_keys` off: SQLite alters a table by dropping it, which would
    delete every row that refers to it.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return create_engine(
                url, pool_pre_ping=True, pool_use_lifo=True, connect_args=POSTGRES, **COMMON
            )
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_SECONDS}, **COMMON)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, ValueError) as error:
        raise DatabaseUnavailable(
            f"RATCHET_DATABASE_URL is not a database URL that can be used: {_first_line(error)}"
        ) from error
    except OSError as error:
        raise DatabaseUnavailable(
            f"cannot make the folder of the database: {error}; check RATCHET_DATA_DIR"
        ) from error
    event.listen(engine, "connect", partial(_set_pragmas, foreign_keys=foreign_keys))
    event.listen(engine, "begin", _begin)
    return engine


def _set_pragmas(connection: Any, _record: object, *, foreign_keys: bool) -> None:
    connection.isolation_level = None  # transactions are begun by _begin, not by the driver
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # a committed rating survives a power cut
    cursor.execute("PRAGMA secure_delete=ON")  # what somebody erased is gone from the file, too
    cursor.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")
    cursor.close()


def _begin(connection: Any) -> None:
    # A transaction that reads first and writes later would fail at once when another has written
    # between; with the write lock from the start, it waits instead.
    reads_only = connection.get_execution_options().get("reads_only", False)
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
