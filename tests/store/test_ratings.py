"""Ratings and corrections: a person's last word counts. On SQLite and on Postgres."""

import pytest

from store.database import Database
from store.domain import Rating, RatingSource, Tally
from store.errors import TurnNotFound
from store.ratings import Ratings
from store.statistics import Statistics
from tests.fakes import Clock
from tests.store.talk import ADA, BOB, CLEO, meet, talk
from tests.store.threads import at_once

BUTTON, REACTION = RatingSource.BUTTON, RatingSource.REACTION
UP, DOWN = Rating.UP, Rating.DOWN


@pytest.fixture
def feedback(database: Database) -> Ratings:
    return Ratings(database)


@pytest.fixture
def turn_id(database: Database) -> int:
    """Return a turn that three people have seen."""
    meet(database, ADA, BOB, CLEO)
    return talk(database)


def words(feedback: Ratings, turn_id: int, person_id: int) -> list[Rating]:
    return [each.rating for each in feedback.revisions(turn_id, person_id)]


def test_a_rating_is_kept_with_who_how_and_when(
    feedback: Ratings, turn_id: int, clock: Clock
) -> None:
    assert feedback.rate(turn_id, ADA, UP, REACTION)
    [kept] = feedback.ratings(turn_id)
    assert (kept.turn_id, kept.person_id, kept.rating) == (turn_id, ADA, UP)
    assert (kept.source, kept.created_at) == (REACTION, clock())


def test_the_last_word_wins_and_the_words_before_are_kept(
    feedback: Ratings, turn_id: int, clock: Clock
) -> None:
    feedback.rate(turn_id, ADA, UP, BUTTON)
    clock.advance(seconds=60)
    assert feedback.rate(turn_id, ADA, DOWN, REACTION)
    [last] = feedback.ratings(turn_id)
    assert (last.rating, last.source, last.created_at) == (DOWN, REACTION, clock())
    assert words(feedback, turn_id, ADA) == [UP, DOWN]


def test_saying_the_same_twice_is_recorded_once(feedback: Ratings, turn_id: int) -> None:
    assert feedback.rate(turn_id, ADA, UP, BUTTON)
    assert not feedback.rate(turn_id, ADA, UP, BUTTON)
    assert not feedback.rate(turn_id, ADA, UP, REACTION)
    assert words(feedback, turn_id, ADA) == [UP]


def test_a_rating_can_be_taken_back_and_is_then_no_rating(feedback: Ratings, turn_id: int) -> None:
    feedback.rate(turn_id, ADA, UP, BUTTON)
    assert feedback.rate(turn_id, ADA, None, BUTTON)
    assert feedback.ratings(turn_id) == ()
    assert words(feedback, turn_id, ADA) == [UP]


def test_taking_back_what_was_not_said_changes_nothing(feedback: Ratings, turn_id: int) -> None:
    assert not feedback.rate(turn_id, ADA, None, BUTTON)
    assert feedback.revisions(turn_id, ADA) == ()


def test_a_rating_taken_back_can_be_given_again(feedback: Ratings, turn_id: int) -> None:
    for word in (UP, None, UP):
        assert feedback.rate(turn_id, ADA, word, BUTTON)
    assert feedback.tally(turn_id) == Tally(up=1)
    assert words(feedback, turn_id, ADA) == [UP, UP]


def test_people_have_their_own_words(feedback: Ratings, turn_id: int) -> None:
    feedback.rate(turn_id, ADA, UP, BUTTON)
    feedback.rate(turn_id, BOB, DOWN, BUTTON)
    feedback.rate(turn_id, ADA, None, BUTTON)
    assert [(each.person_id, each.rating) for each in feedback.ratings(turn_id)] == [(BOB, DOWN)]
    assert words(feedback, turn_id, BOB) == [DOWN]


def test_turns_have_their_own_ratings(database: Database, feedback: Ratings, turn_id: int) -> None:
    other = talk(database, regenerates_id=turn_id)
    feedback.rate(turn_id, ADA, DOWN, BUTTON)
    feedback.rate(other, ADA, UP, BUTTON)
    assert feedback.tally(turn_id) == Tally(down=1)
    assert feedback.tally(other) == Tally(up=1)


def test_a_tally_counts_everybodys_last_word(feedback: Ratings, turn_id: int) -> None:
    assert feedback.tally(turn_id) == Tally()
    feedback.rate(turn_id, ADA, UP, BUTTON)
    feedback.rate(turn_id, BOB, UP, BUTTON)
    feedback.rate(turn_id, CLEO, UP, BUTTON)
    feedback.rate(turn_id, CLEO, DOWN, BUTTON)
    assert feedback.tally(turn_id) == Tally(up=2, down=1)


def test_all_standing_ratings_are_counted(
    database: Database, feedback: Ratings, turn_id: int
) -> None:
    counted = Statistics(database).ratings
    assert counted() == Tally()
    feedback.rate(turn_id, ADA, UP, BUTTON)
    feedback.rate(turn_id, BOB, DOWN, BUTTON)
    feedback.rate(turn_id, BOB, None, BUTTON)
    feedback.rate(talk(database), ADA, UP, BUTTON)
    assert counted() == Tally(up=2)


def test_a_turn_that_is_gone_cannot_be_rated_or_corrected(
    database: Database, feedback: Ratings
) -> None:
    meet(database, ADA)
    with pytest.raises(TurnNotFound):
        feedback.rate(404, ADA, UP, BUTTON)
    with pytest.raises(TurnNotFound):
        feedback.rate(404, ADA, None, BUTTON)
    with pytest.raises(TurnNotFound):
        feedback.correct(404, ADA, "better")


def test_one_person_who_rates_from_eight_threads_has_one_word(
    database: Database, feedback: Ratings
) -> None:
    for _ in range(10):
        turn_id = talk(database)
        for _ in range(2):  # the first word, and then its change
            at_once(
                8,
                lambda number, turn_id=turn_id: feedback.rate(
                    turn_id, ADA, (UP, DOWN)[number % 2], BUTTON
                ),
            )
        assert len(feedback.ratings(turn_id)) == 1


def test_the_same_word_from_eight_threads_is_recorded_once(feedback: Ratings, turn_id: int) -> None:
    changed = at_once(8, lambda _: feedback.rate(turn_id, ADA, UP, BUTTON))
    assert sorted(changed) == [False] * 7 + [True]
    assert words(feedback, turn_id, ADA) == [UP]


def test_people_who_rate_at_once_are_all_counted(
    database: Database, feedback: Ratings, turn_id: int
) -> None:
    meet(database, *range(100, 108))
    at_once(8, lambda number: feedback.rate(turn_id, 100 + number, UP, BUTTON))
    assert feedback.tally(turn_id) == Tally(up=8)


def test_a_correction_is_kept_with_who_and_when(
    feedback: Ratings, turn_id: int, clock: Clock
) -> None:
    correction = feedback.correct(turn_id, BOB, "It is Paris.")
    assert feedback.corrections(turn_id) == (correction,)
    assert (correction.turn_id, correction.person_id) == (turn_id, BOB)
    assert (correction.text, correction.created_at) == ("It is Paris.", clock())


def test_every_correction_is_kept_oldest_first(
    database: Database, feedback: Ratings, turn_id: int
) -> None:
    feedback.correct(turn_id, BOB, "one")
    feedback.correct(turn_id, ADA, "two")
    feedback.correct(turn_id, BOB, "three")
    feedback.correct(talk(database), BOB, "elsewhere")
    assert [each.text for each in feedback.corrections(turn_id)] == ["one", "two", "three"]
