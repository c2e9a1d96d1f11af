"""Allowances: how often something may happen, for each person or chat by itself."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from bot.recent import Recent

REMEMBERED = 10_000
"""Keys whose allowance is remembered; the one that was used longest ago is forgotten first."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How often something may happen: `burst` times at once, `per_second` in the long run."""

    burst: float
    per_second: float


class Allowance:
    """A token bucket for each key."""

    def __init__(self, rate: Rate, *, clock: Callable[[], float] | None = None) -> None:
        self._rate = rate
        self._clock = clock or (lambda: time.monotonic())  # looked up at each call
        self._left: Recent[int, tuple[float, float]] = Recent(REMEMBERED)
        """The rest of a key's allowance, and the time at which it was that much."""

    def take(self, key: int) -> bool:
        """Return whether it may happen now for a key; if so, it counts as happened."""
        now = self._clock()
        left, then = self._left.get(key, (self._rate.burst, now))
        left = min(self._rate.burst, left + (now - then) * self._rate.per_second)
        allowed = left >= 1
        self._left[key] = (left - 1 if allowed else left, now)
        return allowed
