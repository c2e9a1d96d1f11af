"""Groups of people who rate together, and what is made of them."""

import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

from store.domain import Example, ExampleSet
from tests.fakes import FakeEmbedder
from tests.trainer.examples import minute, rated
from tests.trainer.test_rater_audit import crowd, honest, inverted, ratings
from trainer.examples.agreement import MIN_RATINGS
from trainer.examples.rater_audit import examine
from trainer.examples.rater_groups import MIN_SHARED, find_groups

DAY = 24 * 60


def at_times(given: Iterable[Example], minutes: Iterable[int]) -> list[Example]:
    """Let ratings be given at some minutes."""
    return [
        replace(each, rated_at=(minute(at),) * len(each.raters))
        for each, at in zip(given, minutes, strict=True)
    ]


def at_any_time(given: Iterable[Example], seed: int) -> list[Example]:
    draw, listed = random.Random(seed), list(given)
    return at_times(listed, [draw.randrange(30 * DAY) for _ in listed])


def test_people_who_rate_when_they_like_are_no_group() -> None:
    given = [
        each for person in range(1, 30) for each in at_any_time(ratings(person, 40, honest), person)
    ]

    assert find_groups(given) == ()


def test_people_who_press_alike_on_the_same_replies_are_a_group() -> None:
    shared = [
        replace(rated(n, n % 3 == 0), raters=(5, 6, 7)) for n in range(0, 40 * MIN_SHARED, 40)
    ]
    own = at_any_time(ratings(8, 40, honest), 8)

    assert find_groups([*shared, *own]) == (frozenset({5, 6, 7}),)


def test_people_who_rate_at_the_same_times_are_a_group_whatever_they_rate() -> None:
    sessions = [day * DAY + place for day in range(4) for place in range(5)]
    given = [each for person in (5, 6) for each in at_times(ratings(person, 20, honest), sessions)]
    given += at_times(ratings(7, 20, honest), [at + DAY // 2 for at in sessions])

    assert find_groups(given) == (frozenset({5, 6}),)


def test_a_few_ratings_together_are_chance() -> None:
    shared = [replace(rated(n), raters=(5, 6)) for n in range(MIN_SHARED - 1)]

    assert find_groups(shared) == ()


def test_accounts_that_are_each_too_small_to_be_judged_are_judged_together() -> None:
    """The review's attack: seven accounts with 19 turned thumbs each."""
    few = MIN_RATINGS - 1
    bad = [
        each
        for person in range(50, 57)
        for each in at_times(ratings(person, few, inverted), range(few))
    ]
    good = [
        each for person in range(1, 21) for each in at_any_time(ratings(person, 15, honest), person)
    ]

    found = examine(ExampleSet(unpaired=(*good, *bad)), FakeEmbedder(), trusted=())

    assert set(found.suspects) == set(range(50, 57))
    assert "rates together with 6 others" in found.suspects[50]
    assert found.groups == (frozenset(range(50, 57)),)


def test_a_class_that_rates_in_its_lesson_is_a_group_and_not_suspected() -> None:
    given = [
        each for person in range(1, 21) for each in at_times(ratings(person, 15, honest), range(15))
    ]

    found = examine(ExampleSet(unpaired=tuple(given)), FakeEmbedder(), trusted=())

    assert found.groups == (frozenset(range(1, 21)),)
    assert found.suspects == {}


def test_who_is_honest_in_a_group_of_others_is_not_held_back_with_them() -> None:
    few = MIN_RATINGS - 1
    bad = [
        each
        for person in range(50, 57)
        for each in at_times(ratings(person, few, inverted), range(few))
    ]
    beside = at_times(ratings(9, few, honest), range(few))

    found = examine(
        ExampleSet(unpaired=(*crowd(people=20), *beside, *bad)), FakeEmbedder(), trusted=()
    )

    assert set(found.suspects) == set(range(50, 57))


def test_times_go_by_the_rating_and_not_by_the_turn() -> None:
    later = timedelta(days=3)
    given = [
        replace(each, rated_at=(each.created_at + later,))
        for person in (5, 6)
        for each in at_times(ratings(person, 20, honest), range(20))
    ]
    spread = [replace(each, created_at=minute(DAY * number)) for number, each in enumerate(given)]

    assert find_groups(spread) == find_groups(given)
