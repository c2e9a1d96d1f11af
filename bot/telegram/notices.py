"""Limits how often a person gets the same notice."""

import time

from bot.recent import Recent

REMEMBERED = 10_000
"""People for whom the time of their last notice is remembered."""

HOURLY = 3600.0
"""Seconds between two notices, for one an hour."""


class Notices:
    """The times at which one notice was last given to each person."""

    def __init__(self, again_seconds: float) -> None:
        self._again_seconds = again_seconds
        self._given: Recent[int, float] = Recent(REMEMBERED)

    def due(self, person_id: int) -> bool:
        """Return whether a person is due the notice; if so, it counts as given now."""
        now = time.monotonic()
        if now - self._given.get(person_id, -self._again_seconds) < self._again_seconds:
            return False
        self._given[person_id] = now
        return True

    def take_back(self, person_id: int) -> None:
        """Record that a notice did not arrive: it is due again."""
        self._given.pop(person_id, None)
