"""Asks Telegram for updates, again and again.

The answer is not parsed by the library: an update that it does not understand would be asked for
again for ever, and nothing behind it would come.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from telegram.error import TelegramError
from telegram.request import HTTPXRequest
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from bot.telegram.raw import KINDS, id_of
from bot.telegram.retries import backoff

logger = logging.getLogger(__name__)

POLL_SECONDS = 30
"""Time for which one call waits for updates."""

MOST_AT_ONCE = 100
"""Updates in one answer: the most that Telegram gives."""

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0

_ID = re.compile(rb'"update_id"\s*:\s*(\d{1,18})')


class PollFailed(Exception):
    """Telegram could not be asked for updates, or refused."""


class Polling:
    """One bot's requests for updates; `receive` is given the updates of each answer, raw."""

    DEAF_SECONDS = 4.0 * POLL_SECONDS
    """Time without an answer after which nothing is received any more."""

    def __init__(
        self,
        url: str,
        request: HTTPXRequest,
        receive: Callable[[Sequence[Any]], Awaitable[None]],
    ) -> None:
        self._url = url
        self._request = request
        self._receive = receive
        self._offset: int | None = None
        self._most = MOST_AT_ONCE
        self.last_good = time.monotonic()
        """The time of the last answer that Telegram gave."""

    async def run(self) -> None:
        """Ask for updates until cancelled."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((PollFailed, TelegramError)),
            wait=backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS),
            before_sleep=_log_failure,
        )
        while True:
            answer: bytes = await retrying(self._ask, POLL_SECONDS)
            self.last_good = time.monotonic()
            await self._take(answer)

    async def confirm(self) -> None:
        """Tell Telegram which updates were received, before the bot stops."""
        if self._offset is not None:
            self._most = 1
            await self._ask(0)

    async def _ask(self, seconds: int) -> bytes:
        """Return Telegram's answer. Raises `PollFailed`, or the library's `TelegramError`."""
        given = {
            "timeout": seconds,
            "limit": self._most,
            "allowed_updates": json.dumps(KINDS),
            **({} if self._offset is None else {"offset": self._offset}),
        }
        code, payload = await self._request.do_request(
            f"{self._url}?{urlencode(given)}", "POST", read_timeout=seconds + 5
        )
        if code == 409:
            raise PollFailed("another bot polls with the same token: stop one of the two")
        if code != 200:
            text = payload[:200].decode(errors="replace")
            raise PollFailed(f"Telegram answered with {code}: {text}")
        return payload

    async def _take(self, answer: bytes) -> None:
        try:
            updates = json.loads(answer)["result"]
            ids = [id for id in map(id_of, updates) if id is not None]
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            await self._skip_unreadable(answer, error)
            return
        self._most = MOST_AT_ONCE
        await self._receive(updates)
        if ids:
            self._offset = max(ids) + 1
        elif updates:  # no update among them has an id: nothing can be confirmed
            await asyncio.sleep(LONGEST_PAUSE_SECONDS)

    async def _skip_unreadable(self, answer: bytes, error: Exception) -> None:
        """Ask for one update at a time, so as to pass over the one that is not JSON to us."""
        found = _ID.search(answer)
        if self._most > 1:
            self._most = 1
        elif found is not None:
            logger.error("update %s cannot be read: %s", found[1].decode(), error)
            await self._receive(
                [{"update_id": int(found[1]), "message": {"unreadable": str(error)}}]
            )
            self._offset = int(found[1]) + 1
        else:
            logger.error("an answer of Telegram cannot be read: %s", error)
            await asyncio.sleep(LONGEST_PAUSE_SECONDS)


def _log_failure(state: RetryCallState) -> None:
    assert state.outcome is not None
    assert state.next_action is not None
    logger.warning(
        "polling failed (%s): again in %.1f s", state.outcome.exception(), state.next_action.sleep
    )
