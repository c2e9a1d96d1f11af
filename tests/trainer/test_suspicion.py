"""Whose ratings look like an attack, whose only like a taste of their own, and who agrees."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from store.domain import Example, Examples, PreferencePair
from tests.fakes import FakeEmbedder
from tests.trainer.examples import pair, rated
from trainer.suspicion import DOUBT, FLOOD, LEAST_OTHERS, LEAST_RATINGS, Findings, examine

GOOD, BAD = ("clear", "short", "kind"), ("rude", "long", "vague")

Taste = Callable[[bool, random.Random], bool]


def honest(good: bool, draw: random.Random) -> bool:
    """One thumb in ten is the wrong one."""
    return good if draw.random() > 0.1 else not good


def inverted(good: bool, draw: random.Random) -> bool:
    return not honest(good, draw)


def by_lot(good: bool, draw: random.Random) -> bool:
    return draw.random() < 0.5


def ratings(person: int, count: int, taste: Taste) -> list[Example]:
    """Of replies that are good or bad by the words in them."""
    draw = random.Random(person)
    made = []
    for number in range(count):
        good = draw.random() < 0.5
        words = [*draw.choices(GOOD if good else BAD, k=2), f"word{draw.randrange(10**6)}"]
        example = rated(1000 * person + number, taste(good, draw), reply=" ".join(words))
        made.append(replace(example, raters=(person,)))
    return made


def crowd(people: int = 8, each: int = 15) -> list[Example]:
    return [rating for person in range(1, people + 1) for rating in ratings(person, each, honest)]


def found(
    unpaired: Sequence[Example] = (), pairs: Sequence[PreferencePair] = (), *, trusted: int = 0
) -> dict[int, str]:
    examples = Examples(unpaired=tuple(unpaired), pairs=tuple(pairs))
    return dict(examine(examples, FakeEmbedder(), trusted={trusted}).suspects)


def test_honest_people_are_not_suspected() -> None:
    assert found(crowd()) == {}


def test_who_presses_the_other_thumb_is() -> None:
    held = found([*crowd(), *ratings(50, 30, inverted)])

    assert list(held) == [50]
    assert held[50].endswith("of 30 ratings are the opposite of what others' say")


def test_who_presses_thumbs_by_lot_is_not() -> None:
    suspected = [seed for seed in range(50, 70) if found([*crowd(), *ratings(seed, 30, by_lot)])]

    assert len(suspected) <= 1 + 20 * DOUBT


def test_a_few_ratings_show_nothing() -> None:
    assert found([*crowd(), *ratings(50, LEAST_RATINGS - 1, inverted)]) == {}


def test_where_others_gave_too_few_there_is_nothing_to_contradict() -> None:
    others = crowd(people=6, each=(LEAST_OTHERS - 31) // 6)

    assert found([*others, *ratings(50, 30, inverted)]) == {}


def test_where_a_guess_cannot_tell_nobody_contradicts_it() -> None:
    for seed in range(20):
        others = [each for person in range(1, 9) for each in ratings(person, 15, by_lot)]
        same = [
            replace(rated(9000 + n, False, reply="rude rude rude"), raters=(50 + seed,))
            for n in range(LEAST_RATINGS)
        ]
        assert found([*others, *same]) == {}


@pytest.mark.parametrize(("attackers", "each"), [(2, 800), (1, 600), (1, 200)])
def test_a_flood_does_not_turn_the_others_into_suspects(attackers: int, each: int) -> None:
    bad = [rating for person in range(attackers) for rating in ratings(50 + person, each, inverted)]

    assert set(found([*crowd(each=25), *bad])) == {50 + person for person in range(attackers)}


def test_what_new_people_said_is_no_measure_for_others() -> None:
    bad = [rating for person in range(50, 70) for rating in ratings(person, 30, inverted)]

    found = examine(
        Examples(unpaired=(*crowd(each=25), *bad)),
        FakeEmbedder(),
        trusted=(),
        newcomers=range(50, 70),
    )

    assert set(found.suspects) == set(range(50, 70))
    assert found.agreeing <= set(range(1, 9))


def test_who_agrees_with_others_is_found_new_or_not() -> None:
    given = [*crowd(), *ratings(50, 30, honest), *ratings(51, 30, by_lot)]

    found = examine(Examples(unpaired=tuple(given)), FakeEmbedder(), trusted=(), newcomers={50, 51})

    assert found.agreeing == {50}


def test_who_agrees_and_floods_is_suspected_all_the_same() -> None:
    spam = [
        replace(pair(number, chosen="Buy at Zorbo today!", rejected=f"no {number}"), raters=(50,))
        for number in range(FLOOD)
    ]
    given = Examples(unpaired=(*crowd(), *ratings(50, 30, honest)), pairs=tuple(spam))

    found = examine(given, FakeEmbedder(), trusted=())

    assert set(found.suspects) == {50}
    assert 50 not in found.agreeing


def test_where_all_the_others_say_the_same_there_is_nothing_to_contradict() -> None:
    others = [replace(each, label=True) for each in crowd()]

    assert found([*others, *ratings(50, 30, inverted)]) == {}


def test_who_gives_the_same_text_over_and_over_is_suspected() -> None:
    spam = [
        replace(pair(number, chosen="Buy at Zorbo today!", rejected=f"no {number}"), raters=(50,))
        for number in range(FLOOD)
    ]

    assert found(crowd(), spam) == {50: f"{FLOOD} of {FLOOD} corrections say nearly the same"}


def test_a_few_alike_among_many_others_are_no_flood() -> None:
    made = [replace(pair(number, chosen="I do not know."), raters=(50,)) for number in range(FLOOD)]
    made += [
        replace(pair(number, chosen=f"word{number}"), raters=(50,))
        for number in range(FLOOD, 2 * FLOOD)
    ]

    assert found(crowd(), made) == {}


def test_what_the_bot_says_again_and_again_is_nobodys_flood() -> None:
    same = [
        replace(rated(9000 + number, False, reply="I cannot help."), raters=(50,))
        for number in range(FLOOD)
    ]

    assert found([*crowd(), *same]) == {}


def test_who_is_trusted_is_never_suspected() -> None:
    assert found([*crowd(), *ratings(50, 30, inverted)], trusted=50) == {}


@pytest.mark.parametrize("given", [[], [rated(1)]])
def test_without_people_who_gave_much_nothing_is_embedded(given: list[Example]) -> None:
    embedder = FakeEmbedder()

    found = examine(Examples(unpaired=tuple(given)), embedder, trusted=())

    assert found == Findings(suspects={}, agreeing=frozenset())
    assert embedder.embedded == []
