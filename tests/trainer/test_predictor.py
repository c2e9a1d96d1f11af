"""The predictor learns what people like from words alone, and knows when it cannot tell."""

import pytest

from store.domain import Example
from tests.fakes import FakeEmbedder
from tests.trainer.examples import rated
from trainer.proving.predictor import MIN_RATINGS_TO_FIT, RatingPredictor

KIND, RUDE = "gladly here is a kind and helpful answer", "go away you silly person"


def ratings(count: int, *, first: int = 0, flipped: bool = False) -> list[Example]:
    """Return ratings: kind replies are 👍 and rude ones 👎, or the other way round."""
    return [
        rated(number, (number % 2 == 0) != flipped, reply=f"{(KIND, RUDE)[number % 2]} {number}")
        for number in range(first, first + count)
    ]


def predictor(train: list[Example], held_out: list[Example]) -> RatingPredictor:
    return RatingPredictor(FakeEmbedder(), train, held_out)


def test_what_is_like_what_people_liked_is_guessed_to_be_liked() -> None:
    kind, rude = predictor(ratings(40), ratings(10, first=50)).predict([KIND, RUDE])

    assert 0 <= rude < 0.5 < kind <= 1


def test_it_is_measured_on_ratings_that_it_has_not_seen() -> None:
    assert predictor(ratings(40), ratings(10, first=50)).auc == 1.0
    assert predictor(ratings(40), ratings(10, first=50, flipped=True)).auc == 0.0


def test_it_tells_nothing_from_ratings_without_a_pattern() -> None:
    alike = [rated(number, number % 2 == 0, reply=KIND) for number in range(40)]

    assert predictor(alike, alike[:10]).auc == 0.5


def test_with_too_few_ratings_it_guesses_nothing() -> None:
    fitted = predictor(ratings(MIN_RATINGS_TO_FIT - 1), ratings(10, first=50))

    assert fitted.auc is None
    assert fitted.predict([KIND]) == ()


@pytest.mark.parametrize("label", [True, False])
def test_with_ratings_of_one_kind_it_guesses_nothing(label: bool) -> None:
    fitted = predictor([rated(number, label) for number in range(40)], ratings(10))

    assert fitted.auc is None
    assert fitted.predict([KIND]) == ()


def test_without_ratings_at_all_nothing_is_embedded() -> None:
    embedder = FakeEmbedder()

    assert RatingPredictor(embedder, [], []).predict([KIND]) == ()
    assert embedder.embedded == []


@pytest.mark.parametrize(
    "held_out", [[], [rated(1), rated(2)]], ids=["nothing held out", "only 👍 held out"]
)
def test_what_cannot_be_measured_has_no_measure(held_out: list[Example]) -> None:
    assert predictor(ratings(40), held_out).auc is None


def test_no_replies_get_no_guesses() -> None:
    assert predictor(ratings(40), ratings(10)).predict([]) == ()


def test_an_empty_reply_gets_a_guess_too() -> None:
    assert len(predictor(ratings(40), ratings(10)).predict(["", " \n", KIND])) == 3


def test_the_same_ratings_give_the_same_guesses() -> None:
    one, other = (predictor(ratings(40), ratings(10)) for _ in range(2))

    assert one.predict([KIND, RUDE]) == other.predict([KIND, RUDE])
