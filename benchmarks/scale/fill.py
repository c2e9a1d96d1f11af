"""Insertion of made-up rows into an empty store, a batch at a time."""

from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, Table, event, insert, text

from benchmarks.scale.background import background, run_contents
from benchmarks.scale.drawing import Drawing, Row, Rows
from benchmarks.scale.talk import Talk
from store.database import Database, create_database_engine
from store.tables import (
    AdapterRow,
    ApprovalRow,
    Base,
    ChunkRow,
    ConversationRow,
    CorrectionRow,
    DocumentRow,
    FeedbackRow,
    GroupRulesRow,
    MemoryRow,
    PersonRow,
    QuarantineRow,
    RunExampleRow,
    RunRow,
    RunSampleRow,
    SentMessageRow,
    TurnPartRow,
    TurnRow,
    UpdateRow,
)

ORDER: tuple[type[Base], ...] = (
    PersonRow,
    QuarantineRow,
    GroupRulesRow,
    DocumentRow,
    ChunkRow,
    RunRow,
    AdapterRow,
    ConversationRow,
    TurnRow,
    CorrectionRow,
    TurnPartRow,
    SentMessageRow,
    FeedbackRow,
    ApprovalRow,
    MemoryRow,
    RunExampleRow,
    RunSampleRow,
    UpdateRow,
)
"""Tables to fill, each after those that its rows refer to."""

COUNTED: tuple[type[Base], ...] = (
    ConversationRow,
    TurnRow,
    CorrectionRow,
    DocumentRow,
    ChunkRow,
    RunRow,
    AdapterRow,
)
"""Tables whose ids are given with their rows."""


def fill(database: Database, turns: int) -> None:
    """Fill an empty store at head; its last turn is asked now."""
    drawing = Drawing(turns, database.now())
    engine = create_database_engine(database.url, foreign_keys=False)
    event.listen(engine, "connect", partial(_hurry, engine.dialect.name))
    _insert(engine, background(drawing))
    for rows in Talk(drawing).batches():
        _insert(engine, rows)
    _insert(engine, run_contents(drawing))
    if engine.dialect.name == "postgresql":
        _settle(engine)
    engine.dispose()


def _insert(engine: Engine, rows: Rows) -> None:
    with engine.begin() as connection:
        for row_class in ORDER:
            if given := rows.get(row_class):
                table = Base.metadata.tables[row_class.__tablename__]
                if engine.dialect.name == "postgresql":
                    _copy(connection, table, given)
                else:
                    connection.execute(insert(table), given)


def _copy(connection: Connection, table: Table, rows: list[Row]) -> None:
    """Insert rows with Postgres' COPY, which takes a fraction of INSERT's time."""
    to_database = {
        name: table.columns[name]
        .type.dialect_impl(connection.dialect)
        .bind_processor(connection.dialect)
        for name in rows[0]
    }
    statement = f"COPY {table.name} ({', '.join(rows[0])}) FROM STDIN"
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(
                [
                    process(row[name]) if process else row[name]
                    for name, process in to_database.items()
                ]
            )


def _hurry(dialect: str, connection: Any, _record: object) -> None:
    """Turn off waiting for the disk and checking of references."""
    settings = {
        "sqlite": ("PRAGMA synchronous=OFF", "PRAGMA cache_size=-200000"),
        "postgresql": ("SET synchronous_commit = off", "SET session_replication_role = replica"),
    }
    cursor = connection.cursor()
    for setting in settings[dialect]:
        cursor.execute(setting)
    cursor.close()
    if dialect == "postgresql":
        connection.commit()


def _settle(engine: Engine) -> None:
    """Move sequences past the inserted ids, and do what autovacuum would have done."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in COUNTED:
            name = table.__tablename__
            connection.execute(
                text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), max(id)) FROM {name}")
            )
        connection.execute(text("VACUUM ANALYZE"))
