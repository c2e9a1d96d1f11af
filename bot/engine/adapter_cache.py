"""The adapters that an engine holds ready: a few, of which the one used longest ago makes room."""

import asyncio
from collections import OrderedDict
from collections.abc import Collection

from bot.engine.errors import AdapterNotLoaded
from store.domain import Adapter

ADAPTERS_HELD = 3


class AdapterCache:
    """For the event loop's thread. What holding means is up to the engine."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Adapter] = OrderedDict()
        self.loading = asyncio.Lock()
        """Taken to load an adapter, after which it may be held already: many ask for it at once."""

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def use(self, name: str | None) -> Adapter | None:
        """An adapter that a reply is going to be written with. Raises `AdapterNotLoaded`."""
        if name is None:
            return None
        if name not in self._held:
            raise AdapterNotLoaded(name)
        self._held.move_to_end(name)
        return self._held[name]

    def put(self, adapter: Adapter, in_use: Collection[str | None]) -> list[str]:
        """Hold an adapter; the names of those that left for it, none of which is in use."""
        self._held[adapter.name] = adapter
        idle = [name for name in self._held if name not in in_use and name != adapter.name]
        leaving = idle[: max(0, len(self._held) - ADAPTERS_HELD)]
        for name in leaving:
            del self._held[name]
        return leaving
