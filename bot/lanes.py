"""Keeps order: what happens in one place happens one after another, in the order it came."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bot.errors import ConversationBusy
from store.domain import Place


@dataclass(kw_only=True)
class _Lane:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    inside: int = 0  # the one at work and those that wait


class Lanes:
    """One lane a place. A lane holds a bounded number and disappears when it is empty."""

    def __init__(self, *, length: int = 8) -> None:
        self._length = length
        self._lanes: dict[Place, _Lane] = {}

    @asynccontextmanager
    async def enter(self, place: Place) -> AsyncIterator[None]:
        """Wait for one's turn, first come, first served. Raises `ConversationBusy` when full."""
        lane = self._lanes.setdefault(place, _Lane())
        if lane.inside >= self._length:
            raise ConversationBusy(lane.inside)
        lane.inside += 1
        try:
            async with lane.lock:  # asyncio's locks are fair
                yield
        finally:
            lane.inside -= 1
            if lane.inside == 0:
                del self._lanes[place]
