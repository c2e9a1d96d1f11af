"""People, and what is held about them: all of it is given, all of it goes. On both databases."""

from datetime import timedelta

import pytest

from store.database import Database
from store.domain import Access
from store.people import People
from tests.fakes import Clock
from tests.store.talk import ADA, BOB, CLEO
from tests.store.threads import at_once

DAY = 86_400

SECRET = "xylophone"
"""Word in every text that Ada writes or is told, and nowhere else."""


@pytest.fixture
def people(database: Database) -> People:
    return People(database)


def test_somebody_new_is_remembered_undecided(people: People, clock: Clock) -> None:
    person = people.see(ADA, "Ada")
    assert people.find(ADA) == person
    assert (person.id, person.name, person.first_seen) == (ADA, "Ada", clock())
    assert (person.access, person.opted_out) == (Access.UNDECIDED, False)


def test_nobody_is_found_who_was_never_seen(people: People) -> None:
    assert people.find(ADA) is None


def test_a_changed_name_is_kept_and_nothing_else_changes(people: People, clock: Clock) -> None:
    first_seen = people.see(ADA, "Ada").first_seen
    people.decide(ADA, Access.DENIED)
    people.opt_out(ADA, True)
    clock.advance(seconds=60)
    person = people.see(ADA, "Ada Lovelace")
    assert people.find(ADA) == person
    assert (person.name, person.first_seen) == ("Ada Lovelace", first_seen)
    assert (person.access, person.opted_out) == (Access.DENIED, True)


def test_somebody_seen_by_eight_threads_at_once_is_one_person(people: People) -> None:
    for person_id in range(100, 105):
        seen = at_once(8, lambda _, person_id=person_id: people.see(person_id, "Ada"))
        assert set(seen) == {people.find(person_id)}


def test_an_admin_can_decide_about_somebody_who_has_not_written(people: People) -> None:
    assert people.decide(ADA, Access.ALLOWED).access == Access.ALLOWED
    assert people.see(ADA, "Ada").access == Access.ALLOWED


@pytest.mark.parametrize("access", list(Access))
def test_the_last_decision_counts(people: People, access: Access) -> None:
    people.decide(ADA, Access.DENIED)
    people.decide(ADA, access)
    person = people.find(ADA)
    assert person is not None
    assert person.access == access


def test_somebody_can_opt_out_of_training_and_in_again(people: People) -> None:
    assert people.opt_out(ADA, True).opted_out
    assert people.see(ADA, "Ada").opted_out
    assert not people.opt_out(ADA, False).opted_out


def test_who_came_lately_is_new_unless_an_admin_let_them_in(
    database: Database, people: People, clock: Clock
) -> None:
    people.see(ADA, "Ada")
    clock.advance(seconds=timedelta(days=10).total_seconds())
    people.see(BOB, "Bob")
    people.decide(CLEO, Access.ALLOWED)

    assert people.newcomers(timedelta(days=7)) == {BOB}
    assert people.newcomers(timedelta(0)) == frozenset()


def test_a_question_that_did_not_arrive_is_asked_again(database: Database) -> None:
    people = People(database)
    assert people.ask(ADA)
    assert not people.ask(ADA)

    people.take_back_question(ADA)
    assert people.ask(ADA)

    people.opt_out(ADA, False)
    people.take_back_question(ADA)
    assert not people.ask(ADA), "who has answered is not asked again"
