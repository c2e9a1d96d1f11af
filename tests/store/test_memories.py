"""Fast memory: what is recalled, where, and what is forgotten at once. On both databases."""

import pytest
from sqlalchemy import select

from store.database import Database
from store.domain import Access, Memory, Place, Rating, TurnState
from store.erasure import Eraser
from store.errors import TurnNotFound
from store.memories import Memories
from store.people import People
from store.tables import MemoryRow
from tests.fakes import FakeEmbedder
from tests.store.talk import ADA, BOB, CLEO, correct, rate, talk
from tests.store.threads import at_once

UP, DOWN = Rating.UP, Rating.DOWN
HERE, THERE = Place(chat_id=5), Place(chat_id=6)
QUESTION = "when does the harbour open"
CLOSE = "when does the old harbour open"


@pytest.fixture
def embedder() -> FakeEmbedder:
    return FakeEmbedder()


@pytest.fixture
def memories(database: Database, embedder: FakeEmbedder) -> Memories:
    return Memories(database, embedder)


ELSEWHERE = 10**6
"""Id of a conversation in which nothing was said."""


def ask(database: Database, reply: str = "At nine.", **options: object) -> int:
    """Have the question answered here; return the turn's id."""
    return talk(database, QUESTION, reply, place=HERE, **options)  # type: ignore[arg-type]


def recall(
    memories: Memories,
    question: str = CLOSE,
    place: Place = HERE,
    *,
    count: int = 3,
    floor: float = 0.7,
) -> tuple[Memory, ...]:
    return memories.recall(
        question, chat_id=place.chat_id, conversation_id=ELSEWHERE, count=count, floor=floor
    )


def approve(memories: Memories, turn_id: int) -> None:
    """Approve the answer of a turn if it is proposed."""
    for each in memories.proposals(limit=100):
        if each.turn_id == turn_id:
            memories.decide(turn_id, each.sha256, CLEO, approved=True)


def vectors(database: Database) -> int:
    """Return the number of vectors that are kept."""
    with database.reading() as session:
        return len(
            session.scalars(select(MemoryRow.turn_id).where(MemoryRow.vector.is_not(None))).all()
        )


def answers(memories: Memories, question: str = CLOSE, place: Place = HERE) -> list[str]:
    return [each.answer for each in recall(memories, question, place)]


def test_nothing_is_recalled_where_nothing_was_liked(
    database: Database, memories: Memories, embedder: FakeEmbedder
) -> None:
    ask(database)
    assert recall(memories) == ()
    assert embedder.embedded == []


def test_a_liked_answer_is_recalled_at_once_in_its_chat(
    database: Database, memories: Memories
) -> None:
    turn_id = ask(database)
    assert recall(memories) == ()
    rate(database, turn_id, UP)
    [memory] = recall(memories)
    assert (memory.turn_id, memory.question, memory.answer) == (turn_id, QUESTION, "At nine.")
    assert 0.7 <= memory.score < 1


def test_a_corrected_answer_is_recalled_at_once_as_it_should_have_been(
    database: Database, memories: Memories
) -> None:
    turn_id = ask(database)
    rate(database, turn_id, DOWN)
    correct(database, turn_id, "At ten.")
    assert answers(memories) == ["At ten."]


def test_a_correction_wins_over_a_reply_that_was_liked(
    database: Database, memories: Memories
) -> None:
    turn_id = ask(database)
    rate(database, turn_id, UP)
    assert answers(memories) == ["At nine."]
    correct(database, turn_id, "At ten.", ADA)
    correct(database, turn_id, "At eleven.", BOB)
    assert answers(memories) == ["At eleven."]


def test_the_topics_of_a_chat_share_what_is_recalled(
    database: Database, memories: Memories
) -> None:
    topic = Place(chat_id=HERE.chat_id, thread_id=7)
    rate(database, talk(database, QUESTION, "At nine.", place=topic), UP)
    assert answers(memories, place=HERE) == ["At nine."]


def test_nothing_crosses_to_another_chat_until_it_is_approved(
    database: Database, memories: Memories
) -> None:
    turn_id = ask(database)
    rate(database, turn_id, UP)
    assert answers(memories, place=THERE) == []
    approve(memories, turn_id)
    assert answers(memories, place=THERE) == ["At nine."]
    assert answers(memories, place=HERE) == ["At nine."]


def test_approving_makes_nothing_good_that_is_not(database: Database, memories: Memories) -> None:
    turn_id = ask(database)
    rate(database, turn_id, UP)
    approve(memories, turn_id)
    rate(database, turn_id, DOWN)
    assert answers(memories, place=HERE) == answers(memories, place=THERE) == []


def test_approving_twice_is_once_and_what_does_not_exist_cannot_be(
    database: Database, memories: Memories
) -> None:
    turn_id = ask(database)
    rate(database, turn_id, UP)
    approve(memories, turn_id)
    approve(memories, turn_id)
    assert answers(memories, place=THERE) == ["At nine."]
    with pytest.raises(TurnNotFound, match="no turn 404"):
        memories.decide(404, "0" * 64, CLEO, approved=True)


def test_what_waits_for_approval_is_listed_newest_first(
    database: Database, memories: Memories
) -> None:
    turns = [talk(database, f"question {number}", place=HERE) for number in range(4)]
    for turn_id in turns[1:]:
        rate(database, turn_id, UP)
    correct(database, turns[2], "It is so.")
    approve(memories, turns[3])
    waiting = memories.proposals()
    assert [(each.turn_id, each.question, each.answer) for each in waiting] == [
        (turns[2], "question 2", "It is so."),
        (turns[1], "question 1", "because"),
    ]
    assert memories.proposals(limit=1) == waiting[:1]


@pytest.mark.parametrize("last_word", [None, DOWN])
def test_a_rating_that_is_taken_back_or_turned_is_forgotten_at_once(
    database: Database, memories: Memories, last_word: Rating | None
) -> None:
    turn_id = ask(database)
    rate(database, turn_id, UP)
    assert answers(memories) == ["At nine."]
    rate(database, turn_id, last_word)
    assert answers(memories) == []


@pytest.mark.parametrize("last_word", [UP, None])
def test_what_became_good_is_recalled_at_once(
    database: Database, memories: Memories, last_word: Rating | None
) -> None:
    turn_id = ask(database)
    rate(database, turn_id, DOWN, ADA)
    rate(database, turn_id, UP, BOB)
    assert answers(memories) == []
    rate(database, turn_id, last_word, ADA)
    assert answers(memories) == ["At nine."]


@pytest.mark.parametrize(
    ("ratings", "recalled"), [([UP, UP, DOWN], True), ([UP, DOWN], False), ([DOWN], False)]
)
def test_more_have_to_like_an_answer_than_dislike_it(
    database: Database, memories: Memories, ratings: list[Rating], recalled: bool
) -> None:
    turn_id = ask(database)
    for person_id, rating in zip((ADA, BOB, CLEO), ratings, strict=False):
        rate(database, turn_id, rating, person_id)
    assert bool(recall(memories)) == recalled


@pytest.mark.parametrize("state", [TurnState.CANCELLED, TurnState.FAILED, TurnState.PENDING])
def test_an_answer_that_was_not_finished_is_not_recalled(
    database: Database, memories: Memories, state: TurnState
) -> None:
    rate(database, ask(database, state=state), UP)
    assert recall(memories) == ()


def test_an_erased_person_is_forgotten_at_once_and_so_is_the_vector(
    database: Database, memories: Memories
) -> None:
    rate(database, ask(database, person_id=ADA), UP, BOB)
    rate(database, talk(database, "who?", "Bob", place=HERE, person_id=BOB), UP, BOB)
    assert answers(memories) == ["At nine."]
    Eraser(database).erase_person(ADA)
    assert answers(memories) == []
    assert vectors(database) == 1


def test_the_vector_of_an_erased_person_goes_though_nothing_is_left_to_recall(
    database: Database, memories: Memories
) -> None:
    rate(database, ask(database, person_id=ADA), UP, BOB)
    assert answers(memories) == ["At nine."]
    Eraser(database).erase_person(ADA)
    assert answers(memories) == []
    assert vectors(database) == 0


def test_a_person_who_opted_out_is_not_recalled_until_they_opt_in(
    database: Database, memories: Memories
) -> None:
    rate(database, ask(database, person_id=ADA), UP, BOB)
    assert answers(memories) == ["At nine."]
    People(database).opt_out(ADA, True)
    assert answers(memories) == []
    People(database).opt_out(ADA, False)
    assert answers(memories) == ["At nine."]


def test_a_person_who_was_denied_is_not_recalled(database: Database, memories: Memories) -> None:
    turn_id = ask(database, person_id=ADA)
    rate(database, turn_id, UP, BOB)
    approve(memories, turn_id)
    People(database).decide(ADA, Access.DENIED)
    assert answers(memories, place=HERE) == answers(memories, place=THERE) == []
    assert memories.proposals() == ()


def test_nothing_below_the_floor_is_recalled(database: Database, memories: Memories) -> None:
    rate(database, ask(database), UP)
    [memory] = recall(memories, floor=-1)
    assert recall(memories, floor=memory.score - 0.01) == (memory,)
    assert recall(memories, floor=memory.score + 0.01) == ()
    assert recall(memories, "who wrote Hamlet?", floor=0.3) == ()


def test_the_closest_comes_first_and_no_more_than_asked_for(
    database: Database, memories: Memories
) -> None:
    for question in (f"{QUESTION} in winter", QUESTION, f"{QUESTION} in winter and in summer"):
        rate(database, talk(database, question, question, place=HERE), UP)
    found = recall(memories, QUESTION, count=2)
    assert [each.question for each in found] == [QUESTION, f"{QUESTION} in winter"]
    assert found[0].score == pytest.approx(1.0, abs=1e-5)
    assert found[0].score > found[1].score


def test_one_question_is_recalled_once_with_the_newest_of_its_answers(
    database: Database, memories: Memories
) -> None:
    for question, reply in ((QUESTION, "At nine."), (f" {QUESTION.upper()} ", "At ten.")):
        rate(database, talk(database, question, reply, place=HERE), UP)
    rate(database, talk(database, f"{QUESTION} today", "At one.", place=HERE), UP)
    assert answers(memories, QUESTION) == ["At ten.", "At one."]


def test_a_question_of_this_chat_is_found_among_those_of_others(
    database: Database, memories: Memories
) -> None:
    rate(database, ask(database), UP)
    for number in range(20):
        elsewhere = talk(database, CLOSE, "elsewhere", place=Place(chat_id=100 + number))
        rate(database, elsewhere, UP)
    assert answers(memories) == ["At nine."]


def test_questions_are_embedded_once(
    database: Database, memories: Memories, embedder: FakeEmbedder
) -> None:
    rate(database, ask(database), UP)
    recall(memories)
    recall(memories)
    rate(database, talk(database, "who?", place=HERE), UP)
    recall(memories)
    assert embedder.embedded == [QUESTION, CLOSE, CLOSE, "who?", CLOSE]


def test_what_was_remembered_is_there_after_opening_again(
    database: Database, memories: Memories, embedder: FakeEmbedder
) -> None:
    rate(database, ask(database), UP)
    recall(memories)
    embedder.embedded.clear()
    assert answers(Memories(database, embedder)) == ["At nine."]
    assert embedder.embedded == [CLOSE]


def test_threads_that_recall_at_once_embed_what_is_new_once(
    sqlite: Database, embedder: FakeEmbedder
) -> None:
    memories = Memories(sqlite, embedder)
    rate(sqlite, ask(sqlite), UP)
    assert at_once(8, lambda _: answers(memories)) == [["At nine."]] * 8
    assert embedder.embedded.count(QUESTION) == 1
