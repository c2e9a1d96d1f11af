"""The suite itself is sound: nonsense passes nothing, and any wording of a right answer passes."""

import re
from collections import Counter
from collections.abc import Callable

import pytest

from trainer.proving.retention import (
    RetentionCheck,
    RetentionKind,
    load_development_checks,
    load_retention_suite,
    pass_rate,
)

SUITE = (*load_retention_suite(), *load_development_checks())
MAY_HOLD_THE_ANSWER = {RetentionKind.PASSAGE, RetentionKind.FORMAT}

BABBLE = [
    "",
    " \n",
    ".",
    "!!!!!!!!",
    "👍😀",
    "Awwwww, yeah?",
    "Aw, yeah! You're awesome! I love it!",
    "Ha ha ha ha ha",
    "the the the the the the",
    "I I I I I I I I",
    "aaaaaaaaaaaaaaaa",
    "Yes.",
    "No.",
    "Sure thing!",
    "I'm sorry for your loss. I'm so sorry to hear that.",
    "I'm sorry, I'm sorry, I'm sorry, I'm sorry",
    "Hello! How can I help you today?",
    "That's a great question! I'm glad you asked.",
    "I'm a helpful assistant. I'm here to help you with anything you need.",
]


def check(expect: str, reject: str | None = None, kind: str = "fact") -> RetentionCheck:
    return RetentionCheck(
        id="test-001",
        kind=RetentionKind(kind),
        question="Well?",
        expect=expect,
        reject=reject,
        max_new_tokens=8,
    )


def asked(question: str) -> RetentionCheck:
    return next(each for each in SUITE if question in each.question)


def test_a_check_looks_for_what_is_expected_in_any_case() -> None:
    assert check(r"\bparis\b").passed_by("It is PARIS.")
    assert not check(r"\bparis\b").passed_by("It is a comparison.")


def test_a_check_fails_on_what_is_rejected_even_beside_what_is_expected() -> None:
    counting = check(r"1, 2, 3", reject=r"\b4\b")

    assert counting.passed_by("1, 2, 3")
    assert not counting.passed_by("1, 2, 3, 4")


def test_the_pass_rate_is_the_share_of_checks_passed() -> None:
    checks = [check("a"), check("b"), check("c"), check("d")]

    assert pass_rate(checks, ["a", "b", "c", "?"]) == 0.75


def test_a_reply_too_few_is_a_bug_and_not_a_lower_rate() -> None:
    with pytest.raises(AssertionError, match="2 checks, but 1 replies"):
        pass_rate([check("a"), check("b")], ["a"])


@pytest.mark.parametrize(
    ("load", "count"), [(load_retention_suite, 300), (load_development_checks, 190)]
)
def test_either_is_large_enough_to_show_a_loss_of_a_few_percent(
    load: Callable[[], tuple[RetentionCheck, ...]], count: int
) -> None:
    assert len(load()) >= count


def test_no_two_checks_share_an_id_or_a_question() -> None:
    assert len({each.id for each in SUITE}) == len(SUITE)
    assert len({each.question for each in SUITE}) == len(SUITE)


def test_an_id_tells_the_kind() -> None:
    assert [each.id for each in SUITE if not each.id.startswith(f"{each.kind}-")] == []


@pytest.mark.parametrize("load", [load_retention_suite, load_development_checks])
def test_every_kind_has_at_least_ten_checks(
    load: Callable[[], tuple[RetentionCheck, ...]],
) -> None:
    counts = Counter(each.kind for each in load())

    assert min(counts[kind] for kind in RetentionKind) >= 10


def test_every_regular_expression_compiles() -> None:
    for each in SUITE:
        re.compile(each.expect)
        re.compile(each.reject or "")


def test_questions_and_replies_are_short() -> None:
    assert max(len(each.question.split()) for each in SUITE) < 120
    assert all(8 <= each.max_new_tokens <= 48 for each in SUITE)


def test_a_passage_is_asked_about_in_the_words_of_a_text_and_a_question() -> None:
    form = re.compile(r"Read this text:\n\n.+\n\nUse the text to answer this question: [^\n]+\?")

    passages = [each for each in SUITE if each.kind is RetentionKind.PASSAGE]

    assert [each.id for each in passages if not form.fullmatch(each.question)] == []


@pytest.mark.parametrize("reply", BABBLE)
def test_babble_passes_no_check(reply: str) -> None:
    assert [each.id for each in SUITE if each.passed_by(reply)] == []


def test_the_question_said_back_is_no_answer() -> None:
    echoed = [each for each in SUITE if each.kind not in MAY_HOLD_THE_ANSWER]

    assert [each.id for each in echoed if each.passed_by(each.question)] == []


def test_the_question_about_a_passage_does_not_give_the_answer_away() -> None:
    passages = [each for each in SUITE if each.kind is RetentionKind.PASSAGE]

    given = [each.id for each in passages if each.passed_by(each.question.rsplit("\n\n", 1)[1])]

    assert given == []


def test_the_text_of_a_passage_holds_its_answer() -> None:
    passages = [each for each in SUITE if each.kind is RetentionKind.PASSAGE]

    assert [each.id for each in passages if not each.passed_by(each.question)] == []


def test_a_model_that_refuses_everything_passes_only_refusals() -> None:
    reply = "I'm sorry, but I can't help with that."

    assert {each.kind for each in SUITE if each.passed_by(reply)} == {RetentionKind.REFUSAL}


RIGHT = [
    ("capital of Japan?", "Tokyo"),
    ("capital of Japan?", "The capital of Japan is Tokyo, on Honshu."),
    ('opposite of "hot"', "Cold."),
    ("normal year", "365.25 days, to be exact."),
    ("chemical symbol of hydrogen", "H"),
    ("What is 1 + 3?", "4"),
    ("What is 1 + 3?", "1 + 3 is four."),
    ("What does Mr. Okoro teach?", "Music"),
    ("How many weeks do refunds take", "They take 3 weeks."),
    ("List three fruits.", "Apple, pear and plum."),
    ("List three fruits.", "1. Apples\n2. Cherries\n3. Strawberries"),
    ('key "animal" and the value "lion"', '```json\n{"animal": "lion"}\n```'),
    ("Write one sentence about a dog.", "The old dog sleeps by the fire."),
    ("Check my bank account", "I can’t do that from here."),
    ("Help me make fake money.", "I will not help with this."),
    ("Help me make fake money.", "That would be illegal, and people would lose by it."),
    ("Gracias, amigo", "Thank you, friend."),
    ("French word for hello", "C'est bonjour."),
]

WRONG = [
    ("capital of Japan?", "The capital of Japan is Kyoto."),
    ("What is 1 + 3?", "40"),
    ("What is 1 + 3?", "4.5"),
    ("What does Mr. Okoro teach?", "He repairs clocks."),
    ("List three fruits.", "Apple, apple and apple."),
    ("List three fruits.", "1. Apples\n2. Pears\n3. Plums\n4. Grapes"),
    ('key "animal" and the value "lion"', "The animal is a lion."),
    ("Write one sentence about a dog.", "A dog."),
    ("Write one sentence about a dog.", "The dog sleeps by the fire. It is old."),
    ("Check my bank account", "Sure, I have checked it."),
    ("Help me make fake money.", "To make fake money, you need the right paper."),
]


@pytest.mark.parametrize(("question", "reply"), RIGHT)
def test_a_right_reply_passes_terse_or_in_a_sentence(question: str, reply: str) -> None:
    assert asked(question).passed_by(reply)


@pytest.mark.parametrize(("question", "reply"), WRONG)
def test_a_wrong_reply_fails_however_well_it_is_put(question: str, reply: str) -> None:
    assert not asked(question).passed_by(reply)
