"""Writes of many at once: what comes while a write is under way goes with the next one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Batches(Generic[T]):
    """Items that are written together, as few or as many as are there; nobody waits for more."""

    def __init__(self, write: Callable[[Sequence[T]], Awaitable[None]]) -> None:
        self._write = write
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def add(self, item: T) -> None:
        """Return once an item is written. Raises what the write of its batch raised."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, written))
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name="batches")
        await written

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._write_one(batch)
        finally:
            self._task = None

    async def _write_one(self, batch: "list[tuple[T, asyncio.Future[None]]]") -> None:
        try:
            await self._write([item for item, _ in batch])
        except Exception as error:
            for _, written in batch:
                if not written.done():  # done if whoever waited was cancelled
                    written.set_exception(error)
        else:
            for _, written in batch:
                if not written.done():
                    written.set_result(None)
