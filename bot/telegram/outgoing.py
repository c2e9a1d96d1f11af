"""Outgoing calls to Telegram: a bounded queue for each chat, under Telegram's limits.

A chat that gets more than Telegram lets through delays itself and nobody else: one call of a chat
is under way at a time, replies before other answers, these before notices, and tallies last. When
a chat's queue is full, notices are dropped first. An edit takes the place of one of the same
message that still waits. Admins' chats have a part of the overall rate for themselves.

Calls that matter are made again when the network or Telegram fails. A call that is lost after
Telegram acted on it looks like one that never arrived, so in that rare case a message is sent
twice; no message is lost. Calls that show passing things (a draft, "typing…") are made once.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from aiolimiter import AsyncLimiter
from telegram.error import RetryAfter, TelegramError
from telegram.ext import BaseRateLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from bot.slots import leave_slot
from bot.telegram.retries import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    TRIES,
    backoff,
    is_passing,
    seconds_of,
)

logger = logging.getLogger(__name__)

PER_SECOND = 30
"""Messages and edits a second, of all chats: Telegram's limit for a bot."""

OTHERS_PER_SECOND = 25
"""The part of it that chats other than the admins' may use."""

GROUPS_PER_MINUTE = 20
"""Messages and edits a minute in a group: Telegram's limit."""

MOST_WAITING = 30
"""Calls that may wait in the queue of a chat; replies to questions are let in beyond it."""

MOST_QUEUES = 512
"""Queues beyond which those that are empty, and whose chat got nothing lately, are dropped."""

PASSING = frozenset({"sendMessageDraft", "sendChatAction", "answerCallbackQuery"})
"""Calls that are made once, without waiting: they show passing things."""

PACED = ("send", "edit", "copy", "forward")
"""Beginnings of the names of calls that count towards the limits."""


class Urgency(IntEnum):
    """The order in which calls that wait for a chat are made, and the reverse one of dropping."""

    REPLY = 0
    """A reply of the model, or a part of one."""
    ANSWER = 1
    """An answer to a command or a button."""
    NOTICE = 2
    """Something that nobody waits for."""
    TALLY = 3
    """The counts under a reply."""


class NotSent(TelegramError):
    """A message was dropped, since too many wait for the same chat."""


_URGENCY: ContextVar[Urgency] = ContextVar("urgency", default=Urgency.ANSWER)


@contextmanager
def sending(urgency: Urgency) -> Iterator[None]:
    """Give the calls that are made in the block an urgency."""
    token = _URGENCY.set(urgency)
    try:
        yield
    finally:
        _URGENCY.reset(token)


@dataclass(eq=False, kw_only=True)
class _Call:
    make: Callable[[], Coroutine[Any, Any, Any]]
    urgency: Urgency
    order: int
    edits: tuple[str, Any] | None
    """The kind of edit and the message's id, for an edit."""
    result: "asyncio.Future[Any]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    waiters: int = 0
    task: "asyncio.Task[Any] | None" = None
    """The call itself, while it is under way."""

    def refuse(self, reason: str) -> None:
        """Let those who wait know that the call is not made."""
        if not self.result.done():
            self.result.set_exception(NotSent(reason))
            self.result.exception()  # or asyncio complains when nobody waits any more


class Outgoing(BaseRateLimiter[int]):
    """All calls of one bot to Telegram."""

    def __init__(
        self,
        *,
        admins: frozenset[int] = frozenset(),
        tries: int = TRIES,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
    ) -> None:
        self._admins = admins
        self._tries = tries
        self._first_pause_seconds = first_pause_seconds
        self._all = AsyncLimiter(PER_SECOND, 1)
        self._others = AsyncLimiter(OTHERS_PER_SECOND, 1)
        self._queues: dict[int | str, _ChatQueue] = {}
        self._order = itertools.count()

    @property
    def waiting(self) -> int:
        """The number of calls that wait to be made."""
        return sum(queue.length for queue in list(self._queues.values()))

    def drop_answers(self) -> None:
        """Drop what waits and is no reply of the model, since the bot stops."""
        for queue in self._queues.values():
            queue.drop_answers()

    async def initialize(self) -> None:
        """Do nothing; there is nothing to prepare."""

    async def shutdown(self) -> None:
        """Give up what still waits."""
        for queue in list(self._queues.values()):
            queue.close()

    async def process_request(
        self,
        callback: Callable[..., Coroutine[Any, Any, Any]],
        args: Any,
        kwargs: dict[str, Any],
        endpoint: str,
        data: dict[str, Any],
        rate_limit_args: int | None,
    ) -> Any:
        """Make a call when its turn comes; see `telegram.ext.BaseRateLimiter.process_request`.

        Raises `NotSent` if too many wait for the chat.
        """

        async def make() -> Any:  # a coroutine function, or it would not be awaited
            return await callback(*args, **kwargs)

        if endpoint in PASSING:
            return await make()
        leave_slot()
        chat_id = data.get("chat_id")
        if chat_id is None or not endpoint.startswith(PACED):
            return await self._made(endpoint, make)
        message_id = data.get("message_id")
        call = _Call(
            make=lambda: self._made(endpoint, make),
            urgency=_URGENCY.get(),
            order=next(self._order),
            edits=(endpoint, message_id) if message_id and endpoint.startswith("edit") else None,
        )
        return await self._queue(chat_id).result_of(call)

    def _queue(self, chat_id: int | str) -> "_ChatQueue":
        queue = self._queues.get(chat_id)
        if queue is None:
            limiters = [self._all] if chat_id in self._admins else [self._others, self._all]
            if len(self._queues) >= MOST_QUEUES:
                self._queues = {id: each for id, each in self._queues.items() if not each.is_idle}
            queue = self._queues[chat_id] = _ChatQueue(chat_id, limiters)
        return queue

    async def _made(self, endpoint: str, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Make a call, again if the network fails or Telegram asks to wait."""

        def log(state: RetryCallState) -> None:
            assert state.outcome is not None
            assert state.next_action is not None
            logger.info(
                "%s failed (%s): again in %.1f s",
                endpoint,
                state.outcome.exception(),
                state.next_action.sleep,
            )

        pauses = backoff(self._first_pause_seconds, LONGEST_PAUSE_SECONDS)

        def pause(state: RetryCallState) -> float:
            assert state.outcome is not None
            error = state.outcome.exception()
            return seconds_of(error) + 0.1 if isinstance(error, RetryAfter) else pauses(state)

        retrying = AsyncRetrying(
            retry=retry_if_exception(is_passing),
            wait=pause,
            stop=stop_after_attempt(self._tries),
            before_sleep=log,
            reraise=True,
        )
        return await retrying(make)


class _ChatQueue:
    """The calls that wait for one chat, and the task that makes them one after another."""

    def __init__(self, chat_id: int | str, limiters: list[AsyncLimiter]) -> None:
        self._chat_id = chat_id
        self._limiters = limiters
        self._group: AsyncLimiter | None = None
        if not isinstance(chat_id, int) or chat_id < 0:
            self._group = AsyncLimiter(GROUPS_PER_MINUTE, 60)
        self._waiting: list[_Call] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def length(self) -> int:
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """True if nothing waits, and the group got nothing lately."""
        is_rested = self._group is None or self._group.has_capacity(GROUPS_PER_MINUTE)
        return not self._waiting and self._task is None and is_rested

    async def result_of(self, call: _Call) -> Any:
        """Wait until a call was made; return its result. Raises `NotSent`."""
        for other in self._waiting:
            if call.edits is not None and other.edits == call.edits:
                other.make, other.urgency = call.make, min(call.urgency, other.urgency)
                return await self._awaited(other)
        if len(self._waiting) >= MOST_WAITING and not self._has_dropped_for(call):
            raise NotSent(f"too much waits for chat {self._chat_id}")
        self._waiting.append(call)
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name=f"outgoing {self._chat_id}")
        return await self._awaited(call)

    async def _awaited(self, call: _Call) -> Any:
        """Wait for the result of a call; a call that nobody waits for any more is not made."""
        call.waiters += 1
        try:
            return await asyncio.shield(call.result)
        finally:
            call.waiters -= 1
            if call.waiters == 0 and call in self._waiting:
                self._waiting.remove(call)
            elif call.waiters == 0 and call.task is not None:
                call.task.cancel()

    def drop_answers(self) -> None:
        for call in self._waiting:
            if call.urgency > Urgency.REPLY:
                call.refuse("the bot stops")
        self._waiting = [call for call in self._waiting if call.urgency is Urgency.REPLY]

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _has_dropped_for(self, call: _Call) -> bool:
        """Drop the least urgent of the calls that wait, if it is a notice or less; else False."""
        if call.urgency is Urgency.REPLY:
            return True
        last = max(self._waiting, key=lambda each: (each.urgency, -each.order))
        if last.urgency < Urgency.NOTICE or last.urgency < call.urgency:
            return False
        self._waiting.remove(last)
        last.refuse(f"too much waits for chat {self._chat_id}")
        return True

    async def _work(self) -> None:
        try:
            while self._waiting:
                if self._group is not None:
                    await self._group.acquire()
                for limiter in self._limiters:
                    await limiter.acquire()
                if self._waiting:  # those that waited may have been cancelled meanwhile
                    await self._make_next()
        finally:
            self._task = None
            for call in self._waiting:
                call.refuse("the bot stops")
            self._waiting.clear()

    async def _make_next(self) -> None:
        call = min(self._waiting, key=lambda each: (each.urgency, each.order))
        self._waiting.remove(call)
        call.task = asyncio.create_task(call.make(), name=f"call {call.order}")
        try:
            await asyncio.wait((call.task,))
        except asyncio.CancelledError:  # the bot stops
            call.task.cancel()
            call.refuse("the bot stops")
            raise
        task, call.task = call.task, None
        if call.result.done() or task.cancelled():  # nobody waits for it any more
            return
        error = task.exception()
        if error is None:
            call.result.set_result(task.result())
        else:
            call.result.set_exception(error)
            call.result.exception()  # or asyncio complains when nobody waits any more
