"""Measurement of a filled store, call by call."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from benchmarks.scale.calls import StoreCalls
from benchmarks.scale.choose import choosing
from benchmarks.scale.drawing import LARGE_GROUP
from benchmarks.scale.figures import CALLS, Figure, Laps, timed, until_slow
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

QUESTION_MS, RATING_MS, COMMAND_MS, WAIT_MS = 20.0, 10.0, 100.0, 100.0
"""Limits for questions, ratings and commands, and for the wait of others."""

FORGOTTEN_PEOPLE = 3
"""Number of people who are erased, of either kind."""

FORGOTTEN_TURNS = 500
EXPIRED_TURNS = 1000
PAUSE_SECONDS = 0.002
"""Time between two tiny rows."""

ALONE_SECONDS = 5.0
"""Time for which tiny rows are written with nothing beside them."""


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
        _, wait, _ = self._beside_a_writer(_do_nothing)
        yield Figure(name="longest wait with nothing beside", values=[wait])
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
        rated, others, recalled, in_sql = Laps(), Laps(), Laps(), []
        for turn_id, person_id in turns[:CALLS]:
            before = self._sql.milliseconds
            self._calls.rate(turn_id, person_id, rated.lap)
            in_sql.append(self._sql.milliseconds - before)
        yield from rated.figures("rating")
        yield Figure(name="rating: in SQL", values=in_sql, limit=RATING_MS)
        for turn_id, person_id in until_slow(turns[CALLS:]):
            self._calls.rate(turn_id, person_id, others.lap)
            with recalled.lap("recall"):
                self._calls.recall(Place(chat_id=person_id), 0, "What?")
        values = recalled.taken["recall"]
        yield Figure(name="the first recall after a rating", values=values, limit=QUESTION_MS)

    def _forgetting(self) -> Iterator[Figure]:
        private, grouped = people_with_turns(self._database, FORGOTTEN_TURNS, FORGOTTEN_PEOPLE)
        for where, people in (("in private", private), ("also in the large group", grouped)):
            seconds, waits, turns = [], [], 0
            for person in until_slow(people):
                took, wait, erased = self._beside_a_writer(partial(self._calls.forget, person))
                seconds.append(took)
                waits.append(wait)
                turns += erased
            name = f"/forget, {turns // len(seconds)} turns {where}"
            yield Figure(name=name, values=seconds, unit="s")
            yield _longest_wait(name, waits)

    def _expiring(self) -> Iterator[Figure]:
        seconds, waits = [], []
        for _ in until_slow(range(FORGOTTEN_PEOPLE)):
            age = self._database.now() - time_of_turn(self._database, EXPIRED_TURNS)
            took, wait, _ = self._beside_a_writer(partial(self._calls.expire, age))
            seconds.append(took)
            waits.append(wait)
        name = f"expire, {EXPIRED_TURNS} turns"
        yield Figure(name=name, values=seconds, unit="s")
        yield _longest_wait(name, waits)

    def _beside_a_writer(self, work: Callable[[], int]) -> tuple[float, float, int]:
        """Run `work` while a thread writes a tiny row again and again.

        Returns the seconds it took, the thread's longest wait in milliseconds, and its result.
        """
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
            result = work()
            took = time.perf_counter() - started
        finally:
            done.set()
            writer.join()
        return took, max(writes.taken["row"]), result


def _longest_wait(name: str, waits: list[float]) -> Figure:
    return Figure(name=f"{name}: longest wait", values=waits, limit=WAIT_MS, by=max)


def _do_nothing() -> int:
    time.sleep(ALONE_SECONDS)
    return 0
