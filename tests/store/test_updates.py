"""The inbox: each update is handled once, whichever process receives it or dies."""

from typing import Any

import pytest
from sqlalchemy import select

from store.database import Database
from store.erasure import Eraser
from store.tables import UpdateRow
from store.updates import ATTEMPTS, LEASE, REMEMBERED, Updates
from tests.fakes import Clock
from tests.store.talk import read_export

ADA = 1


@pytest.fixture
def inbox(database: Database) -> Updates:
    return Updates(database)


@pytest.fixture
def other(database: Database) -> Updates:
    """Return the inbox of another process on the same database."""
    return Updates(database)


def body(update_id: int) -> dict[str, Any]:
    return {"update_id": update_id, "message": {"text": f"hello {update_id}"}}


def take_in(inbox: Updates, *update_ids: int) -> None:
    for update_id in update_ids:
        assert inbox.take_in(update_id, ADA, body(update_id))


def waiting(database: Database) -> int:
    with database.reading() as session:
        return len(session.scalars(select(UpdateRow).where(UpdateRow.handled_at.is_(None))).all())


def test_an_update_is_taken_in_once(inbox: Updates, other: Updates) -> None:
    take_in(inbox, 7)

    assert not inbox.take_in(7, ADA, body(7))
    assert not other.take_in(7, ADA, body(7))


def test_one_that_was_handled_is_known_and_empty(inbox: Updates, database: Database) -> None:
    take_in(inbox, 7)
    inbox.handled(7)

    assert not inbox.take_in(7, ADA, body(7))
    with database.reading() as session:
        row = session.scalars(select(UpdateRow)).one()
    assert (row.body, row.person_id) == ({}, None)
    assert waiting(database) == 0


def test_what_a_process_left_is_taken_over_oldest_first(inbox: Updates, other: Updates) -> None:
    take_in(inbox, 9, 7, 8)
    inbox.handled(8)

    assert other.take_over(alone=True) == [body(7), body(9)]
    assert other.take_over(alone=True) == []


def test_nothing_is_taken_from_a_process_that_lives(
    inbox: Updates, other: Updates, clock: Clock
) -> None:
    take_in(inbox, 7)
    clock.advance(seconds=LEASE.total_seconds() - 1)
    inbox.hold()
    clock.advance(seconds=LEASE.total_seconds() - 1)

    assert other.take_over() == []

    clock.advance(seconds=2)
    assert other.take_over() == [body(7)]


def test_two_that_take_over_share_nothing(inbox: Updates, database: Database, clock: Clock) -> None:
    take_in(inbox, *range(1, 6))
    clock.advance(seconds=LEASE.total_seconds() + 1)

    found = [each for _ in range(3) for each in Updates(database).take_over()]

    assert found == [body(number) for number in range(1, 6)]


def test_an_update_that_processes_die_of_is_given_up(inbox: Updates, database: Database) -> None:
    take_in(inbox, 7)

    taken = [Updates(database).take_over(alone=True) for _ in range(ATTEMPTS)]

    assert taken == [[body(7)]] * (ATTEMPTS - 1) + [[]]
    assert waiting(database) == 0


def test_numbers_are_forgotten_when_telegram_has_forgotten_them(
    inbox: Updates, clock: Clock
) -> None:
    take_in(inbox, 7, 8)
    inbox.handled(7)
    clock.advance(seconds=REMEMBERED.total_seconds() + 1)

    inbox.sweep()

    assert inbox.take_in(7, ADA, body(7))
    assert not inbox.take_in(8, ADA, body(8)), "one that waits is never forgotten"


def test_what_waits_is_exported_and_erased(inbox: Updates, database: Database) -> None:
    take_in(inbox, 7)
    handled = read_export(database, ADA)["other.json"]["messages_being_handled"]
    assert [each["update"] for each in handled] == [7]

    Eraser(database).erase_person(ADA)

    assert read_export(database, ADA)["other.json"]["messages_being_handled"] == []
    assert waiting(database) == 0
