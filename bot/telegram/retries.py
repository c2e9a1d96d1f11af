"""Retries of calls to Telegram, under its rate limits, 429 replies, and an unreliable network.

Calls that matter are retried. A call that is lost after Telegram acted on it looks like one that
never arrived, so in that rare case a message is sent twice; no message is lost. Calls that show
passing things (a draft, "typing…") are made once and without waiting.
"""

import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any

from telegram.error import BadRequest, NetworkError
from telegram.ext import AIORateLimiter
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
)

logger = logging.getLogger(__name__)

TRIES = 10
"""Attempts, which take about three minutes with the pauses between them: enough for a router that
restarts, or a short outage."""

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
PASSING = frozenset({"sendMessageDraft", "sendChatAction"})
"""Calls that are not repeated."""


def backoff(first_seconds: float, longest_seconds: float) -> Callable[[RetryCallState], float]:
    """Return pauses that double up to the longest one, each varied at random by up to a quarter."""
    doubling = wait_exponential(multiplier=first_seconds, max=longest_seconds)
    return lambda state: doubling(state) * random.uniform(0.75, 1.25)


class RetryingRateLimiter(AIORateLimiter):
    """python-telegram-bot's rate limiter, which also retries when the network fails."""

    def __init__(
        self, *, tries: int = TRIES, first_pause_seconds: float = FIRST_PAUSE_SECONDS
    ) -> None:
        super().__init__(max_retries=tries)
        self._tries = tries
        self._first_pause_seconds = first_pause_seconds

    async def process_request(
        self,
        callback: Callable[..., Coroutine[Any, Any, Any]],
        args: Any,
        kwargs: dict[str, Any],
        endpoint: str,
        data: dict[str, Any],
        rate_limit_args: int | None,
    ) -> Any:
        """See `telegram.ext.BaseRateLimiter.process_request`."""
        if endpoint in PASSING:
            return await callback(*args, **kwargs)

        def log(state: RetryCallState) -> None:
            assert state.outcome is not None
            assert state.next_action is not None
            logger.info(
                "%s failed (%s): again in %.1f s",
                endpoint,
                state.outcome.exception(),
                state.next_action.sleep,
            )

        retrying = AsyncRetrying(
            retry=retry_if_exception(is_passing),
            wait=backoff(self._first_pause_seconds, LONGEST_PAUSE_SECONDS),
            stop=stop_after_attempt(self._tries),
            before_sleep=log,
            reraise=True,
        )
        return await retrying(
            super().process_request, callback, args, kwargs, endpoint, data, rate_limit_args
        )


def is_passing(error: BaseException) -> bool:
    """Return whether a call may succeed when it is made again."""
    return isinstance(error, NetworkError) and not isinstance(error, BadRequest)
