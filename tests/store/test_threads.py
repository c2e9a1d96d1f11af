"""Who gets weights ready is gone afterwards."""

import threading

import pytest

from bot.engine.errors import ModelUnusable
from store.threads import in_passing


def test_what_is_made_comes_back_and_the_thread_is_gone() -> None:
    made = in_passing(threading.current_thread)

    assert made is not threading.current_thread()
    assert not made.is_alive()


def test_what_goes_wrong_there_goes_wrong_here() -> None:
    def fail() -> None:
        raise ModelUnusable("it has no weights")

    with pytest.raises(ModelUnusable, match="no weights"):
        in_passing(fail)
