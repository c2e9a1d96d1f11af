"""Puts people and turns into a database, for tests that are about what hangs on them."""

from store.conversations import Conversations
from store.database import Database
from store.domain import FinishReason, Message, Place, Rating, RatingSource, TurnState
from store.people import People
from store.ratings import Ratings

ADA, BOB, CLEO = 11, 22, 33
GROUP = Place(chat_id=-100)


def meet(database: Database, *person_ids: int) -> None:
    for person_id in person_ids:
        People(database).see(person_id, f"person {person_id}")


def begin(
    database: Database,
    question: str = "why?",
    *,
    person_id: int = ADA,
    place: Place = GROUP,
    regenerates_id: int | None = None,
) -> int:
    """Ask a question that nobody has answered yet. Returns the turn's id."""
    meet(database, person_id)
    conversations = Conversations(database)
    return conversations.begin_turn(
        conversations.current(place).id,
        person_id,
        question,
        model="starter",
        regenerates_id=regenerates_id,
    ).id


def talk(
    database: Database,
    question: str = "why?",
    reply: str = "because",
    *,
    person_id: int = ADA,
    place: Place = GROUP,
    regenerates_id: int | None = None,
    prompt: str | None = None,
    state: TurnState = TurnState.FINAL,
    finish_reason: FinishReason = FinishReason.STOP,
) -> int:
    """Ask and answer, with what went before in the prompt. Returns the turn's id."""
    conversations = Conversations(database)
    turn_id = begin(
        database, question, person_id=person_id, place=place, regenerates_id=regenerates_id
    )
    past = conversations.history(conversations.current(place).id, before=regenerates_id or turn_id)
    conversations.record_prompt(
        turn_id,
        messages=(
            *(message for pair in past for message in pair),
            Message(role="user", content=prompt or question),
        ),
        passages=(),
        sampling={"temperature": 0.5},
    )
    conversations.finish_turn(turn_id, state=state, completion=reply, finish_reason=finish_reason)
    return turn_id


def rate(database: Database, turn_id: int, rating: Rating | None, person_id: int = ADA) -> None:
    """Give a thumb, or take it back."""
    meet(database, person_id)
    Ratings(database).rate(turn_id, person_id, rating, RatingSource.BUTTON)


def correct(database: Database, turn_id: int, text: str, person_id: int = ADA) -> int:
    """Say what a reply should have been. Returns the correction's id."""
    meet(database, person_id)
    return Ratings(database).correct(turn_id, person_id, text).id
