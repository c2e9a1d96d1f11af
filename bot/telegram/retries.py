"""How calls to Telegram wait: room under the rate limits, 429, and a network that comes and goes.

Calls that matter are tried again. A call that is lost after Telegram acted on it cannot be told
from one that never arrived, so a message may in that rare case be sent twice, but none is lost.
Calls that show passing things (a draft, "typing…") are made once and at once.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any

from telegram.error import BadRequest, NetworkError
from telegram.ext import AIORateLimiter

logger = logging.getLogger(__name__)

TRIES = 10
"""With the pauses between them some three minutes: a router that restarts, a short outage."""

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
PASSING = frozenset({"sendMessageDraft", "sendChatAction"})


class RetryingRateLimiter(AIORateLimiter):
    """python-telegram-bot's rate limiter, which also tries again when the network fails."""

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
        for attempt in range(self._tries):
            try:
                return await super().process_request(
                    callback, args, kwargs, endpoint, data, rate_limit_args
                )
            except NetworkError as error:
                if isinstance(error, BadRequest) or attempt == self._tries - 1:
                    raise
                pause = min(self._first_pause_seconds * 2**attempt, LONGEST_PAUSE_SECONDS)
                pause *= 0.75 + random.random() / 2
                logger.info("%s failed (%s): again in %.1f s", endpoint, error, pause)
                await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")
