"""What goes wrong in a simulated world: a database that goes away or kills, a bad connection."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session
from sqlalchemy.util import LRUCache

from store.database import Database
from store.errors import DatabaseUnavailable
from tests.simulation.loop import Crashed, SimulatedLoop

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)

TROUBLE_SECONDS = 60.0
"""Time for which things go wrong; after that nothing does."""


COMPILED: LRUCache[Any, Any] = LRUCache(2_000)


@dataclass(kw_only=True)
class Plan:
    """The faults of one seed, drawn before it begins."""

    loop: SimulatedLoop
    draw: random.Random
    away: list[tuple[float, float]] = field(default_factory=list)
    """Times between which the database cannot be reached."""
    network: float = 0.0
    """Probability that a call to Telegram goes wrong."""
    repeats: float = 0.0
    """Probability that Telegram delivers an update once more."""
    crashes: int = 0
    """Times that a process dies."""
    jump: timedelta = timedelta(0)
    """Jump of the wall clock, half way through."""
    replicas: int = 1
    ambiguous: int = 0
    """Calls that took effect though their caller was told otherwise, so far."""

    @classmethod
    def drawn(cls, loop: SimulatedLoop, draw: random.Random) -> "Plan":
        """Draw the faults of a seed; some seeds have none of a kind."""
        away = []
        for _ in range(draw.choice([0, 0, 1, 3])):
            start = draw.uniform(0, TROUBLE_SECONDS)
            away.append((start, min(TROUBLE_SECONDS, start + draw.choice([0.1, 2, 20]))))
        return cls(
            loop=loop,
            draw=draw,
            away=away,
            network=draw.choice([0.0, 0.0, 0.05, 0.3]),
            repeats=draw.choice([0.0, 0.1, 0.5]),
            crashes=draw.choice([0, 1, 1, 2, 3]),
            jump=timedelta(seconds=draw.choice([0, 0, -40, 40, 300])),
            replicas=draw.choice([1, 1, 2]),
        )

    @property
    def in_trouble(self) -> bool:
        """True while things may go wrong."""
        return self.loop.time() < TROUBLE_SECONDS

    @property
    def is_away(self) -> bool:
        """True while the database cannot be reached."""
        return any(start <= self.loop.time() < end for start, end in self.away)

    def now(self) -> datetime:
        """Return the time by the wall clock, which may jump."""
        jumped = self.loop.time() > TROUBLE_SECONDS / 2
        return (
            BEGINNING
            + timedelta(seconds=self.loop.time())
            + (self.jump if jumped else timedelta(0))
        )


class FaultyDatabase(Database):
    """The database of one process, which dies at one of its writes, before or after the commit."""

    def __init__(self, url: str, plan: Plan, *, dies_at_write: int | None, alone: bool) -> None:
        super().__init__(url, clock=plan.now)
        self.engine._compiled_cache = COMPILED  # every seed asks the same
        self.is_dead = False
        self.died = asyncio.Event()
        self._plan = plan
        self._left = dies_at_write
        self._is_alone = alone

    @property
    def alone(self) -> bool:
        """True if no other process handles the same updates."""
        return self._is_alone

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a transaction, unless the database is away or the process is dead."""
        self._check()
        dies = self._dies_now()
        with super().session() as session:
            yield session
            if dies == "before":
                self._die()
        if dies == "after":
            self._die()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a transaction that reads, unless the database is away or the process is dead."""
        self._check()
        with super().reading() as session:
            yield session

    def scrub(self) -> None:
        """Do nothing: the log of a database that is thrown away holds no secrets."""

    def _check(self) -> None:
        if self.is_dead:
            raise Crashed
        if self._plan.is_away:
            raise DatabaseUnavailable("the database is away")

    def _dies_now(self) -> str:
        if self._left is None or not self._plan.in_trouble:
            return ""
        self._left -= 1
        return self._plan.draw.choice(["before", "after"]) if self._left == 0 else ""

    def _die(self) -> None:
        self.is_dead = True
        self.died.set()
        raise Crashed
