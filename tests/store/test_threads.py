"""Short-lived threads are gone once their work is done."""

import signal
import threading
from types import FrameType

import pytest

from bot.engine.errors import ModelUnusable
from store.threads import run_in_short_lived_thread


def test_what_is_made_comes_back_and_the_thread_is_gone() -> None:
    made = run_in_short_lived_thread(threading.current_thread)

    assert made is not threading.current_thread()
    assert not made.is_alive()


def test_what_goes_wrong_there_goes_wrong_here() -> None:
    def fail() -> None:
        raise ModelUnusable("it has no weights")

    with pytest.raises(ModelUnusable, match="no weights"):
        run_in_short_lived_thread(fail)


def test_who_is_interrupted_does_not_wait() -> None:
    class Interrupted(Exception):
        pass

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise Interrupted

    release = threading.Event()
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(Interrupted):
            run_in_short_lived_thread(release.wait)  # without an end
    finally:
        signal.signal(signal.SIGALRM, before)
        release.set()
