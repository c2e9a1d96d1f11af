"""Lanes: work under the same key is done one after another, in the order in which it came."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bot.errors import ConversationBusy


@dataclass(kw_only=True)
class _Lane:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    inside: int = 0  # those that work or wait


class Lanes:
    """One lane per key. A lane has a bounded length and is dropped when it is empty."""

    def __init__(self, *, length: int = 8) -> None:
        self._length = length
        self._lanes: dict[Hashable, _Lane] = {}

    @asynccontextmanager
    async def enter(self, key: Hashable) -> AsyncIterator[None]:
        """Wait until those before have left the lane. Raises `ConversationBusy` when it is full."""
        lane = self._lanes.setdefault(key, _Lane())
        if lane.inside >= self._length:
            raise ConversationBusy(lane.inside)
        lane.inside += 1
        try:
            async with lane.lock:  # asyncio wakes waiters in their order
                yield
        finally:
            lane.inside -= 1
            if lane.inside == 0:
                del self._lanes[key]
