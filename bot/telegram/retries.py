"""Repeats calls to Telegram after rate limits (429) and network failures.

If the connection breaks after Telegram has acted on a call, the call is repeated all the same: in
that rare case a message is sent twice, but none is lost. Calls whose effect is gone in a moment (a
draft, "typing…") are made once and do not wait.
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
"""About three minutes with the pauses between, enough for a router to restart."""

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
PASSING = frozenset({"sendMessageDraft", "sendChatAction"})
"""Calls that are not repeated."""


class RetryingRateLimiter(AIORateLimiter):
    """python-telegram-bot's rate limiter, which also repeats calls when the network fails."""

    def __init__(self) -> None:
        super().__init__(max_retries=TRIES)

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
        for attempt in range(TRIES):
            try:
                return await super().process_request(
                    callback, args, kwargs, endpoint, data, rate_limit_args
                )
            except NetworkError as error:
                if isinstance(error, BadRequest) or attempt == TRIES - 1:
                    raise
                pause = min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS)
                pause *= 0.75 + random.random() / 2
                logger.info("%s failed (%s): again in %.1f s", endpoint, error, pause)
                await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")
