"""The calls of the store that are measured, and nothing of how they are measured.

The index and the embedder are stubs, so that it is SQL that takes its time.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, cast

from benchmarks.scale.drawing import SMALL_GROUPS
from benchmarks.scale.stubs import StubEmbedder, StubIndex
from bot.quotas import Quotas
from bot.reports.metrics import StoreFigures
from bot.reports.stats import read_statistics
from bot.reports.status import StatusReader
from store.adapters import Adapters
from store.conversations import Conversations
from store.database import Database
from store.documents.documents import Documents
from store.domain import (
    FinishReason,
    Message,
    Place,
    Rating,
    RatingSource,
    Turn,
    TurnState,
)
from store.groups import Groups
from store.index import ChromaIndex
from store.memories import Memories
from store.people import People
from store.ratings import Ratings
from store.runs import Runs
from store.settings import DEFAULT_SYSTEM_PROMPT, Settings

HISTORY = 8
"""Exchanges that find room in a prompt."""

COMPLETION = "ba be bi bo bu " * 20

Lap = Callable[[str], AbstractContextManager[None]]
"""Times a block, under a name."""


class StoreCalls:
    """The calls that a question, a rating, a command or the nightly clean-up makes."""

    def __init__(self, database: Database, settings: Settings) -> None:
        index, embedder = cast("ChromaIndex", StubIndex()), StubEmbedder()
        self._database = database
        self._settings = settings
        self._conversations = Conversations(database)
        self._ratings = Ratings(database)
        self._people = People(database)
        self._memories = Memories(database, index, embedder)
        self._quotas = Quotas(
            settings=settings,
            conversations=self._conversations,
            feedback=self._ratings,
            people=self._people,
        )
        self._groups = Groups(database)
        self._status = StatusReader(
            settings=settings,
            database=database,
            conversations=self._conversations,
            feedback=self._ratings,
            knowledge=Documents(database, index, embedder, chunk_chars=240),
            adapters=Adapters(database, settings.data_dir / "adapters"),
            runs=Runs(database),
        )

    def ask(self, place: Place, person_id: int, update_id: int, question: str, lap: Lap) -> Turn:
        """Do all that a question does, but search, embed and write the reply."""
        with lap("people.find"):
            self._people.find(person_id)
        with lap("quotas"):
            self._quotas.check(person_id, update_id)
        with lap("conversations.current"):
            conversation = self._conversations.current(place)
        with lap("begin_turn"):
            turn = self._conversations.begin_turn(
                conversation.id, person_id, question, model="starter", update_id=update_id
            )
        with lap("history"):
            history = self._conversations.history(conversation.id, before=turn.id)
        with lap("memories.recall"):
            memories = self.recall(place, conversation.id, question)
        system = Message(role="system", content=DEFAULT_SYSTEM_PROMPT)
        past = [message for pair in history[-HISTORY:] for message in pair]
        with lap("record_prompt"):
            self._conversations.record_prompt(
                turn.id,
                messages=(system, *past, Message(role="user", content=question)),
                passages=(),
                memories=memories,
                sampling={"temperature": 0.0},
            )
        with lap("finish_turn"):
            return self._conversations.finish_turn(
                turn.id,
                state=TurnState.FINAL,
                completion=COMPLETION,
                prompt_tokens=900,
                completion_tokens=80,
                seconds=2.5,
                finish_reason=FinishReason.STOP,
            )

    def recall(self, place: Place, conversation_id: int, question: str) -> tuple[Any, ...]:
        """Find memories for a question."""
        return self._memories.recall(
            question,
            chat_id=place.chat_id,
            conversation_id=conversation_id,
            count=self._settings.memories,
            floor=self._settings.memory_floor,
        )

    def rate(self, turn_id: int, person_id: int, lap: Lap) -> None:
        """Do what a thumb does."""
        with lap("given_by"):
            self._quotas.check_rating(person_id)
        with lap("rate"):
            self._ratings.rate(turn_id, person_id, Rating.UP, RatingSource.BUTTON)
        with lap("tally"):
            self._ratings.tally(turn_id)

    def status(self) -> None:
        """Read what `/status` shows."""
        self._status.read()

    def stats(self) -> None:
        """Read what `/stats` draws."""
        read_statistics(self._database)

    def metrics(self) -> None:
        """Read the store's part of `/metrics`."""
        list(StoreFigures(self._database).collect())

    def proposals(self) -> None:
        """Read what `/approve` lists."""
        self._memories.waiting()

    def forget(self, person_id: int) -> int:
        """Erase somebody; how many turns."""
        return self._people.erase(person_id).turns

    def expire(self, age: timedelta) -> int:
        """Delete the turns that are older; how many."""
        return self._people.expire(age)

    def write_a_row(self) -> None:
        """Write as little as there is to write."""
        self._groups.decide(SMALL_GROUPS[0], answers=True)
