"""Short-lived threads for computations.

A thread that computes with torch gets helper threads, which libgomp counts for as long as it lives.
Once there are more of them than cores, they wait for work only briefly before they sleep, and each
of the engine's steps takes a fifth longer (docs/experiments.md). So only the engine's thread stays;
weights and adapters are loaded and texts are embedded in short-lived threads.
"""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def run_in_short_lived_thread(work: Callable[[], T]) -> T:
    """Run `work` in a short-lived daemon thread and return its result. Ctrl-C returns at once."""
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
