"""Suspects: whose ratings are held back, until when, and what that keeps out of training."""

from functools import partial

import pytest

from store.database import Database
from store.domain import Place, Rating
from store.erasure import Eraser
from store.examples import Examples
from store.memories import Memories
from store.suspects import Suspects
from tests.fakes import Clock, FakeEmbedder
from tests.store.talk import ADA, BOB, GROUP, correct, key, meet, rate, read_export, talk


@pytest.fixture
def quarantine(database: Database) -> Suspects:
    meet(database, ADA, BOB)
    return Suspects(database)


@pytest.fixture
def book(database: Database) -> Examples:
    return Examples(database)


def test_who_is_held_back_is_listed_with_the_reason_newest_first(
    quarantine: Suspects, clock: Clock
) -> None:
    assert quarantine.hold(ADA, "floods")
    clock.advance(seconds=60)
    assert quarantine.hold(BOB, "contradicts")

    assert [(each.person_id, each.name, each.reason) for each in quarantine.held()] == [
        (BOB, f"person {BOB}", "contradicts"),
        (ADA, f"person {ADA}", "floods"),
    ]


def test_holding_back_twice_is_holding_back_once(quarantine: Suspects) -> None:
    quarantine.hold(ADA, "floods")

    assert not quarantine.hold(ADA, "contradicts")
    assert [each.reason for each in quarantine.held()] == ["floods"]


def test_who_was_released_is_not_held_back_again(quarantine: Suspects) -> None:
    quarantine.hold(ADA, "floods")

    assert quarantine.release(ADA)
    assert not quarantine.release(ADA)
    assert not quarantine.hold(ADA, "floods")
    assert quarantine.held() == ()
    assert quarantine.released() == {ADA}


def test_nobody_is_released_who_was_not_held_back(quarantine: Suspects) -> None:
    assert not quarantine.release(ADA)
    assert quarantine.released() == frozenset()


def test_what_is_held_back_teaches_nothing_until_it_is_released(
    database: Database, quarantine: Suspects, book: Examples
) -> None:
    asked_by_ada = talk(database, person_id=ADA)
    asked_by_bob = talk(database, person_id=BOB, place=Place(chat_id=-200))
    for turn_id in (asked_by_ada, asked_by_bob):
        rate(database, turn_id, Rating.DOWN, ADA)
    rate(database, asked_by_bob, Rating.UP, BOB)
    correct(database, asked_by_bob, "nonsense", ADA)
    quarantine.hold(ADA, "contradicts")

    [example] = book.collect().every
    assert (key(example.origin), example.raters) == (f"t{asked_by_bob}", (BOB,))
    assert book.ratings_since(None) == 1

    quarantine.release(ADA)
    assert len(book.collect().every) == 3
    assert book.ratings_since(None) == 4


def test_a_person_sees_that_they_are_held_back_and_erasing_is_no_way_around_it(
    database: Database, quarantine: Suspects
) -> None:
    quarantine.hold(ADA, "floods")
    other = read_export(database, ADA)["other.json"]
    assert [each["reason"] for each in other["quarantine"]] == ["floods"]

    Eraser(database).erase_person(ADA)
    assert [(each.person_id, each.name) for each in quarantine.held()] == [(ADA, "")]


def test_nobody_is_held_back_who_was_erased_meanwhile(quarantine: Suspects) -> None:
    assert not quarantine.hold(404, "floods")
    assert quarantine.held() == ()


def test_what_is_held_back_does_not_help_as_an_example_either(
    database: Database, quarantine: Suspects
) -> None:
    turn_id = talk(database, "Where do I buy tea?")
    correct(database, turn_id, "Buy at Zorbo!", ADA)
    memories = Memories(database, FakeEmbedder())
    recall = partial(memories.recall, "Where do I buy tea?", conversation_id=0, count=1, floor=0.0)
    assert [each.answer for each in recall(chat_id=GROUP.chat_id)] == ["Buy at Zorbo!"]

    quarantine.hold(ADA, "floods")

    assert recall(chat_id=GROUP.chat_id) == ()
