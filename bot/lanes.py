"""Keeps order: what happens under one key happens one after another, in the order it came."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bot.errors import ConversationBusy


@dataclass(kw_only=True)
class _Lane:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    inside: int = 0  # the one at work and those that wait


class Lanes:
    """One lane a key. A lane holds a bounded number and disappears when it is empty."""

    def __init__(self, *, length: int = 8) -> None:
        self._length = length
        self._lanes: dict[Hashable, _Lane] = {}

    @asynccontextmanager
    async def enter(self, key: Hashable) -> AsyncIterator[None]:
        """Wait for one's turn, first come, first served. Raises `ConversationBusy` when full."""
        lane = self._lanes.setdefault(key, _Lane())
        if lane.inside >= self._length:
            raise ConversationBusy(lane.inside)
        lane.inside += 1
        try:
            async with lane.lock:  # asyncio's locks are fair
                yield
        finally:
            lane.inside -= 1
            if lane.inside == 0:
                del self._lanes[key]
