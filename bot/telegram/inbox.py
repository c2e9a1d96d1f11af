"""Stores every update before it is confirmed to Telegram, so that none is lost.

python-telegram-bot confirms an update (by the next `getUpdates`, or the webhook's 200) once its
queue has taken it, and `InboxQueue` takes it by committing it to SQL. While the database cannot be
reached, Telegram waits, and so do people; nothing is lost.

An update counts as handled when its handlers have ended. After a crash, the next process handles
the rest, or another replica does once the lease has run out; see `store/updates.py`. A crash just
after Telegram has taken a message, and before its id is stored, sends that one message twice.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from telegram import Bot, Update
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from bot.telegram.addressed import is_for_us
from bot.telegram.retries import backoff
from store.errors import StoreError
from store.updates import LEASE, Updates

logger = logging.getLogger(__name__)

KEEP_SECONDS = LEASE.total_seconds() / 6
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0

T = TypeVar("T")


class InboxQueue(asyncio.Queue[object]):
    """The queue of updates that were received and not begun yet."""

    def __init__(
        self, inbox: Updates, size: int, *, first_pause_seconds: float = FIRST_PAUSE_SECONDS
    ) -> None:
        super().__init__(size)
        self._first_pause_seconds = first_pause_seconds
        self._inbox = inbox
        self._unmarked: set[int] = set()

    async def put(self, item: object) -> None:
        """Store an update, then queue it; drop one that is known already, or not for the bot.

        Waits while the database cannot be reached.
        """
        if isinstance(item, Update) and not await self._stored(item):
            return
        await super().put(item)

    async def handled(self, update: Update) -> None:
        """Mark an update as handled; if the database cannot be reached, mark it later."""
        self._unmarked.add(update.update_id)
        try:
            await self._mark()
        except StoreError as error:
            logger.warning("update %d will be marked as handled later: %s", update.update_id, error)

    async def keep(self, bot: Bot, *, alone: bool) -> None:
        """Renew the lease of our updates and take over those of dead processes, until cancelled.

        `alone` says that no other process handles updates of this database; then leases of earlier
        processes need not run out first.
        """
        while True:
            try:
                await self._mark()
                await asyncio.to_thread(self._inbox.hold)
                for body in await asyncio.to_thread(self._inbox.take_over, alone=alone):
                    update = Update.de_json(body, bot)
                    logger.info("update %d was left unanswered: going on", update.update_id)
                    await super().put(update)
                await asyncio.to_thread(self._inbox.sweep)
            except StoreError as error:
                logger.warning("the inbox cannot be read: %s", error)
            else:
                alone = False
            await asyncio.sleep(KEEP_SECONDS)

    async def _stored(self, update: Update) -> bool:
        if not is_for_us(update):
            return False
        user = update.effective_user
        return await _in_thread_with_retries(
            lambda: self._inbox.take_in(
                update.update_id, user.id if user else None, update.to_dict()
            ),
            self._first_pause_seconds,
        )

    async def _mark(self) -> None:
        for update_id in list(self._unmarked):
            await asyncio.to_thread(self._inbox.handled, update_id)
            self._unmarked.discard(update_id)


async def _in_thread_with_retries(work: Callable[[], T], first_pause_seconds: float) -> T:
    """Run `work` in a thread, again and again until the database takes it."""
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(StoreError),
        wait=backoff(first_pause_seconds, LONGEST_PAUSE_SECONDS),
        before_sleep=_log_failure,
    )
    return await retrying(asyncio.to_thread, work)


def _log_failure(state: RetryCallState) -> None:
    assert state.outcome is not None
    logger.warning("an update waits for the database: %s", state.outcome.exception())
