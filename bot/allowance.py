"""Allowances: how often something may happen, for each person or chat by itself."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

REMEMBERED = 10_000
"""Keys whose allowance is remembered; the one that was used longest ago is forgotten first."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How often something may happen: `burst` times at once, `per_second` in the long run."""

    burst: float
    per_second: float


class Allowance:
    """A token bucket for each key."""

    def __init__(self, rate: Rate, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._left: OrderedDict[int, tuple[float, float]] = OrderedDict()
        """What is left for a key, and the time of which that was true."""

    def take(self, key: int, cost: float = 1.0) -> bool:
        """Return whether a key may spend `cost` now; if so, it is spent."""
        now = self._clock()
        left, then = self._left.get(key, (self._rate.burst, now))
        left = min(self._rate.burst, left + (now - then) * self._rate.per_second)
        allowed = left >= cost
        self._left[key] = (left - cost if allowed else left, now)
        self._left.move_to_end(key)
        while len(self._left) > REMEMBERED:
            self._left.popitem(last=False)
        return allowed
