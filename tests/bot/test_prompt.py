"""Prompts: what the model is given, and what is left out first when room is short."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.errors import QuestionTooLong
from bot.prompt import build_prompt
from store.domain import Exchange, Memory, Message, PartKind, Passage, Prompt

History = list[Exchange]


def count_words(messages: Sequence[Message]) -> int:
    return sum(3 + len(message.content.split()) for message in messages)


def exchange(question: str, reply: str, turn_id: int = 100) -> Exchange:
    return Exchange(turn_id=turn_id, question=question, reply=reply)


def passage(text: str, score: float = 0.5) -> Passage:
    return Passage(
        chunk_id=1, document_id=1, title="Handbook", section="Hours", text=text, score=score
    )


def memory(question: str, answer: str, score: float = 0.8) -> Memory:
    return Memory(turn_id=1, question=question, answer=answer, score=score)


def build(
    history: History | None = None,
    passages: Sequence[Passage] = (),
    question: str = "When do you open?",
    *,
    memories: Sequence[Memory] = (),
    system_prompt: str = "Be brief.",
    budget: int = 1000,
    limit: int = 1000,
) -> tuple[tuple[Message, ...], tuple[Passage, ...], tuple[Memory, ...]]:
    """Build a prompt; return its messages, and the passages and memories of its parts."""
    prompt = build_all(
        history,
        passages,
        question,
        memories=memories,
        system_prompt=system_prompt,
        budget=budget,
        limit=limit,
    )
    kept = len(prompt.kept(PartKind.PASSAGE))
    examples = len(prompt.kept(PartKind.EXAMPLE))
    return prompt.messages, tuple(passages[:kept]), tuple(memories[:examples])


def build_all(
    history: History | None = None,
    passages: Sequence[Passage] = (),
    question: str = "When do you open?",
    *,
    memories: Sequence[Memory] = (),
    system_prompt: str = "Be brief.",
    budget: int = 1000,
    limit: int = 1000,
) -> Prompt:
    return build_prompt(
        system_prompt=system_prompt,
        history=history or [],
        passages=passages,
        memories=memories,
        question=question,
        count_tokens=count_words,
        budget_tokens=budget,
        limit_tokens=limit,
    )


def test_with_room_for_all_nothing_is_left_out() -> None:
    history = [exchange("Hi", "Hello!")]

    messages, kept, _ = build(history, [passage("We open at nine.")])

    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]
    assert "We open at nine." in messages[-1].content
    assert len(kept) == 1


def test_the_oldest_exchanges_go_first() -> None:
    history = [exchange(f"question {n}", "word " * 20, n) for n in range(10)]

    messages, _, _ = build(history, budget=100)

    asked = [message.content for message in messages if message.role == "user"]
    assert asked == ["question 7", "question 8", "question 9", "When do you open?"]


def test_passages_stay_when_history_has_to_go() -> None:
    history = [exchange("word " * 30, "word " * 30)]

    messages, kept, _ = build(history, [passage("word " * 40)], budget=90)

    assert len(kept) == 1
    assert [message.role for message in messages] == ["system", "user"]


def test_the_weakest_passage_goes_before_a_stronger_one() -> None:
    strong, weak = passage("strong " * 20, 0.9), passage("weak " * 20, 0.4)

    _, kept, _ = build(passages=[strong, weak], budget=60)

    assert kept == (strong,)


def test_the_best_passage_stands_nearest_to_the_question() -> None:
    messages, _, _ = build(passages=[passage("the best"), passage("the second")], question="Which?")
    text = messages[-1].content

    assert text.index("the second") < text.index("the best") < text.index("Which?")


def test_a_question_longer_than_the_budget_is_asked_alone() -> None:
    messages, kept, recalled = build(
        [exchange("Hi", "Hello!")],
        [passage("text")],
        "word " * 200,
        memories=[memory("Open?", "At nine.")],
        budget=100,
    )

    assert [message.role for message in messages] == ["system", "user"]
    assert (kept, recalled) == ((), ())
    assert messages[0].content == "Be brief."


def test_a_question_beyond_the_models_limit_is_refused_with_both_numbers() -> None:
    with pytest.raises(QuestionTooLong, match=r"208 tokens, and I can read 150"):
        build(question="word " * 200, limit=150)


def test_an_empty_system_prompt_is_no_message() -> None:
    messages, _, _ = build(question="Hi", system_prompt="")

    assert messages == (Message(role="user", content="Hi"),)


def test_examples_stand_as_exchanges_and_not_in_the_system_prompt() -> None:
    recalled = memory("When do you close?", "At six.")

    messages, _, kept = build([exchange("Hi", "Hello!")], memories=[recalled])

    assert kept == (recalled,)
    assert [(message.role, message.content) for message in messages] == [
        ("system", "Be brief."),
        ("user", "When do you close?"),
        ("assistant", "At six."),
        ("user", "Hi"),
        ("assistant", "Hello!"),
        ("user", "When do you open?"),
    ]


def test_the_closest_memory_stands_last() -> None:
    best, second = memory("close", "the best"), memory("far", "the second")

    messages, _, _ = build(memories=[best, second])

    assert [message.content for message in messages[1:-1]] == [
        "far",
        "the second",
        "close",
        "the best",
    ]


def test_an_example_that_the_history_holds_is_not_said_twice() -> None:
    known = memory("Open?", "At nine.")

    messages, _, kept = build([exchange("Open?", "At nine.", turn_id=1)], memories=[known])

    assert kept == ()
    assert len(messages) == 4


def test_an_answer_to_the_same_question_goes_before_passages_that_are_only_near() -> None:
    answer = memory("When do you open?", "At ten.", 0.99)

    _, kept, examples = build(passages=[passage("At nine.", 0.4)], memories=[answer])
    _, sure, _ = build(passages=[passage("At nine.", 0.7)], memories=[answer])

    assert (kept, examples) == ((), (answer,))
    assert len(sure) == 1


def test_the_weakest_memory_goes_before_a_closer_one() -> None:
    close, far = memory("close", "word " * 20, 0.9), memory("far", "word " * 20, 0.7)

    _, _, kept = build(memories=[close, far], budget=60)

    assert kept == (close,)


def test_memories_stay_when_history_has_to_go() -> None:
    history = [exchange("word " * 30, "word " * 30)]
    recalled = memory("Open?", "word " * 40)

    messages, _, kept = build(history, memories=[recalled], budget=90)

    assert kept == (recalled,)
    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]


def test_passages_stay_when_memories_have_to_go() -> None:
    found = passage("word " * 40)

    messages, kept, recalled = build(
        passages=[found], memories=[memory("Open?", "word " * 40)], budget=90
    )

    assert (kept, recalled) == ((found,), ())
    assert messages[0].content == "Be brief."


sizes = st.integers(0, 60)


@given(
    turns=st.lists(st.tuples(sizes, sizes), max_size=12),
    passages=st.lists(sizes, max_size=4),
    memories=st.lists(sizes, max_size=3),
    budget=st.integers(30, 300),
    limit=st.integers(30, 300),
)
def test_a_prompt_keeps_to_its_budget_and_drops_the_oldest_and_the_weakest(
    turns: list[tuple[int, int]], passages: list[int], memories: list[int], budget: int, limit: int
) -> None:
    history = [
        exchange(f"q{n} " + "w " * asked, "w " * said, 1000 + n)
        for n, (asked, said) in enumerate(turns)
    ]
    found = [passage("w " * size) for size in passages]
    recalled = [memory(f"m{n}", "w " * size) for n, size in enumerate(memories)]

    prompt = build_all(history, found, memories=recalled, budget=budget, limit=limit)
    kept = len(prompt.kept(PartKind.PASSAGE))
    examples = len(prompt.kept(PartKind.EXAMPLE))
    exchanges = [part.turn_id for part in prompt.kept(PartKind.EXCHANGE)]

    assert count_words(prompt.messages) <= min(budget, limit)
    assert exchanges == list(range(1000 + len(turns) - len(exchanges), 1000 + len(turns)))
    assert len(prompt.messages) == 2 + 2 * examples + 2 * len(exchanges)
    for part in prompt.parts:
        content = prompt.messages[part.message].content[part.starts_at : part.ends_at]
        if part.kind is PartKind.PASSAGE:
            assert content in {f"{each.source}: {each.text}" for each in found[:kept]}
        elif part.kind is PartKind.EXAMPLE:
            assert content in {each.question for each in recalled[:examples]}
        elif part.kind is PartKind.EXCHANGE:
            assert content == history[(part.turn_id or 0) - 1000].question
        else:
            assert content == {"system": "Be brief.", "question": "When do you open?"}[part.kind]
