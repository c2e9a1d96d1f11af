"""The calls of the store that are measured; how they are measured is left to `measure.py`."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta

from benchmarks.scale.drawing import SMALL_GROUPS
from benchmarks.scale.stub_embedder import StubEmbedder
from bot.app import make_store
from bot.prompt import render
from bot.quotas import Quotas
from bot.reports.metrics import StoreFigures
from bot.reports.stats import read_statistics
from store.database import Database
from store.domain import FinishReason, Memory, Place, Rating, RatingSource, Turn, TurnState
from store.settings import Settings

HISTORY = 8
"""Exchanges that fit into a prompt."""

COMPLETION = "ba be bi bo bu " * 20

Lap = Callable[[str], AbstractContextManager[None]]
"""Function that times a block under a name."""


class StoreCalls:
    """The calls that a question, a rating, a command or the nightly clean-up makes."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._settings = settings
        self._store = make_store(settings, database, StubEmbedder())
        self._quotas = Quotas(
            quota=settings.quota,
            admins=settings.admission.admins,
            conversations=self._store.conversations,
            feedback=self._store.feedback,
            people=self._store.people,
        )

    def ask(self, place: Place, person_id: int, update_id: int, question: str, lap: Lap) -> Turn:
        """Do all that a question does, except document search, embedding and writing the reply."""
        conversations = self._store.conversations
        with lap("people.find"):
            self._store.people.find(person_id)
        with lap("quotas"):
            self._quotas.check(person_id)
        with lap("conversations.current"):
            conversation = conversations.current(place)
        with lap("begin_turn"):
            turn = conversations.begin_turn(
                conversation.id, person_id, question, model="starter", update_id=update_id
            )
        with lap("history"):
            history = conversations.history(conversation.id, before=turn.id)
        with lap("memories.recall"):
            memories = self.recall(place, conversation.id, question)
        system_prompt = self._settings.reply.system_prompt
        prompt = render(system_prompt, memories, history[-HISTORY:], (), question)
        with lap("record_prompt"):
            conversations.record_prompt(turn.id, prompt, {"temperature": 0.0})
        with lap("finish_turn"):
            return conversations.finish_turn(
                turn.id,
                state=TurnState.FINAL,
                completion=COMPLETION,
                prompt_tokens=900,
                completion_tokens=80,
                seconds=2.5,
                finish_reason=FinishReason.STOP,
            )

    def recall(self, place: Place, conversation_id: int, question: str) -> tuple[Memory, ...]:
        """Find memories for a question."""
        return self._store.memories.recall(
            question,
            chat_id=place.chat_id,
            conversation_id=conversation_id,
            count=self._settings.retrieval.memories,
            floor=self._settings.retrieval.memory_floor,
        )

    def rate(self, turn_id: int, person_id: int, lap: Lap) -> None:
        """Do what a thumb does."""
        with lap("given_by"):
            self._quotas.check_rating(person_id)
        with lap("rate"):
            self._store.feedback.rate(turn_id, person_id, Rating.UP, RatingSource.BUTTON)
        with lap("tally"):
            self._store.feedback.tally(turn_id)

    def status(self) -> None:
        """Read the facts for `/status`."""
        self._store.status.read()

    def stats(self) -> None:
        """Read the figures for `/stats`."""
        read_statistics(self._store.statistics, self._store.runs)

    def metrics(self) -> None:
        """Read the store's part of `/metrics`."""
        list(StoreFigures(self._store.statistics).collect())

    def proposals(self) -> None:
        """Read the answers for `/approve`."""
        self._store.memories.proposals()

    def forget(self, person_id: int) -> int:
        """Erase a person; return the number of turns erased."""
        return self._store.eraser.erase_person(person_id).turns

    def expire(self, age: timedelta) -> int:
        """Delete the turns that are older; return their number."""
        return self._store.eraser.expire(age)

    def write_a_row(self) -> None:
        """Write one tiny row."""
        self._store.groups.decide(SMALL_GROUPS[0], answers=True)
