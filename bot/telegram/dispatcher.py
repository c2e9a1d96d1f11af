"""Handles updates side by side, and those that belong together one after another.

An update is done when its effect is stored, or its sender was told that it failed. A fault that is
not the update's own, of the database or the network, is waited out.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import timedelta

from telegram import Message, Update
from telegram.error import TelegramError

from bot.chat import Chat
from bot.errors import ConversationBusy
from bot.lanes import Lanes
from bot.slots import Slots
from bot.telegram.addressed import addressed_text, command_of, place_of
from bot.telegram.buttons import ReplyAction, ReplyButton
from bot.telegram.error_messages import ErrorMessages
from bot.telegram.inbox import Inbox
from bot.telegram.keyboard import acknowledge
from bot.telegram.outgoing import NotSent
from bot.telegram.retries import is_passing
from store.domain import Place
from store.logs import UPDATE

logger = logging.getLogger(__name__)

MOST_UNDER_WAY = 2_000
"""Updates under way at the same time, of people who are no admins; beyond it they are left out."""

TAPS_IN_A_LANE = 64
"""Taps and reactions of one person in one chat that may wait for each other."""

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
"""Pauses before an update is handled again: they double up to the longest one."""

ANSWERS_SECONDS = 5.0
"""Time that answers to commands get when the bot stops; replies of the model get more."""


class Dispatcher:
    """The updates that one process has begun to handle.

    Messages that the model answers keep the order of their place. Taps and reactions of one person
    in one chat keep theirs, without waiting for a reply that is being written.
    """

    def __init__(
        self,
        *,
        chat: Chat,
        errors: ErrorMessages,
        admins: frozenset[int],
        again_within: timedelta,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
    ) -> None:
        self._chat = chat
        self._errors = errors
        self._admins = admins
        self._again_within = again_within
        self._first_pause_seconds = first_pause_seconds
        self._taps = Lanes(length=TAPS_IN_A_LANE)
        self._slots = Slots()
        self._tasks: dict[asyncio.Task[None], Update] = {}
        self._since: dict[int, float] = {}
        """The times at which updates under way were handed on."""
        self._begun: set[int] = set()
        self._is_stopping = False
        self._inbox: Inbox | None = None
        self._handle: Callable[[Update], Awaitable[None]] | None = None

    def connect(self, inbox: Inbox, handle: Callable[[Update], Awaitable[None]]) -> None:
        """Give the dispatcher the inbox to report to, and the handler of one update."""
        self._inbox, self._handle = inbox, handle

    @property
    def under_way(self) -> int:
        """The number of updates that wait or are being handled."""
        return len(self._tasks)

    @property
    def oldest_seconds(self) -> float:
        """The age of the oldest update under way; 0 if there is none."""
        return time.monotonic() - min(self._since.values()) if self._since else 0.0

    def dispatch(self, update: Update) -> None:
        """Begin to handle an update, beside the others."""
        task = asyncio.create_task(self._run(update), name=f"update {update.update_id}")
        self._tasks[task] = update
        self._since[update.update_id] = time.monotonic()
        task.add_done_callback(self._forget)

    async def idle(self) -> None:
        """Wait until nothing is under way."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def stop(self, seconds: float, drop_answers: Callable[[], None]) -> None:
        """Give what is under way some time to end; leave the rest to the next process.

        `drop_answers` is called when only replies are to be waited for any longer.
        """
        assert self._inbox is not None
        self._is_stopping = True
        answers_seconds = min(seconds, ANSWERS_SECONDS)
        for limit in (answers_seconds, seconds - answers_seconds):
            if self._tasks:
                await asyncio.wait(list(self._tasks), timeout=limit)
            drop_answers()
        left = list(self._tasks)
        begun = list(self._begun)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        await self._inbox.release(begun)

    def _forget(self, task: "asyncio.Task[None]") -> None:
        update = self._tasks.pop(task)
        self._since.pop(update.update_id, None)

    async def _run(self, update: Update) -> None:
        assert self._inbox is not None
        UPDATE.set(update.update_id)
        if self.under_way > MOST_UNDER_WAY and not self._is_admins(update):
            logger.warning(
                "update %d is left out: %d are under way", update.update_id, MOST_UNDER_WAY
            )
            user, chat = update.effective_user, update.effective_chat
            if user is not None and chat is not None and update.message_reaction is None:
                self._inbox.leave_out(chat.id, user.id, update.get_bot())
        else:
            try:
                await self._until_done(update)
            except Exception as error:
                logger.exception("update %d was not handled", update.update_id)
                await self._inbox.failed(update.update_id, error)
                return
        await self._inbox.handled(update.update_id)  # a cancelled update is handled again later

    async def _until_done(self, update: Update) -> None:
        """Handle an update in its lane; again after a while, if a fault was not its own."""
        try:
            async with self._lane_of(update):
                pause = self._first_pause_seconds
                while await self._has_to_go_again(update):
                    await asyncio.sleep(pause * random.uniform(0.75, 1.25))
                    pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        except ConversationBusy as busy:
            await self._tell_busy(update, busy)

    async def _has_to_go_again(self, update: Update) -> bool:
        """Handle an update once; return whether that has to be done again."""
        assert self._inbox is not None
        assert self._handle is not None
        user, chat = update.effective_user, update.effective_chat
        person_id = user.id if user else 0
        async with self._slots.enter(
            person_id, chat.id if chat else person_id, is_admin=self._is_admins(update)
        ):
            if update.update_id not in self._begun:
                await self._inbox.begin(update.update_id)
                self._begun.add(update.update_id)
            await self._handle(update)
        fault = self._errors.take(update.update_id)
        if isinstance(fault, NotSent) and self._is_stopping:
            raise asyncio.CancelledError  # the next process answers
        if fault is None or self._is_over(update, fault):
            self._begun.discard(update.update_id)
            return False
        logger.warning("update %d will be handled again: %s", update.update_id, fault)
        return True

    def _is_over(self, update: Update, fault: Exception) -> bool:
        """Return whether an update that failed is given up."""
        if isinstance(fault, NotSent):
            logger.info("an answer to update %d was dropped: %s", update.update_id, fault)
            return True
        is_network = isinstance(fault, TelegramError)
        if is_network and not (is_passing(fault) and _answered_in(update) is not None):
            logger.warning("an answer to update %d was not sent: %s", update.update_id, fault)
            return True
        since = time.monotonic() - self._since[update.update_id]
        if since > self._again_within.total_seconds():
            logger.error("update %d is given up: %s", update.update_id, fault)
            return True
        return False

    def _lane_of(self, update: Update) -> AbstractAsyncContextManager[None]:
        place = _answered_in(update)
        if place is not None:
            return self._chat.in_order(place)
        if update.callback_query is not None or update.message_reaction is not None:
            return self._taps.enter((update.effective_chat, update.effective_user))
        return nullcontext()

    def _is_admins(self, update: Update) -> bool:
        return update.effective_user is not None and update.effective_user.id in self._admins

    async def _tell_busy(self, update: Update, busy: ConversationBusy) -> None:
        try:
            if update.callback_query is not None:
                await acknowledge(update.callback_query, str(busy))
            elif update.effective_message is not None:
                await update.effective_message.reply_text(str(busy))
        except TelegramError as error:
            logger.warning("nobody could be told that the lane is full: %s", error)


def _answered_in(update: Update) -> Place | None:
    """Return the place in which the model is to answer the update; None if it is not."""
    query = update.callback_query
    if query is not None:
        button = ReplyButton.parse(query.data)
        again = button is not None and button.action is ReplyAction.AGAIN
        return place_of(query.message) if again and isinstance(query.message, Message) else None
    message = update.message
    if message is None or addressed_text(message) is None:
        return None
    return place_of(message) if command_of(message) in (None, "new") else None
