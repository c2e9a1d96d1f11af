"""People and turns in a database, for tests of the rows that refer to them."""

import io
import json
import zipfile
from collections.abc import Iterable
from typing import Any

from bot.prompt import render
from store.conversations import Conversations
from store.database import Database
from store.domain import (
    FinishReason,
    Memory,
    Message,
    Origin,
    OriginKind,
    Passage,
    Place,
    Rating,
    RatingSource,
    TurnState,
)
from store.export import Exports
from store.imports import Imports, Preference
from store.people import People
from store.ratings import Ratings

ADA, BOB, CLEO = 11, 22, 33
GROUP = Place(chat_id=-100)


def meet(database: Database, *person_ids: int) -> None:
    for person_id in person_ids:
        People(database).see(person_id, f"person {person_id}")


def preference(
    question: str = "why?",
    completion: str = "because",
    *,
    rejected: str | None = None,
    label: bool | None = None,
) -> Preference:
    prompt = (Message(role="user", content=question),)
    return Preference(prompt=prompt, completion=completion, rejected=rejected, label=label)


def take_in(
    database: Database,
    preferences: Iterable[Preference],
    *,
    source: str = "ratings.jsonl",
    trusted: bool = True,
) -> int:
    """Import preferences, by default as what the bot's owner trusts."""
    return Imports(database).take_in(preferences, source=source, imported_by="ada", trusted=trusted)


def begin(
    database: Database,
    question: str = "why?",
    *,
    person_id: int = ADA,
    place: Place = GROUP,
    regenerates_id: int | None = None,
) -> int:
    """Ask a question that nobody has answered yet; return the turn's id."""
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
    memories: tuple[Memory, ...] = (),
    passages: tuple[Passage, ...] = (),
    system: str = "",
    adapter: str | None = None,
    state: TurnState = TurnState.FINAL,
    finish_reason: FinishReason = FinishReason.STOP,
) -> int:
    """Ask and answer, with history, examples and passages in the prompt; return the turn's id."""
    conversations = Conversations(database)
    turn_id = begin(
        database, question, person_id=person_id, place=place, regenerates_id=regenerates_id
    )
    past = conversations.history(conversations.current(place).id, before=regenerates_id or turn_id)
    served = render(system, memories, past, passages, prompt or question)
    conversations.record_prompt(turn_id, served, {"temperature": 0.5})
    conversations.finish_turn(
        turn_id, state=state, completion=reply, adapter=adapter, finish_reason=finish_reason
    )
    return turn_id


def rate(database: Database, turn_id: int, rating: Rating | None, person_id: int = ADA) -> None:
    """Give a thumb, or take it back."""
    meet(database, person_id)
    Ratings(database).rate(turn_id, person_id, rating, RatingSource.BUTTON)


def correct(database: Database, turn_id: int, text: str, person_id: int = ADA) -> int:
    """Correct a reply; return the correction's id."""
    meet(database, person_id)
    return Ratings(database).correct(turn_id, person_id, text).id


def key(origin: Origin) -> str:
    """Return the rows of an origin in a few letters, such as `t12` for a rated turn."""
    match origin.kind:
        case OriginKind.RATED:
            return f"t{origin.turn_id}"
        case OriginKind.REGENERATED:
            return f"p{origin.turn_id}-{origin.other_turn_id}"
        case OriginKind.IMPORTED:
            return f"i{origin.imported_id}"
        case OriginKind.CORRECTED:
            return f"c{origin.correction_id}"
        case OriginKind.DEMONSTRATED:
            return f"d{origin.correction_id}"


def read_export(database: Database, person_id: int) -> dict[str, Any]:
    """Read a person's export, by file: JSON is parsed, other files are text."""
    files: dict[str, Any] = {}
    for part in Exports(database).write(person_id):
        with zipfile.ZipFile(io.BytesIO(part)) as archive:
            for name in archive.namelist():
                text = archive.read(name).decode()
                files[name] = json.loads(text) if name.endswith(".json") else text
    return files
