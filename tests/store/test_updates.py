"""The inbox: each update is handled once, whichever process receives it or dies."""

from typing import Any

import pytest
from sqlalchemy import select

from store.database import Database
from store.erasure import Eraser
from store.tables import UpdateRow
from store.updates import ATTEMPTS, LEASE, REMEMBERED, ReceivedUpdate, Updates
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


def received(update_id: int) -> ReceivedUpdate:
    return ReceivedUpdate(id=update_id, person_id=ADA, body=body(update_id))


def take_in(inbox: Updates, *update_ids: int) -> None:
    assert inbox.take_in([received(each) for each in update_ids]) == set(update_ids)


def waiting(database: Database) -> int:
    with database.reading() as session:
        return len(session.scalars(select(UpdateRow).where(UpdateRow.handled_at.is_(None))).all())


def test_an_update_is_taken_in_by_one_process(inbox: Updates, other: Updates) -> None:
    take_in(inbox, 7)

    assert other.take_in([received(7)]) == set()
    assert inbox.take_in([received(7)]) == {7}, "it may not know that it was stored"
    inbox.handled([7])
    assert inbox.take_in([received(7)]) == set()


def test_one_that_was_handled_is_known_and_empty(inbox: Updates, database: Database) -> None:
    take_in(inbox, 7)
    inbox.handled([7])

    assert inbox.take_in([received(7)]) == set()
    with database.reading() as session:
        row = session.scalars(select(UpdateRow)).one()
    assert (row.body, row.person_id) == ({}, None)
    assert waiting(database) == 0


def test_what_a_process_left_is_taken_over_oldest_first(inbox: Updates, other: Updates) -> None:
    take_in(inbox, 9, 7, 8)
    inbox.handled([8])

    assert other.take_over(alone=True) == [received(7), received(9)]
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
    assert other.take_over() == [received(7)]


def test_two_that_take_over_share_nothing(inbox: Updates, database: Database, clock: Clock) -> None:
    take_in(inbox, *range(1, 6))
    clock.advance(seconds=LEASE.total_seconds() + 1)

    found = [each for _ in range(3) for each in Updates(database).take_over()]

    assert found == [received(number) for number in range(1, 6)]


def die_of(database: Database, update_id: int) -> list[ReceivedUpdate]:
    """Take over what is left, begin it, and die."""
    process = Updates(database)
    taken = process.take_over(alone=True)
    process.begin([update_id])
    return taken


def test_an_update_that_processes_die_of_is_given_up(inbox: Updates, database: Database) -> None:
    take_in(inbox, 7)
    inbox.begin([7])

    assert [die_of(database, 7) for _ in range(ATTEMPTS - 1)] == [[received(7)]] * (ATTEMPTS - 1)
    last = Updates(database)
    assert last.give_up(alone=True) == [received(7)]
    assert last.take_over(alone=True) == []
    assert waiting(database) == 0


def test_waiting_and_an_orderly_stop_are_no_attempts(inbox: Updates, database: Database) -> None:
    take_in(inbox, 7, 8)
    for _ in range(2 * ATTEMPTS):
        process = Updates(database)
        assert process.give_up(alone=True) == []
        assert process.take_over() or process.take_over(alone=True)
        process.begin([7])
        process.release([7])
    last = Updates(database)
    assert last.take_over() == [received(7), received(8)], "a released lease need not run out"


def test_one_that_failed_keeps_its_body_and_the_reason(
    inbox: Updates, database: Database, clock: Clock
) -> None:
    take_in(inbox, 7)
    inbox.fail(7, "KeyError: 'x'")
    inbox.fail(8, "it was no JSON \ud800")
    with database.reading() as session:
        rows = session.scalars(select(UpdateRow).order_by(UpdateRow.id)).all()
        assert [(row.id, row.body, row.failure) for row in rows] == [
            (7, body(7), "KeyError: 'x'"),
            (8, {}, "it was no JSON ?"),
        ]
    assert waiting(database) == 0
    Eraser(database).erase_person(ADA)
    with database.reading() as session:
        assert [row.id for row in session.scalars(select(UpdateRow))] == [8]


def test_numbers_are_forgotten_when_telegram_has_forgotten_them(
    inbox: Updates, database: Database, clock: Clock
) -> None:
    take_in(inbox, 7, 8)
    inbox.handled([7])
    clock.advance(seconds=REMEMBERED.total_seconds() + 1)

    inbox.sweep()

    assert inbox.take_in([received(7)]) == {7}
    assert Updates(database).take_in([received(8)]) == set(), "one that waits is never forgotten"


def test_what_waits_is_exported_and_erased(inbox: Updates, database: Database) -> None:
    take_in(inbox, 7)
    handled = read_export(database, ADA)["other.json"]["messages_being_handled"]
    assert [each["update"] for each in handled] == [7]

    Eraser(database).erase_person(ADA)

    assert read_export(database, ADA)["other.json"]["messages_being_handled"] == []
    assert waiting(database) == 0
