"""The calls of the store that `benchmarks.scale` measures, and nothing of how they are measured.

Neither the index of memories nor the embedder is real: the index gives its neighbours at once, so
that what is measured is SQL. As a process of its own (`python -m benchmarks.scale_calls URL`) it
chooses a run's examples and prints what that takes.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import psutil

from benchmarks.filled_store import SMALL_GROUPS
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
from store.embedder import Vector
from store.examples import Examples
from store.groups import Groups
from store.index import ChromaIndex
from store.memories import Memories
from store.people import People
from store.ratings import Ratings
from store.runs import Runs
from store.settings import DEFAULT_SYSTEM_PROMPT, Settings, load_settings
from trainer.examples.dataset import take_snapshot
from trainer.examples.rater_shares import RaterShares
from trainer.recipe import Recipe

HISTORY = 8
"""Exchanges that find room in a prompt."""

COMPLETION = "ba be bi bo bu " * 20

Lap = Callable[[str], AbstractContextManager[None]]
"""Times the block under a name."""


class StoreCalls:
    """What a question, a rating, a command or a night's work asks of the store."""

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

    def waiting(self) -> None:
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


class StubEmbedder:
    """Gives every text the same vector."""

    name = "stub"

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """One vector a text."""
        return [(1.0,)] * len(texts)


class StubIndex:
    """Ids without vectors: some of them are the nearest to anything."""

    absent = False
    identity = where = "stub"

    def __init__(self) -> None:
        self._ids: set[int] = set()
        self._draw = random.Random(0)

    def open(self) -> None:
        """Nothing is to be opened."""

    def upsert(self, ids: Iterable[int], vectors: Sequence[Vector]) -> None:
        """Keep the ids."""
        self._ids.update(ids)

    def delete(self, ids: Iterable[int]) -> None:
        """Drop the ids."""
        self._ids.difference_update(ids)

    def nearest(self, vector: Vector, count: int) -> list[tuple[int, float]]:
        """Draw so many ids."""
        drawn = self._draw.sample(sorted(self._ids), min(count, len(self._ids)))
        return [(id, 0.9) for id in drawn]

    def ids(self) -> set[int]:
        """Every id."""
        return set(self._ids)

    def count(self) -> int:
        """How many ids there are."""
        return len(self._ids)


def choose_examples(url: str) -> None:
    """Choose a run's examples, and print the seconds and the megabytes of each part."""
    database, settings = Database(url), load_settings()
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    examples = Examples.of(settings, database).collect()
    _say("collect", time.perf_counter() - started, before, len(examples.every))
    started = time.perf_counter()
    new = People(database).newcomers(timedelta(days=settings.train_newcomer_days))
    snapshot = take_snapshot(
        examples,
        Recipe.of(settings),
        system_prompt=settings.system_prompt,
        voices=RaterShares(trusted=settings.admins, newcomers=new),
    )
    _say("take_snapshot", time.perf_counter() - started, before, len(snapshot.train.every))


def _say(part: str, seconds: float, before: int, examples: int) -> None:
    megabytes = (_peak() - before) / 1e6
    said = {"part": part, "seconds": seconds, "megabytes": megabytes, "examples": examples}
    print(json.dumps(said), flush=True)


def _peak() -> int:
    """Most memory that this process has held, bytes (`ru_maxrss` would count the parent's)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    choose_examples(sys.argv[1])
