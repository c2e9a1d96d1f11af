"""The rater audit: ratings like an attack, ratings of a different taste, and agreement."""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import pytest

from store.domain import Example, ExampleSet, PreferencePair
from tests.fakes import FakeEmbedder
from tests.trainer.examples import asked, rated
from trainer.examples.agreement import MIN_FITTED_RATINGS, MIN_RATINGS, SIGNIFICANCE
from trainer.examples.planted_text import MIN_REPEATS
from trainer.examples.rater_audit import Findings, examine
from trainer.examples.rater_shares import PROVEN_AGREEMENT

GOOD, BAD = ("clear", "short", "kind"), ("rude", "long", "vague")

Taste = Callable[[bool, random.Random], bool]


def honest(good: bool, draw: random.Random) -> bool:
    """Rate honestly, with one wrong thumb in ten."""
    return good if draw.random() > 0.1 else not good


def inverted(good: bool, draw: random.Random) -> bool:
    return not honest(good, draw)


def by_lot(good: bool, draw: random.Random) -> bool:
    return draw.random() < 0.5


def always(good: bool, draw: random.Random) -> bool:
    return True


def ratings(person: int, count: int, taste: Taste, *, good: float = 0.5) -> list[Example]:
    """Return ratings of replies that are good or bad by their words; the share `good` is good."""
    draw = random.Random(person)
    made = []
    for number in range(count):
        is_good = draw.random() < good
        words = [*draw.choices(GOOD if is_good else BAD, k=2), f"word{draw.randrange(10**6)}"]
        example = rated(1000 * person + number, taste(is_good, draw), reply=" ".join(words))
        made.append(replace(example, raters=(person,)))
    return made


def crowd(people: int = 8, each: int = 15) -> list[Example]:
    return [rating for person in range(1, people + 1) for rating in ratings(person, each, honest)]


def found(
    unpaired: Sequence[Example] = (), pairs: Sequence[PreferencePair] = (), *, trusted: int = 0
) -> dict[int, str]:
    examples = ExampleSet(unpaired=tuple(unpaired), pairs=tuple(pairs))
    return dict(examine(examples, FakeEmbedder(), trusted={trusted}).suspects)


def test_honest_people_are_not_suspected() -> None:
    assert found(crowd()) == {}


def test_who_presses_the_other_thumb_is() -> None:
    held = found([*crowd(), *ratings(50, 30, inverted)])

    assert list(held) == [50]
    assert held[50].endswith("of 30 ratings are the opposite of what others' say")


def test_who_presses_thumbs_by_lot_is_not() -> None:
    suspected = [seed for seed in range(50, 70) if found([*crowd(), *ratings(seed, 30, by_lot)])]

    assert len(suspected) <= 1 + 20 * SIGNIFICANCE


def test_a_few_ratings_show_nothing() -> None:
    assert found([*crowd(), *ratings(50, MIN_RATINGS - 1, inverted)]) == {}


def test_where_others_gave_too_few_there_is_nothing_to_contradict() -> None:
    others = crowd(people=6, each=(MIN_FITTED_RATINGS - 31) // 6)

    assert found([*others, *ratings(50, 30, inverted)]) == {}


def test_where_a_guess_cannot_tell_nobody_contradicts_it() -> None:
    for seed in range(20):
        others = [each for person in range(1, 9) for each in ratings(person, 15, by_lot)]
        same = [
            replace(rated(9000 + n, False, reply="rude rude rude"), raters=(50 + seed,))
            for n in range(MIN_RATINGS)
        ]
        assert found([*others, *same]) == {}


@pytest.mark.parametrize(("attackers", "each"), [(2, 800), (1, 600), (1, 200)])
def test_a_flood_does_not_turn_the_others_into_suspects(attackers: int, each: int) -> None:
    bad = [rating for person in range(attackers) for rating in ratings(50 + person, each, inverted)]

    assert set(found([*crowd(each=25), *bad])) == {50 + person for person in range(attackers)}


def test_what_new_people_said_is_no_measure_for_others() -> None:
    bad = [rating for person in range(50, 70) for rating in ratings(person, 30, inverted)]

    found = examine(
        ExampleSet(unpaired=(*crowd(each=25), *bad)),
        FakeEmbedder(),
        trusted=(),
        newcomers=range(50, 70),
    )

    assert set(found.suspects) == set(range(50, 70))


def agreement(*given: Example, newcomers: Collection[int] = ()) -> dict[int, float]:
    every = ExampleSet(unpaired=given)
    found = examine(every, FakeEmbedder(), trusted=(), newcomers=newcomers).agreement
    return dict(found or {})


def test_who_agrees_with_others_is_found_new_or_not() -> None:
    given = [*crowd(), *(each for person in (50, 51) for each in ratings(person, 40, honest))]

    found = agreement(*given, newcomers={50})

    assert min(found[50], found[51]) > 0.8


def test_agreement_grows_with_the_number_of_ratings_that_agree() -> None:
    people, base = range(50, 70), crowd(people=20)

    def mean(count: int) -> float:
        more = [each for person in people for each in ratings(person, count, honest)]
        found = agreement(*base, *more, newcomers=people)
        return sum(found[person] for person in people) / len(people)

    few, some, many = (mean(count) for count in (1, 6, 30))
    assert few < some < many
    assert few < PROVEN_AGREEMENT < many


def test_who_presses_the_other_thumb_agrees_with_nobody() -> None:
    assert agreement(*crowd(), *ratings(50, 15, inverted))[50] == 0.0


def test_thumbs_that_lost_the_vote_count_as_what_was_pressed() -> None:
    lost = [replace(each, outvoted=(50,)) for each in crowd(each=10)]

    assert agreement(*lost)[50] == 0.0


@pytest.mark.parametrize("taste", [by_lot, always])
def test_who_does_not_look_does_not_agree(taste: Taste) -> None:
    praised = [each for person in range(1, 21) for each in ratings(person, 15, honest, good=0.8)]

    found = [
        agreement(*praised, *ratings(seed, 40, taste, good=0.8))[seed] for seed in range(50, 70)
    ]

    assert sum(each >= PROVEN_AGREEMENT for each in found) <= 3


def test_where_nobody_agrees_with_anybody_nothing_is_measured() -> None:
    thumbs = [each for person in range(1, 9) for each in ratings(person, 15, always)]

    assert examine(ExampleSet(unpaired=tuple(thumbs)), FakeEmbedder(), trusted=()).agreement is None


def test_those_whom_an_admin_vouched_for_are_the_measure_whoever_is_more() -> None:
    vouched = crowd(people=6, each=15)
    sybils = [each for person in range(50, 70) for each in ratings(person, 25, inverted)]
    every = ExampleSet(unpaired=(*vouched, *sybils))

    found = examine(every, FakeEmbedder(), trusted=(), vouched=range(1, 7))

    assert set(found.suspects) == set(range(50, 70))
    assert found.agreement is not None
    assert min(found.agreement[person] for person in range(1, 7)) >= PROVEN_AGREEMENT


@pytest.mark.parametrize("seed", range(50, 60))
def test_ratings_of_all_time_are_looked_at_so_that_late_honesty_covers_nothing(seed: int) -> None:
    turned = ratings(seed, 110, inverted)
    cover = [replace(each, prompt=asked("cover")) for each in ratings(seed, 150, honest)[110:]]

    assert list(found([*crowd(people=20), *turned, *cover])) == [seed]


@pytest.mark.parametrize("seed", range(50, 60))
def test_the_latest_ratings_are_looked_at_so_that_early_honesty_covers_nothing(seed: int) -> None:
    cover, turned = ratings(seed, 300, honest), ratings(seed, 340, inverted)[300:]

    assert list(found([*crowd(people=20), *cover, *turned])) == [seed]


def test_where_all_the_others_say_the_same_there_is_nothing_to_contradict() -> None:
    others = [replace(each, label=True) for each in crowd()]

    assert found([*others, *ratings(50, 30, inverted)]) == {}


def test_what_the_bot_says_again_and_again_is_nobodys_flood() -> None:
    same = [
        replace(rated(9000 + number, False, reply="I cannot help."), raters=(50,))
        for number in range(MIN_REPEATS)
    ]

    assert found([*crowd(), *same]) == {}


def test_who_is_trusted_is_never_suspected() -> None:
    assert found([*crowd(), *ratings(50, 30, inverted)], trusted=50) == {}


@pytest.mark.parametrize("given", [[], [rated(1)]])
def test_without_people_who_gave_much_nothing_is_embedded(given: list[Example]) -> None:
    embedder = FakeEmbedder()

    found = examine(ExampleSet(unpaired=tuple(given)), embedder, trusted=())

    assert found == Findings(suspects={}, agreement=None, groups=())
    assert embedder.embedded == []
