"""What the model is given, and what goes first when it gets tight."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.errors import QuestionTooLong
from bot.prompt import build_prompt, with_passages
from store.domain import Message, Passage

History = list[tuple[Message, Message]]


def count_words(messages: Sequence[Message]) -> int:
    return sum(3 + len(message.content.split()) for message in messages)


def exchange(question: str, reply: str) -> tuple[Message, Message]:
    return Message(role="user", content=question), Message(role="assistant", content=reply)


def passage(text: str, score: float = 0.5) -> Passage:
    return Passage(
        chunk_id=1, document_id=1, title="Handbook", section="Hours", text=text, score=score
    )


def build(
    history: History | None = None,
    passages: Sequence[Passage] = (),
    question: str = "When do you open?",
    *,
    budget: int = 1000,
    limit: int = 1000,
) -> tuple[tuple[Message, ...], tuple[Passage, ...]]:
    return build_prompt(
        system_prompt="Be brief.",
        history=history or [],
        passages=passages,
        question=question,
        count_tokens=count_words,
        budget_tokens=budget,
        limit_tokens=limit,
    )


def test_with_room_for_all_nothing_is_left_out() -> None:
    history = [exchange("Hi", "Hello!")]

    messages, kept = build(history, [passage("We open at nine.")])

    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]
    assert "We open at nine." in messages[-1].content
    assert len(kept) == 1


def test_the_oldest_exchanges_go_first() -> None:
    history = [exchange(f"question {n}", "word " * 20) for n in range(10)]

    messages, _ = build(history, budget=100)

    asked = [message.content for message in messages if message.role == "user"]
    assert asked == ["question 7", "question 8", "question 9", "When do you open?"]


def test_passages_stay_when_history_has_to_go() -> None:
    history = [exchange("word " * 30, "word " * 30)]

    messages, kept = build(history, [passage("word " * 40)], budget=90)

    assert len(kept) == 1
    assert [message.role for message in messages] == ["system", "user"]


def test_the_weakest_passage_goes_before_a_stronger_one() -> None:
    strong, weak = passage("strong " * 20, 0.9), passage("weak " * 20, 0.4)

    _, kept = build(passages=[strong, weak], budget=60)

    assert kept == (strong,)


def test_the_best_passage_stands_nearest_to_the_question() -> None:
    text = with_passages("Which?", [passage("the best"), passage("the second")])

    assert text.index("the second") < text.index("the best") < text.index("Which?")


def test_a_question_longer_than_the_budget_is_asked_alone() -> None:
    messages, kept = build([exchange("Hi", "Hello!")], [passage("text")], "word " * 200, budget=100)

    assert [message.role for message in messages] == ["system", "user"]
    assert kept == ()


def test_a_question_beyond_the_models_limit_is_refused_with_both_numbers() -> None:
    with pytest.raises(QuestionTooLong, match=r"208 tokens, and I can read 150"):
        build(question="word " * 200, limit=150)


def test_an_empty_system_prompt_is_no_message() -> None:
    messages, _ = build_prompt(
        system_prompt="",
        history=[],
        passages=[],
        question="Hi",
        count_tokens=count_words,
        budget_tokens=100,
        limit_tokens=100,
    )

    assert messages == (Message(role="user", content="Hi"),)


sizes = st.integers(0, 60)


@given(
    turns=st.lists(st.tuples(sizes, sizes), max_size=12),
    passages=st.lists(sizes, max_size=4),
    budget=st.integers(30, 300),
    limit=st.integers(30, 300),
)
def test_a_prompt_keeps_to_its_budget_and_is_a_suffix_of_the_history(
    turns: list[tuple[int, int]], passages: list[int], budget: int, limit: int
) -> None:
    history = [
        exchange(f"q{n} " + "w " * asked, "w " * said) for n, (asked, said) in enumerate(turns)
    ]

    messages, kept = build(
        history, [passage("w " * size) for size in passages], budget=budget, limit=limit
    )

    assert count_words(messages) <= min(budget, limit)
    past = [message for pair in history for message in pair]
    middle = list(messages[1:-1])
    assert middle == past[len(past) - len(middle) :]
    assert len(kept) <= len(passages)
