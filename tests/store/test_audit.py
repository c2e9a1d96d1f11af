"""The audit log: one line an entry, and a chain in which every change is found."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, update

from store.audit import MACHINE, AuditEntries, _line
from store.database import Database
from store.domain import Access
from store.people import People
from store.suspects import Suspects
from store.tables import AuditRow
from tests.fakes import Clock
from tests.store.talk import ADA, meet


@pytest.fixture
def audit(database: Database, clock: Clock) -> AuditEntries:
    audit = AuditEntries(database)
    for number in range(6):
        audit.note(f"/allow {number}", name="Grace", person_id=99)
        clock.advance(seconds=60)
    return audit


def checked(audit: AuditEntries) -> tuple[int, tuple[int, ...]]:
    chain = audit.verify()
    return chain.entries, chain.broken


def test_hashes_that_were_taken_away_are_found(audit: AuditEntries, database: Database) -> None:
    with database.session() as session:
        session.execute(update(AuditRow).where(AuditRow.id < 4).values(hash=None, action="/help"))
    assert checked(audit) == (6, (4,))


def test_an_untouched_log_is_whole(audit: AuditEntries) -> None:
    assert checked(audit) == (6, ())


@pytest.mark.parametrize("column", ["action", "name", "person_id", "created_at"])
def test_a_changed_entry_is_found(
    audit: AuditEntries, database: Database, clock: Clock, column: str
) -> None:
    value = {"action": "/help", "name": "Bob", "person_id": 1, "created_at": clock()}[column]
    with database.session() as session:
        session.execute(update(AuditRow).where(AuditRow.id == 3).values({column: value}))
    assert checked(audit) == (6, (3,))


def test_an_entry_that_was_taken_out_is_found(audit: AuditEntries, database: Database) -> None:
    with database.session() as session:
        session.execute(delete(AuditRow).where(AuditRow.id == 3))
    assert checked(audit) == (5, (4,))


def test_entries_that_went_after_a_year_break_nothing(audit: AuditEntries, clock: Clock) -> None:
    clock.advance(seconds=365 * 86_400 - 200)
    audit.note("/status", name="Grace", person_id=99)
    count, broken = checked(audit)
    assert 0 < count < 7
    assert not broken


def test_entries_of_before_there_were_hashes_break_nothing(
    audit: AuditEntries, database: Database
) -> None:
    with database.session() as session:
        session.execute(update(AuditRow).values(hash=None, hash_before=None))
    audit.note("/status", name="Grace", person_id=99)
    assert checked(audit) == (7, ())


def test_what_the_machine_decides_stands_in_it(database: Database) -> None:
    meet(database, ADA)
    People(database).decide(ADA, Access.ALLOWED)
    Suspects(database).hold(ADA, "it looks odd")
    [entry] = AuditEntries(database).recent(5)
    assert (entry.name, entry.person_id) == (MACHINE, None)
    assert entry.action == f"holds the ratings of {ADA} back: it looks odd"


def test_an_action_cannot_forge_another_entry(audit: AuditEntries) -> None:
    forged = "/allow 7\n2026-11-29 08:00 an admin: /promote a1 --force\u2028\u202eevil"
    audit.note(forged, name="Mallory\n2026", person_id=5)
    [entry] = audit.recent(1)
    assert entry.action == "/allow 7 2026-11-29 08:00 an admin: /promote a1 --force evil"
    assert entry.name == "Mallory 2026"


def test_spaces_hide_no_argument(audit: AuditEntries) -> None:
    audit.note("/allow" + " " * 900 + "666", name="Grace", person_id=99)
    assert audit.recent(1)[0].action == "/allow 666"


@given(st.text())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_every_action_is_one_short_printable_line(text: str) -> None:
    line = _line(text)
    assert len(line) <= 200
    assert len(line.splitlines()) <= 1
    assert line.isprintable()
