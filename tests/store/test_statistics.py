"""Statistics count the ratings that stand, by version and by day."""

from store.database import Database
from store.domain import Rating, Tally
from store.statistics import Statistics
from tests.store.talk import ADA, BOB, rate, talk


def test_ratings_that_stand_are_counted_by_version(sqlite: Database) -> None:
    turn_id = talk(sqlite)
    rate(sqlite, turn_id, Rating.DOWN, ADA)
    rate(sqlite, turn_id, Rating.UP, ADA)
    rate(sqlite, turn_id, Rating.DOWN, BOB)

    (version,) = Statistics(sqlite).ratings_by_version()

    assert (version.adapter, version.tally) == (None, Tally(up=1, down=1))


def test_days_without_ratings_are_shown_too(sqlite: Database) -> None:
    rate(sqlite, talk(sqlite), Rating.UP, ADA)

    days = Statistics(sqlite).ratings_by_day(3)

    assert [each.tally for each in days] == [Tally(up=0, down=0)] * 2 + [Tally(up=1, down=0)]
    assert days[-1].day == sqlite.now().date()


def test_people_are_counted(sqlite: Database) -> None:
    talk(sqlite)

    assert Statistics(sqlite).people() == 1
