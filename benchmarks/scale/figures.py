"""Figures: the time and memory that calls take, and their limits."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

CALLS = 25
"""Number of calls of a kind, unless they are slow."""

SLOW_SECONDS = 120.0
"""Time after which no more calls of a kind are begun."""

COLUMNS = ("call", "median", "from–to", "calls", "limit", "")

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """The values measured of one call, and the limit that their median must keep."""

    name: str
    values: Sequence[float]
    unit: str = "ms"
    limit: float | None = None
    by: Callable[[Sequence[float]], float] = statistics.median
    """Function of the values whose result is held to the limit."""
    note: str = ""

    @property
    def value(self) -> float:
        """The value that is held to the limit."""
        return self.by(self.values)

    @property
    def holds(self) -> bool:
        """True if the value keeps to its limit, or has none."""
        return self.limit is None or self.value <= self.limit

    @property
    def record(self) -> dict[str, object]:
        """The figure as JSON values."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "limit": self.limit,
            "holds": self.holds,
            "values": list(self.values),
            "note": self.note,
        }

    @property
    def cells(self) -> tuple[str, ...]:
        """The figure as a row of `COLUMNS`."""
        digits = 1 if self.value < 100 else 0
        limit = f"≤ {self.limit:g} {self.unit}" if self.limit is not None else ""
        return (
            self.name,
            f"{self.value:.{digits}f} {self.unit}",
            f"{min(self.values):.{digits}f}–{max(self.values):.{digits}f}",
            str(len(self.values)),
            limit if self.holds else f"{limit}, missed",
            self.note,
        )


@dataclass(kw_only=True)
class Laps:
    """Times of the parts of a call, in milliseconds."""

    taken: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        """Time a block as a part."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.taken[name].append(1000 * (time.perf_counter() - started))

    def figures(self, prefix: str) -> list[Figure]:
        """Return a figure for each part, and one for their sum."""
        parts = [Figure(name=f"{prefix}: {name}", values=ms) for name, ms in self.taken.items()]
        whole = [sum(each) for each in zip(*self.taken.values(), strict=True)]
        return [*parts, Figure(name=f"{prefix}: sum", values=whole)]


def timed(work: Callable[[], object]) -> list[float]:
    """Call `work` again and again; return the milliseconds of each call."""
    laps = Laps()
    for _ in until_slow(range(CALLS)):
        with laps.lap("call"):
            work()
    return laps.taken["call"]


def until_slow(items: Sequence[Item]) -> Iterator[Item]:
    """Yield items, at least one, until `SLOW_SECONDS` have passed."""
    started = time.perf_counter()
    for item in items:
        yield item
        if time.perf_counter() - started > SLOW_SECONDS:
            return
