"""People, and what is held about them: all of it is given, all of it goes. On both databases."""

from collections.abc import Collection
from datetime import timedelta

import pytest

from store.database import Database
from store.domain import Access, Rating
from store.people import People
from tests.fakes import Clock
from tests.store.talk import ADA, BOB, CLEO, rate, talk
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


def test_who_came_lately_or_rated_on_few_days_is_new(
    database: Database, people: People, clock: Clock
) -> None:
    day = timedelta(days=1).total_seconds()
    turns = [talk(database, person_id=ADA) for _ in range(6)]
    people.see(BOB, "Bob")
    for number, turn_id in enumerate(turns):
        rate(database, turn_id, Rating.UP, ADA)
        if number < 3:
            rate(database, turns[0], Rating.UP if number % 2 else Rating.DOWN, BOB)
        clock.advance(seconds=day)
    for turn_id in turns:
        rate(database, turn_id, Rating.UP, CLEO)

    def new(days: float, active_days: int, among: Collection[int] = (ADA, BOB, CLEO)) -> set[int]:
        age = timedelta(days=days)
        return set(people.newcomers(among, age=age, active_days=active_days))

    assert new(5, 4) == {BOB, CLEO}
    assert new(5, 3) == {CLEO}
    assert new(0, 2) == {CLEO}, "rated much, on one day"
    assert new(7, 0) == {ADA, BOB, CLEO}
    assert new(0, 0) == set()
    assert new(5, 4, among=[BOB, 99]) == {BOB}


def test_an_admin_vouches_for_whom_they_let_in(people: People) -> None:
    people.see(ADA, "Ada")
    people.decide(BOB, Access.ALLOWED)
    people.decide(CLEO, Access.DENIED)

    assert people.vouched([ADA, BOB, CLEO]) == {BOB}
    assert people.vouched([ADA]) == set()


def test_a_question_that_did_not_arrive_is_asked_again(database: Database) -> None:
    people = People(database)
    assert people.ask(ADA)
    assert not people.ask(ADA)

    people.take_back_question(ADA)
    assert people.ask(ADA)

    people.opt_out(ADA, False)
    people.take_back_question(ADA)
    assert not people.ask(ADA), "who has answered is not asked again"
