"""Handles updates side by side, and those that belong together one after another."""

from collections.abc import Awaitable, Coroutine
from typing import Any

from telegram import Message, Update
from telegram.ext import BaseUpdateProcessor

from bot.chat import Chat
from bot.errors import ConversationBusy
from bot.lanes import Lanes
from bot.telegram.addressed import addressed_text, command_of, place_of
from bot.telegram.buttons import ReplyAction, ReplyButton
from bot.telegram.inbox import InboxQueue
from bot.telegram.keyboard import acknowledge
from store.domain import Place
from store.logs import UPDATE

CONCURRENT_UPDATES = 256
"""Updates that are handled at the same time, and taps that may wait in one lane."""


class InOrder(BaseUpdateProcessor):
    """python-telegram-bot's update processor with two kinds of lanes.

    Messages that the model answers keep the order of their place. Taps and reactions of one person
    in one chat keep theirs, without waiting for a reply that is being written.
    """

    def __init__(self, chat: Chat, inbox: InboxQueue) -> None:
        super().__init__(CONCURRENT_UPDATES)
        self._chat = chat
        self._inbox = inbox
        self._taps = Lanes(length=CONCURRENT_UPDATES)

    async def do_process_update(self, update: object, coroutine: Awaitable[Any]) -> None:
        """Handle an update in its lane, then mark it as handled in the inbox."""
        assert isinstance(update, Update)
        UPDATE.set(update.update_id)
        await self._in_its_lane(update, coroutine)
        await self._inbox.handled(update)  # a cancelled update is handled again after a restart

    async def _in_its_lane(self, update: Update, coroutine: Awaitable[Any]) -> None:
        place = _answered_in(update)
        try:
            if place is not None:
                async with self._chat.in_order(place):
                    await coroutine
            elif update.callback_query is not None or update.message_reaction is not None:
                async with self._taps.enter((update.effective_chat, update.effective_user)):
                    await coroutine
            else:
                await coroutine
        except ConversationBusy as busy:
            if isinstance(coroutine, Coroutine):
                coroutine.close()  # or Python warns that it was never awaited
            await _tell(update, busy)

    async def initialize(self) -> None:
        """Do nothing; there is nothing to prepare."""

    async def shutdown(self) -> None:
        """Do nothing; there is nothing to release."""


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


async def _tell(update: Update, busy: ConversationBusy) -> None:
    if update.callback_query is not None:
        await acknowledge(update.callback_query, str(busy))
    elif update.effective_message is not None:
        await update.effective_message.reply_text(str(busy))
