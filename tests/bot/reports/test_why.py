"""Explanations in words of how a reply came about."""

from datetime import UTC, datetime

from bot.reports.why import why
from store.domain import Memory, Passage
from tests.records import make_turn

TURN = make_turn(
    id=7,
    sampling={"temperature": 0.5, "seed": 42},
    created_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
)


def test_a_reply_is_traced_to_its_model_its_sampling_and_its_tokens() -> None:
    assert why(TURN, sampling=True).splitlines() == [
        "Turn 7 · 2026-01-02 03:04 UTC",
        "Model: starter",
        "Adapter: none (the base model)",
        "Tokens: 120 read, 4 written in 1.2 s",
        "Sampling: temperature 0.5, seed 42",
        "Passages: none was close enough to the question.",
        "Examples from earlier answers: 0",
    ]


def test_sampling_is_shown_only_if_asked_for() -> None:
    assert "Sampling" not in why(TURN)


def test_a_reply_is_traced_to_its_adapter() -> None:
    assert "Adapter: a3-1f2e3d4c\n" in why(make_turn(adapter="a3-1f2e3d4c"))


def test_a_reply_is_traced_to_its_passages_with_their_scores() -> None:
    passages = tuple(
        Passage(
            chunk_id=number, document_id=1, title="Handbook", section=section, text="", score=score
        )
        for number, (section, score) in enumerate([("Hours", 0.714), ("", 0.5)])
    )

    told = why(make_turn(passages=passages))

    assert "Passage 0.71: Handbook › Hours\nPassage 0.50: Handbook\n" in told
    assert "none was close enough" not in told


def test_a_reply_is_traced_to_the_earlier_answers_that_helped() -> None:
    memories = (
        Memory(turn_id=3, question="Open today?", answer="At ten.", score=0.912),
        Memory(turn_id=5, question="word " * 40, answer="At six.", score=0.75),
    )

    told = why(make_turn(memories=memories)).splitlines()

    assert told[-3:-1] == [
        "Examples from earlier answers: 2",
        "Example 0.91: turn 3, Open today?",
    ]
    assert told[-1].startswith("Example 0.75: turn 5, word word")
    assert len(told[-1]) < 110
