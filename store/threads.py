"""Threads that compute once and are gone.

A thread that computes with torch gets helpers, which libgomp counts for as long as it lives. Once
there are more than cores, all of them hardly look for work before they sleep, and each of the
engine's steps takes a fifth longer (docs/experiments.md). So only the engine's thread stays;
weights and adapters are read and texts are embedded in passing.
"""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def run_in_short_lived_thread(work: Callable[[], T]) -> T:
    """What this makes, in a thread that ends with it; who is interrupted does not wait for it."""
    made: Future[T] = Future()

    def make() -> None:
        try:
            made.set_result(work())
        except BaseException as error:
            made.set_exception(error)

    passing = Thread(target=make, name="in-passing", daemon=True)
    passing.start()
    try:
        return made.result()
    finally:
        if made.done():
            passing.join()
