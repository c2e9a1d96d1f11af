"""Flaws of a reply are found in its text alone, and a sound reply has none."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.examples import asked
from trainer.passes.reply import Reply
from trainer.proving.drift import flips_language, is_degenerate, measure_drift, repetition

ENGLISH = "Could you tell me how the weather is going to be in the mountains tomorrow?"
ANSWERS = {
    "English": "Tomorrow will be sunny in the valley, with some clouds around the higher peaks.",
    "German": "Morgen wird es im Tal sonnig, und um die höheren Gipfel ziehen einige Wolken auf.",
    "French": "Demain il fera beau dans la vallée, avec quelques nuages autour des sommets.",
    "Russian": "Завтра в долине будет солнечно, а вокруг высоких вершин появятся облака.",
    "Chinese": "明天山谷里天气晴朗，高峰周围会有一些云，下午可能会有小雨，晚上气温会下降，"
    "请带上一件外套，以免着凉，祝您旅途愉快。",
}


def reply(text: str, *, question: str = ENGLISH, finished: bool = True) -> Reply:
    return Reply(prompt=asked(question), text=text, finished=finished)


def test_a_text_that_says_everything_once_repeats_nothing() -> None:
    assert repetition("The cat sat on the mat while the dog slept by the door.") == 0


def test_a_text_that_goes_round_repeats_nearly_everything() -> None:
    assert repetition("I am so sorry to hear that. " * 30) > 0.9


def test_half_a_text_said_again_is_half_repetition() -> None:
    said = "one two three four five six seven eight nine ten "

    assert 0.3 < repetition(said + said) < 0.5


def test_repetition_is_found_in_whatever_case_and_punctuation() -> None:
    assert repetition("One two, three four! ONE TWO three four") == pytest.approx(1 / 5)


@pytest.mark.parametrize("text", ["", "yes", "one two three", "no no no"])
def test_a_text_of_few_words_repeats_nothing(text: str) -> None:
    assert repetition(text) == 0


@given(st.text())
def test_repetition_is_a_share(text: str) -> None:
    assert 0 <= repetition(text) < 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t",
        "!!!!",
        "?!?!?! ...",
        "👍👍👍",
        "haaaaaaaaaaaaaaaaaaaaa",
        "\ufffd ok \ufffd",
        "{}[]();",
    ],
)
def test_what_is_empty_or_garbled_is_degenerate(text: str) -> None:
    assert is_degenerate(text)


@pytest.mark.parametrize(
    "text",
    [
        "Yes.",
        "42",
        "$5.00",
        "H₂O",
        "Paris 🙂",
        "Sure! 1. Apples, 2. pears, 3. plums.",
        "```python\nprint('hello')\n```",
        *ANSWERS.values(),
    ],
)
def test_a_sound_reply_is_not_degenerate(text: str) -> None:
    assert not is_degenerate(text)


def test_indented_code_is_not_degenerate() -> None:
    code = "def find(rows):\n    for row in rows:\n        if row:\n            for each in row:\n"

    assert not is_degenerate(f"{code}                return each\n")


@pytest.mark.parametrize("language", [name for name in ANSWERS if name != "English"])
def test_a_reply_in_another_language_or_script_is_a_flip(language: str) -> None:
    assert flips_language(reply(ANSWERS[language]))


@pytest.mark.parametrize("language", list(ANSWERS))
def test_a_reply_in_the_language_of_its_question_is_none(language: str) -> None:
    assert not flips_language(reply(ANSWERS[language], question=ANSWERS[language]))


@pytest.mark.parametrize("text", ["", "Oui.", "C'est vrai.", "42", "👍"])
def test_a_reply_too_short_to_tell_is_no_flip(text: str) -> None:
    assert not flips_language(reply(text))


def test_a_question_too_short_to_tell_has_no_language_to_leave() -> None:
    assert not flips_language(reply(ANSWERS["German"], question="Wetter?"))


def test_the_question_that_counts_is_the_last() -> None:
    prompt = (*asked(ANSWERS["German"]), *asked(ENGLISH))

    assert not flips_language(Reply(prompt=prompt, text=ANSWERS["English"], finished=True))


def test_drift_is_the_mean_over_the_replies() -> None:
    drift = measure_drift(
        [
            reply(ANSWERS["English"]),
            reply(ANSWERS["German"]),
            reply(""),
            reply("so it is and " * 40, finished=False),
        ],
        nll=2.5,
    )

    assert (drift.degenerate, drift.runaway, drift.flips) == (0.25, 0.25, 0.25)
    assert 0.2 < drift.repetition < 0.25
    assert drift.nll == 2.5


def test_without_replies_nothing_is_known() -> None:
    drift = measure_drift([], nll=0.0)

    values = (drift.repetition, drift.degenerate, drift.runaway, drift.flips)
    assert all(math.isnan(value) for value in values)
