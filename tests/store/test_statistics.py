"""Statistics count the ratings that stand, by version and by day."""

from pathlib import Path

from store.adapters import Adapters
from store.database import Database
from store.domain import Rating, Tally
from store.statistics import Statistics
from tests.store.talk import ADA, BOB, rate, talk
from tests.store.test_adapters import trained


def test_ratings_that_stand_are_counted_by_version(sqlite: Database) -> None:
    turn_id = talk(sqlite)
    rate(sqlite, turn_id, Rating.DOWN, ADA)
    rate(sqlite, turn_id, Rating.UP, ADA)
    rate(sqlite, turn_id, Rating.DOWN, BOB)

    (version,) = Statistics(sqlite).ratings_by_version()

    assert (version.adapter, version.tally) == (None, Tally(up=1, down=1))


def test_versions_are_counted_oldest_first_after_the_base_model(
    sqlite: Database, tmp_path: Path
) -> None:
    adapters = Adapters(sqlite, tmp_path / "adapters")
    names = []
    for number in range(3):
        made = trained(tmp_path / "made", f"weights {number}".encode())
        names.append(adapters.add(made, base_model="starter").name)
    for name, rating in ((names[1], Rating.UP), (names[0], Rating.DOWN), (None, Rating.UP)):
        rate(sqlite, talk(sqlite, adapter=name), rating, ADA)

    counted = Statistics(sqlite).ratings_by_version()

    assert [each.adapter for each in counted] == [None, names[0], names[1]]
    assert [each.adapter for each in Statistics(sqlite).ratings_by_version(1)] == [names[1]]
    assert Statistics(sqlite).ratings() == Tally(up=2, down=1)


def test_days_without_ratings_are_shown_too(sqlite: Database) -> None:
    rate(sqlite, talk(sqlite), Rating.UP, ADA)

    days = Statistics(sqlite).ratings_by_day(3)

    assert [each.tally for each in days] == [Tally(up=0, down=0)] * 2 + [Tally(up=1, down=0)]
    assert days[-1].day == sqlite.now().date()


def test_people_are_counted(sqlite: Database) -> None:
    talk(sqlite)

    assert Statistics(sqlite).people() == 1
