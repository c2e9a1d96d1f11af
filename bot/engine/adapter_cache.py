"""The cache of loaded adapters: a few are held, and the least recently used one makes room."""

import asyncio
from collections import OrderedDict
from collections.abc import Collection

from bot.engine.errors import AdapterNotLoaded
from store.domain import Adapter

ADAPTERS_HELD = 3
"""Most adapters held at a time, more only while all are in use; each costs memory for copies of
the matrices it changes (docs/scaling.md)."""


class AdapterCache:
    """Names of the loaded adapters. The engine loads and unloads them. For the event loop only."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Adapter] = OrderedDict()
        self.loading = asyncio.Lock()
        """Held while an adapter is loaded. Check again afterwards: many ask for it at once."""

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def use(self, name: str | None) -> Adapter | None:
        """Return an adapter and mark it as just used. Raises `AdapterNotLoaded`."""
        if name is None:
            return None
        if name not in self._held:
            raise AdapterNotLoaded(name)
        self._held.move_to_end(name)
        return self._held[name]

    def put(self, adapter: Adapter, in_use: Collection[str | None]) -> list[str]:
        """Add an adapter and return the names evicted for it, never one that is in use."""
        self._held[adapter.name] = adapter
        idle = [name for name in self._held if name not in in_use and name != adapter.name]
        evicted = idle[: max(0, len(self._held) - ADAPTERS_HELD)]
        for name in evicted:
            del self._held[name]
        return evicted
