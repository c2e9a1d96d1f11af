"""Notices that somebody gets once in a while, and not with every message."""

import time
from collections import OrderedDict

REMEMBERED = 10_000
HOURLY = 3600.0


class Notices:
    """One notice, and when it was given to whom."""

    def __init__(self, again_seconds: float) -> None:
        self._again_seconds = again_seconds
        self._given: OrderedDict[int, float] = OrderedDict()

    def due(self, person_id: int) -> bool:
        """Whether it is time to give it to them; if so, it counts as given."""
        now = time.monotonic()
        if now - self._given.get(person_id, -self._again_seconds) < self._again_seconds:
            return False
        self._given[person_id] = now
        self._given.move_to_end(person_id)
        while len(self._given) > REMEMBERED:
            self._given.popitem(last=False)
        return True
