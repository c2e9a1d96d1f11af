"""The order in which updates are handled."""

from collections.abc import Awaitable, Coroutine
from typing import Any

from telegram import Message, Update
from telegram.ext import BaseUpdateProcessor

from bot.chat import Chat
from bot.errors import ConversationBusy
from bot.lanes import Lanes
from bot.telegram.addressed import addressed_text, command_of, place_of
from bot.telegram.inbox import InboxQueue
from bot.telegram.keyboard import acknowledge
from store.domain import Place
from store.logs import UPDATE

CONCURRENT_UPDATES = 256


class InOrder(BaseUpdateProcessor):
    """Handles updates side by side, but one by one what has to keep its order.

    What is answered by the model keeps the order of its place; what one person taps in one chat
    keeps the order of their taps, without waiting for a reply that is being written.
    """

    def __init__(self, chat: Chat, inbox: InboxQueue) -> None:
        super().__init__(CONCURRENT_UPDATES)
        self._chat = chat
        self._inbox = inbox
        self._taps = Lanes(length=CONCURRENT_UPDATES)

    async def do_process_update(self, update: object, coroutine: Awaitable[Any]) -> None:
        """Wait in the lane that the update belongs to, if it belongs to one."""
        assert isinstance(update, Update)
        UPDATE.set(update.update_id)
        await self._in_its_lane(update, coroutine)
        await self._inbox.handled(update)  # not if it was cancelled: it is begun anew, then

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
        """Nothing to prepare."""

    async def shutdown(self) -> None:
        """Nothing to give back."""


def _answered_in(update: Update) -> Place | None:
    """The place whose order the update keeps, if the model is to answer it there."""
    query = update.callback_query
    if query is not None:
        if isinstance(query.message, Message) and (query.data or "").startswith("again:"):
            return place_of(query.message)
        return None
    message = update.message
    if message is None or addressed_text(message) is None:
        return None
    return place_of(message) if command_of(message) in (None, "new") else None


async def _tell(update: Update, busy: ConversationBusy) -> None:
    if update.callback_query is not None:
        await acknowledge(update.callback_query, str(busy))
    elif update.effective_message is not None:
        await update.effective_message.reply_text(str(busy))
