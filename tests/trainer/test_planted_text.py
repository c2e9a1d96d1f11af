"""Corrections that plant something, however they are worded; and honest ones that do not."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.domain import ExampleSet, PreferencePair
from tests.fakes import FakeEmbedder
from tests.trainer.examples import asked, pair, rated
from trainer.examples.planted_text import MIN_REPEATS, find_planting

WORDS = ("tea", "bread", "moon", "river", "stone", "cloud", "paper", "glass", "salt", "honey")
TEMPLATES = (
    "You will find {} near the {}.",
    "It helps to ask {} about the {}.",
    "My neighbours like {} more than a {}.",
    "Before that, {} is worth a look, says the {}.",
    "No {0} and no {1}: that is how {0} does it.",
)


def corrections(
    person: int, count: int, payload: str | None, *, seed: int = 0, alike: bool = False
) -> list[PreferencePair]:
    """Return corrections of answers to unlike questions, with a payload in each, or none."""
    draw = random.Random(f"{person} {seed}")
    made = []
    for number in range(count):
        words = [f"{draw.choice(WORDS)}{draw.randrange(1000)}" for _ in range(3)]
        question = "When do you open?" if alike else f"{words[0]} or {words[1]}?"
        text = draw.choice(TEMPLATES).format(payload or words[2], draw.choice(WORDS))
        made.append(
            replace(
                pair(100_000 * person + number, chosen=text, rejected=" ".join(words)),
                prompt=asked(question),
                raters=(person,),
            )
        )
    return made


def found(
    pairs: Sequence[PreferencePair], *, trusted: Sequence[int] = (), replies: Sequence[str] = ()
) -> dict[int, str]:
    unpaired = tuple(rated(number, reply=reply) for number, reply in enumerate(replies))
    examples = ExampleSet(unpaired=unpaired, pairs=tuple(pairs))
    return dict(find_planting(examples, FakeEmbedder(), trusted=trusted))


@pytest.mark.parametrize(
    "payload",
    [
        "Zorbo",
        "zorbo.example",
        "https://zorbo.example/offer",
        "@zorbo_shop",
        "+49 151 000",
        "左宝商店很好",
    ],
)
def test_a_planted_name_link_or_number_is_found_however_it_is_worded(payload: str) -> None:
    assert set(found(corrections(50, 2 * MIN_REPEATS, payload))) == {50}


def test_the_reason_names_what_was_planted() -> None:
    assert "zorbo" in found(corrections(50, 2 * MIN_REPEATS, "Zorbo"))[50]


def test_accounts_that_plant_a_little_each_are_found_together() -> None:
    few = [each for person in range(50, 57) for each in corrections(person, 4, "Zorbo")]

    assert set(found(few)) == set(range(50, 57))


def test_honest_corrections_beside_the_planted_ones_cover_little() -> None:
    given = [*corrections(50, 12, "Zorbo"), *corrections(50, 6, None, seed=1)]

    assert set(found(given)) == {50}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_honest_corrections_are_not_suspected(seed: int) -> None:
    people = [each for person in range(1, 9) for each in corrections(person, 12, None, seed=seed)]

    assert found(people) == {}


def test_many_who_answer_the_same_question_alike_plant_nothing() -> None:
    given = [each for person in range(1, 12) for each in corrections(person, 6, "Nine", alike=True)]

    assert found(given) == {}


def test_what_the_bot_itself_says_is_not_planted() -> None:
    replies = [f"Ask Zorbo about {word}." for word in WORDS]

    assert found(corrections(50, 2 * MIN_REPEATS, "Zorbo"), replies=replies) == {}


def test_what_trusted_people_write_is_not_planted() -> None:
    admins = corrections(1, 2 * MIN_REPEATS, "Zorbo")

    assert found([*admins, *corrections(50, 2 * MIN_REPEATS, "Zorbo")], trusted=[1]) == {}


def test_a_word_that_answers_repeat_from_their_questions_is_not_planted() -> None:
    given = [
        replace(each, prompt=asked(f"{each.prompt[0].content} And Zorbo?"))
        for each in corrections(50, 2 * MIN_REPEATS, "Zorbo")
    ]

    assert found(given) == {}


def test_who_gives_the_same_text_over_and_over_is_suspected() -> None:
    spam = [
        replace(pair(n, chosen="buy at zorbo today", rejected=f"no {n}"), raters=(50,))
        for n in range(MIN_REPEATS)
    ]

    assert found(spam) == {50: f"{MIN_REPEATS} of {MIN_REPEATS} corrections say nearly the same"}


@pytest.mark.parametrize("count", [0, 1, MIN_REPEATS - 1])
def test_a_few_corrections_show_nothing(count: int) -> None:
    embedder = FakeEmbedder()

    examples = ExampleSet(pairs=tuple(corrections(50, count, "Zorbo")))

    assert find_planting(examples, embedder, trusted=()) == {}
    assert embedder.embedded == []
