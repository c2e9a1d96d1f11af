"""Measurement of a filled store, call by call."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from benchmarks.scale.calls import StoreCalls
from benchmarks.scale.choose import choosing
from benchmarks.scale.drawing import LARGE_GROUP
from benchmarks.scale.figures import CALLS, Figure, Laps, timed, until_slow
from benchmarks.scale.lock_holds import watched_lock
from benchmarks.scale.samples import (
    people_in_private,
    people_in_the_group,
    people_with_turns,
    time_of_turn,
    unrated_turns,
)
from benchmarks.scale.sql_time import SqlTime
from store.database import Database
from store.domain import Place
from store.errors import StoreError
from store.settings import Settings

QUESTION_MS, RATING_MS, COMMAND_MS, HOLD_MS = 20.0, 10.0, 100.0, 100.0
"""Limits for questions, ratings and commands, and for the time that the write lock is held."""

FORGOTTEN_PEOPLE = 3
"""Number of people who are erased, of either kind."""

FORGOTTEN_TURNS = 500
EXPIRED_TURNS = 1000
PAUSE_SECONDS = 0.002
"""Time between two tiny rows."""

ALONE_SECONDS = 5.0
"""Time for which tiny rows are written with nothing beside them."""


@dataclass(frozen=True, kw_only=True)
class _Beside:
    """The result of a piece of work, and what others felt of it."""

    seconds: float
    wait: float
    """The longest time that writing a tiny row took, in milliseconds, with the disk's share."""
    hold: float | None
    """The longest time that the database's write lock was held; None if there is no such lock."""
    result: int


class Scale:
    """Measurement of one filled store."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._calls = StoreCalls(database, settings)
        self._sql = SqlTime(database.engine)
        self._update_id = 10**9

    def figures(self) -> Iterator[Figure]:
        """Measure everything, one figure after another."""
        yield from self._questions()
        yield from self._ratings()
        for name, work in (
            ("/status", self._calls.status),
            ("/stats, not drawn", self._calls.stats),
            ("/metrics", self._calls.metrics),
            ("/approve, the list", self._calls.proposals),
        ):
            yield Figure(name=name, values=timed(work), limit=COMMAND_MS)
        yield from choosing(self._database.url)
        alone = self._beside_a_writer(_do_nothing)
        yield Figure(name="longest wait of a tiny row, nothing beside", values=[alone.wait])
        yield from self._forgetting()
        yield from self._expiring()

    def _questions(self) -> Iterator[Figure]:
        private = people_in_private(self._database)
        group = people_in_the_group(self._database)
        first = Laps()
        with first.lap("recall"):
            self._calls.recall(Place(chat_id=private[0]), 0, "What?")
        yield Figure(name="the first recall since the start", values=first.taken["recall"])
        asked = [(person, Place(chat_id=person)) for person in private]
        yield from self._asked("question", asked)
        asked = [(person, Place(chat_id=LARGE_GROUP)) for person in group]
        yield from self._asked("question in the large group", asked)

    def _asked(self, name: str, asked: list[tuple[int, Place]]) -> Iterator[Figure]:
        laps, in_sql = Laps(), []
        for person, place in until_slow(asked):
            self._update_id += 1
            question = f"ba be bi {self._update_id}?"
            before = self._sql.milliseconds
            self._calls.ask(place, person, self._update_id, question, laps.lap)
            in_sql.append(self._sql.milliseconds - before)
        yield from laps.figures(name)
        yield Figure(name=f"{name}: in SQL", values=in_sql, limit=QUESTION_MS)

    def _ratings(self) -> Iterator[Figure]:
        turns = unrated_turns(self._database, 2 * CALLS)
        rated, others, recalled, in_sql, recall_in_sql = Laps(), Laps(), Laps(), [], []
        for turn_id, person_id in turns[:CALLS]:
            before = self._sql.milliseconds
            self._calls.rate(turn_id, person_id, rated.lap)
            in_sql.append(self._sql.milliseconds - before)
        yield from rated.figures("rating")
        yield Figure(name="rating: in SQL", values=in_sql, limit=RATING_MS)
        for turn_id, person_id in until_slow(turns[CALLS:]):
            self._calls.rate(turn_id, person_id, others.lap)
            before = self._sql.milliseconds
            with recalled.lap("recall"):
                self._calls.recall(Place(chat_id=person_id), 0, "What?")
            recall_in_sql.append(self._sql.milliseconds - before)
        name = "the first recall after a rating"
        yield Figure(name=name, values=recalled.taken["recall"])
        yield Figure(name=f"{name}: in SQL", values=recall_in_sql, limit=QUESTION_MS)

    def _forgetting(self) -> Iterator[Figure]:
        private, grouped = people_with_turns(self._database, FORGOTTEN_TURNS, FORGOTTEN_PEOPLE)
        for where, people in (("in private", private), ("also in the large group", grouped)):
            measured = [
                self._beside_a_writer(partial(self._calls.forget, person))
                for person in until_slow(people)
            ]
            turns = sum(each.result for each in measured) // len(measured)
            yield from _beside_figures(f"/forget, {turns} turns {where}", measured)

    def _expiring(self) -> Iterator[Figure]:
        measured = []
        for _ in until_slow(range(FORGOTTEN_PEOPLE)):
            age = self._database.now() - time_of_turn(self._database, EXPIRED_TURNS)
            measured.append(self._beside_a_writer(partial(self._calls.expire, age)))
        yield from _beside_figures(f"expire, {EXPIRED_TURNS} turns", measured)

    def _beside_a_writer(self, work: Callable[[], int]) -> _Beside:
        """Run `work` while a thread writes a tiny row again and again."""
        writes, done = Laps(), threading.Event()

        def write() -> None:
            while not done.is_set():
                with suppress(StoreError), writes.lap("row"):  # StoreError: locked for too long
                    self._calls.write_a_row()
                time.sleep(PAUSE_SECONDS)

        writer = threading.Thread(target=write, name="writer")
        writer.start()
        started = time.perf_counter()
        try:
            with watched_lock(self._database.url) as holds:
                result = work()
                took = time.perf_counter() - started
        finally:
            done.set()
            writer.join()
        return _Beside(
            seconds=took,
            wait=max(writes.taken["row"]),
            hold=max(holds, default=None),
            result=result,
        )


def _beside_figures(name: str, measured: list[_Beside]) -> Iterator[Figure]:
    yield Figure(name=name, values=[each.seconds for each in measured], unit="s")
    holds = [each.hold for each in measured if each.hold is not None]
    if holds:
        yield Figure(name=f"{name}: longest hold of the lock", values=holds, limit=HOLD_MS, by=max)
    waits = [each.wait for each in measured]
    yield Figure(
        name=f"{name}: longest wait of a tiny row",
        values=waits,
        limit=None if holds else HOLD_MS,
        by=max,
    )


def _do_nothing() -> int:
    time.sleep(ALONE_SECONDS)
    return 0
