"""Calls at the same moment, as in a bot with many chats."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

Result = TypeVar("Result")

TIMEOUT_SECONDS = 30


def at_once(count: int, act: Callable[[int], Result]) -> list[Result]:
    """Call `act` with 0, 1, 2 … in threads that start together. Raises what one of them raises."""
    barrier = Barrier(count)

    def start(number: int) -> Result:
        barrier.wait(TIMEOUT_SECONDS)
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(start, number) for number in range(count)]
        return [future.result(TIMEOUT_SECONDS) for future in futures]
