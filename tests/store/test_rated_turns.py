"""The rated turns that a run reads: the newest, as many older ones, and nobody's flood."""

import random

import pytest

from store import rated_turns as module
from store.database import Database
from store.domain import Rating
from store.rated_turns import rated_turns
from store.teaching import TeachingRule
from tests.store.talk import ADA, BOB, CLEO, correct, meet, rate, talk


def chosen(database: Database, most: int | None, seed: int = 0) -> list[int]:
    with database.reading() as session:
        return rated_turns(session, TeachingRule(), most, random.Random(seed))


def test_without_a_limit_every_rated_or_corrected_turn_is_read(database: Database) -> None:
    liked, corrected, taken_back, unrated = (talk(database) for _ in range(4))
    rate(database, liked, Rating.UP)
    correct(database, corrected, "no")
    rate(database, taken_back, Rating.UP)
    rate(database, taken_back, None)

    assert chosen(database, None) == [liked, corrected]
    assert unrated not in chosen(database, 10)


@pytest.mark.parametrize("seed", range(3))
def test_the_newest_are_read_and_as_many_older_ones(database: Database, seed: int) -> None:
    meet(database, ADA, BOB, CLEO, *range(100, 108))
    turns = [talk(database) for _ in range(40)]
    for place, turn_id in enumerate(turns):
        rate(database, turn_id, Rating.UP, 100 + place % 8)

    found = chosen(database, 8, seed)

    assert found == sorted(set(found))
    assert set(turns[-8:]) <= set(found)
    assert len(found) == 16
    assert found == chosen(database, 8, seed)
    assert found != chosen(database, 8, seed + 1)


def test_one_person_brings_in_at_most_a_tenth_of_either_half_if_others_rated_enough(
    database: Database,
) -> None:
    meet(database, *range(100, 104))
    others = [talk(database) for _ in range(12)]
    for place, turn_id in enumerate(others):
        rate(database, turn_id, Rating.UP, 100 + place % 4)
    flood = [talk(database) for _ in range(30)]
    for turn_id in flood:
        rate(database, turn_id, Rating.DOWN, ADA)

    found = chosen(database, 8)

    assert len(set(found) & set(flood)) <= 4
    assert set(found) >= set(others[-6:])


def test_somebody_who_rates_alone_brings_in_everything(database: Database) -> None:
    turns = [talk(database) for _ in range(30)]
    for turn_id in turns:
        rate(database, turn_id, Rating.DOWN, ADA)

    found = chosen(database, 8)

    assert len(found) == 16
    assert set(found) >= set(turns[-8:])


def test_few_of_many_ratings_are_looked_at(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older turns are drawn by the ids of ratings, so that not all of them are read."""
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 1)
    meet(sqlite, *range(100, 104))
    for place in range(60):
        rate(sqlite, talk(sqlite), Rating.UP, 100 + place % 4)

    from sqlalchemy import event

    rows = 0

    def count(_c: object, cursor: object, statement: str, given: object, *_: object) -> None:
        nonlocal rows
        if "feedback.id IN" in statement:
            rows += statement.split("feedback.id IN")[1].split(")")[0].count("?")

    event.listen(sqlite.engine, "before_cursor_execute", count)
    found = chosen(sqlite, 4)

    assert len(found) == 8
    assert rows == module.DRAWN_PER_TURN * 4
