"""Upgrades keep what lay in a database of an older version. On both databases."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Column, MetaData, insert, select

from store.adapters import Adapters
from store.conversations import Conversations
from store.database import Database, alembic_config
from store.domain import ExampleCounts, Progress, RunMetrics, RunStatus
from store.erasure import Eraser
from store.errors import SchemaNotAtHead
from store.examples import Examples
from store.runs import Runs
from store.tables import AdapterRow, RunRow
from store.teaching import TeachingRule
from tests.store.talk import key, talk

Rows = dict[str, list[dict[str, Any]]]

AT_0001: dict[str, dict[str, object]] = {
    "people": {"id": 1, "access": "allowed", "opted_out": False},
    "turns": {
        "state": "final",
        "messages": [{"role": "user", "content": "why?"}],
        "sampling": {"temperature": 0.5},
        "passages": [],
        "regenerates_id": None,
        "finish_reason": "stop",
    },
    "sent_messages": {"kind": "reply"},
    "feedback": {"source": "button", "replaced_at": None},
    "training_runs": {"status": "promoted", "examples": {"train": 8}, "metrics": {"loss": 0.5}},
    "adapters": {"status": "active", "metrics": {"accuracy": 0.75}},
    "evaluations": {"report": {"checks": []}},
}
"""Values in each table's row where any value of the type will not do."""


MOVED = {"turns": {"passages"}}
"""Columns whose contents are now in tables of their own."""


@pytest.fixture
def old(database_url: str) -> Iterator[Database]:
    """Yield a database as version 0001 left it, with a row in every table."""
    database = Database(database_url)
    command.upgrade(alembic_config(database_url), "0001")
    tables = reflected(database)
    with database.engine.begin() as connection:
        for table in tables.sorted_tables:
            given = AT_0001.get(table.name, {})
            rest = {each.name for each in table.columns} - {"id"} - given.keys()
            row = {**given, **{name: anything(table.columns[name]) for name in rest}}
            connection.execute(insert(table), row)
    yield database
    database.close()


def reflected(database: Database) -> MetaData:
    tables = MetaData()
    tables.reflect(database.engine)
    tables.remove(tables.tables["alembic_version"])
    return tables


def anything(column: Column[Any]) -> object:
    """Return a value of the column's type; every id is 1, so every reference is valid."""
    values = {int: 1, float: 1.5, str: f"some {column.name}"}
    kind = column.type.python_type
    return datetime(2026, 1, 1, tzinfo=UTC) if kind is datetime else values[kind]


def everything(database: Database) -> Rows:
    with database.engine.connect() as connection:
        return {
            table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
            for table in reflected(database).sorted_tables
        }


def test_an_upgrade_from_the_first_version_keeps_every_row_as_it_was(old: Database) -> None:
    before = everything(old)
    old.upgrade()
    old.check_at_head()
    after = everything(old)
    assert all(len(rows) == 1 for rows in before.values())
    for name, [row] in before.items():
        moved = MOVED.get(name, set())
        assert {column: after[name][0][column] for column in row.keys() - moved} == {
            column: value for column, value in row.items() if column not in moved
        }
    made = {"memories", "turn_parts"}  # the turn was liked, and has a prompt
    assert all(after[name] == [] for name in after.keys() - before.keys() - made)
    assert all(len(after[name]) == 1 for name in made)


def test_what_an_upgrade_adds_to_old_rows_is_empty(old: Database, tmp_path: Path) -> None:
    old.upgrade()
    run = Runs(old).get(1)
    assert (run.status, run.examples, run.metrics) == (
        RunStatus.PROMOTED,
        ExampleCounts(train=8),
        RunMetrics(),
    )
    assert (run.outcome, run.progress) == ("", Progress())
    assert not run.cancel_requested
    assert Conversations(old).turn(1).memories == ()
    assert Adapters(old, tmp_path).history() == ()


def test_old_rows_are_of_use_after_an_upgrade(old: Database, tmp_path: Path) -> None:
    old.upgrade()
    [example] = Examples(old, TeachingRule(open_access=False)).collect().unpaired
    assert (key(example.origin), example.completion, example.label) == (
        "t1",
        "some completion",
        True,
    )
    assert talk(old, "and now?") > 1
    assert Runs(old).queue("a test")[0].id > 1
    assert Adapters(old, tmp_path).rollback(reason="a test") is None
    assert Eraser(old).erase_person(1).turns == 1


def test_going_back_to_the_first_version_keeps_what_it_knew(old: Database) -> None:
    before = everything(old)
    old.upgrade()
    command.downgrade(alembic_config(old.url), "0001")
    assert everything(old) == before
    with pytest.raises(SchemaNotAtHead):
        old.check_at_head()


def test_versions_that_learned_from_erased_data_stay_marked_both_ways(
    old: Database, tmp_path: Path
) -> None:
    """Before 0006 the mark was a key of `metrics`."""
    command.upgrade(alembic_config(old.url), "0005")
    marked = {"loss": 0.5, "holds_erased": True}
    tables = reflected(old).tables
    with old.engine.begin() as connection:
        for name in ("training_runs", "adapters"):
            connection.execute(tables[name].update().values(metrics=marked))

    old.upgrade()
    with old.reading() as session:
        for row in (session.get_one(RunRow, 1), session.get_one(AdapterRow, 1)):
            assert row.erased_at is not None
            assert "holds_erased" not in row.metrics

    command.downgrade(alembic_config(old.url), "0005")
    for name in ("training_runs", "adapters"):
        [row] = everything(old)[name]
        assert row["metrics"] == marked
