"""Limits on shares: neither one person nor a crowd of new people moves the weights alone."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.domain import ExampleSet
from tests.trainer.examples import demonstration, pair, rated
from trainer.examples.rater_shares import RaterShares, limit_shares

ADMIN = 99


def by(person: int, count: int, *, first: int = 1) -> tuple[tuple[int, int], ...]:
    return tuple((number, person) for number in range(first, first + count))


def examples(*given: tuple[int, int]) -> ExampleSet:
    """Return ratings, by number and person; 0 is nobody."""
    return ExampleSet(
        unpaired=tuple(
            replace(rated(number), raters=(person,) if person else ()) for number, person in given
        )
    )


def kept(
    given: ExampleSet,
    *,
    person_share: float = 0.25,
    newcomer_share: float = 0.2,
    room: int = 10_000,
    **rater_shares: object,
) -> Counter[int]:
    """Return how many examples of each person remain."""
    fair = limit_shares(
        given,
        RaterShares(**rater_shares),  # type: ignore[arg-type]
        person_share=person_share,
        newcomer_share=newcomer_share,
        room=room,
    )
    return Counter(rater for each in fair.every for rater in each.raters or (0,))


def test_one_person_gives_no_more_than_their_share() -> None:
    crowd = [pair for person in range(1, 11) for pair in by(person, 6, first=100 * person)]

    found = kept(examples(*crowd, *by(50, 300, first=5000)))

    assert {found[person] for person in range(1, 11)} == {6}
    assert found[50] == 20
    assert found[50] <= 0.25 * found.total()


def test_it_is_their_newest_that_count() -> None:
    given = examples(*by(1, 10), *by(2, 3, first=100))

    fair = limit_shares(given, RaterShares(), person_share=0.25, newcomer_share=0.2, room=100)

    assert [each.origin.turn_id for each in fair.unpaired] == [8, 9, 10, 100, 101, 102]


def test_somebody_alone_may_give_everything() -> None:
    assert kept(examples(*by(1, 40))) == {1: 40}


def test_of_two_each_gives_as_much_as_the_other() -> None:
    assert kept(examples(*by(1, 40), *by(2, 10, first=100))) == {1: 10, 2: 10}


@pytest.mark.parametrize("trusted", [ADMIN, 0])
def test_admins_and_imported_files_may_give_as_much_as_they_like(trusted: int) -> None:
    given = examples(*by(trusted, 300), *by(1, 5, first=1000), *by(2, 200, first=2000))

    found = kept(given, trusted=frozenset({ADMIN}))

    assert found[trusted] == 300
    assert found[1] == 5
    assert found[2] == 200 or found[2] <= found.total() / 3


def test_new_people_count_no_more_than_their_share_all_together() -> None:
    known = [pair for person in range(1, 11) for pair in by(person, 8, first=100 * person)]
    crowd = [pair for person in range(50, 100) for pair in by(person, 4, first=100 * person)]

    found = kept(examples(*known, *crowd), newcomers=frozenset(range(50, 100)))

    assert sum(found[person] for person in range(1, 11)) == 80
    assert sum(found[person] for person in range(50, 100)) == 20


def test_where_everybody_is_new_nobody_is() -> None:
    given = examples(*by(1, 40), *by(2, 40, first=100), *by(ADMIN, 5, first=200))

    found = kept(given, newcomers=frozenset({1, 2}), trusted=frozenset({ADMIN}))

    assert found[1] == found[2] == 40


def test_a_share_is_of_what_there_is_room_for() -> None:
    crowd = [pair for person in range(1, 101) for pair in by(person, 30, first=100 * person)]

    found = kept(examples(*crowd, *by(500, 1200, first=50_000)), room=400)

    assert found[500] == 100


def test_what_several_said_alike_counts_as_the_word_of_who_has_said_least() -> None:
    group = tuple(replace(rated(number), raters=(1, 2, 3, 4)) for number in range(1, 41))
    alone = examples(*by(5, 50, first=100))

    fair = limit_shares(
        ExampleSet(unpaired=(*group, *alone.unpaired)),
        RaterShares(),
        person_share=0.25,
        newcomer_share=0.2,
        room=1000,
    )

    given = Counter(each.raters == (5,) for each in fair.unpaired)
    assert given[True] <= 0.25 * given.total()
    assert given[False] == 40


def test_corrections_count_as_ratings_do() -> None:
    given = ExampleSet(
        unpaired=tuple(replace(rated(number), raters=(2,)) for number in range(1, 6)),
        pairs=tuple(replace(pair(number), raters=(1,)) for number in range(10, 30)),
        demonstrations=tuple(replace(demonstration(n), raters=(1,)) for n in range(30, 50)),
    )

    assert kept(given) == {1: 5, 2: 5}


@given(
    st.lists(
        st.tuples(st.integers(1, 500), st.sets(st.integers(1, 6), max_size=3)),
        max_size=60,
        unique_by=lambda each: each[0],
    ),
    st.floats(0.1, 1.0),
)
def test_nobody_alone_ever_has_more_than_their_share(
    given: list[tuple[int, set[int]]], share: float
) -> None:
    said = ExampleSet(
        unpaired=tuple(replace(rated(number), raters=tuple(raters)) for number, raters in given)
    )

    fair = limit_shares(said, RaterShares(), person_share=share, newcomer_share=0.2, room=1000)

    people = {rater for _, raters in given for rater in raters}
    for person in people:
        alone = sum(each.raters == (person,) for each in fair.unpaired)
        assert alone <= max(share, 1 / len(people)) * len(fair.unpaired) + 1e-6
    assert sum(not each.raters for each in fair.unpaired) == sum(not r for _, r in given)
