"""Stores which message shows what, once it is sent: without that it cannot be rated or answered."""

import asyncio
from functools import partial

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from bot.telegram.retries import backoff
from store.conversations import Conversations
from store.domain import SentKind
from store.errors import DatabaseUnavailable

TRIES = 10
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
"""About fifteen seconds in all. Sending again, as other faults are mended, would show it twice."""


async def record_sent(
    conversations: Conversations, turn_id: int, chat_id: int, message_id: int, kind: SentKind
) -> None:
    """Store that a message shows a turn; again if the database is away for a moment.

    Raises `TurnNotFound` if the turn was erased, and `DatabaseUnavailable` in the end.
    """
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(DatabaseUnavailable),
        wait=backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS),
        stop=stop_after_attempt(TRIES),
        reraise=True,
    )
    record = partial(conversations.record_sent, turn_id, chat_id, (message_id,), kind)
    await retrying(asyncio.to_thread, record)
