"""An event loop whose time is simulated: waiting takes no time, and a seed decides all delays.

Work for threads is done in the loop's own thread, after a drawn delay. So the same seed gives the
same order of events, whatever machine it runs on.
"""

import asyncio
import random
import selectors
from collections.abc import Callable
from typing import Any

THREAD_SECONDS = 0.02
"""Longest time that work for a thread waits."""


class Crashed(BaseException):
    """The simulated process has died; nothing in it may catch this."""


class NothingHappens(RuntimeError):
    """Everybody waits for somebody else."""


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop that jumps to the next moment at which something happens."""

    def __init__(self, draw: random.Random) -> None:
        self._seconds = 0.0
        self._draw = draw
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Return the simulated seconds since the loop was made."""
        return self._seconds

    def jump(self, seconds: float) -> None:
        """Let time pass."""
        self._seconds += seconds

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., Any], *args: object
    ) -> "asyncio.Future[Any]":
        """Do the work after a drawn delay; its caller waits for ever if its process dies of it."""
        future = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Crashed:
                return
            except BaseException as error:
                if not future.cancelled():
                    future.set_exception(error)
            else:
                if not future.cancelled():
                    future.set_result(result)

        self.call_later(self._draw.uniform(0, THREAD_SECONDS), work)
        return future


class _Selector(selectors.BaseSelector):
    """Waits for no file; to wait is to let simulated time pass."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, 0, events, data)
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingHappens("everybody waits for somebody else")
        self._loop.jump(max(0.0, timeout))
        return []

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return self._keys
