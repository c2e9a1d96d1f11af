"""Which failures of calls to Telegram pass, and how long to wait before a call is made again."""

import random
from collections.abc import Callable
from datetime import timedelta

from telegram.error import BadRequest, NetworkError, RetryAfter
from tenacity import RetryCallState, wait_exponential

TRIES = 10
"""Attempts, which take about three minutes with the pauses between them: enough for a router that
restarts, or a short outage."""

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0


def backoff(first_seconds: float, longest_seconds: float) -> Callable[[RetryCallState], float]:
    """Return pauses that double up to the longest one, each varied at random by up to a quarter."""
    doubling = wait_exponential(multiplier=first_seconds, max=longest_seconds)
    return lambda state: doubling(state) * random.uniform(0.75, 1.25)


def is_passing(error: BaseException) -> bool:
    """Return whether a call may succeed when it is made again."""
    is_network = isinstance(error, NetworkError) and not isinstance(error, BadRequest)
    return is_network or isinstance(error, RetryAfter)


def seconds_of(flood: RetryAfter) -> float:
    """Return the seconds that Telegram asks to wait, which are a number or a timedelta."""
    wait = flood.retry_after
    return wait.total_seconds() if isinstance(wait, timedelta) else float(wait)
