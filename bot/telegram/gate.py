"""Who may talk: looks at every update before anything else does.

What is not meant for the bot stops here, unread and unkept. A message of somebody without access
gets one polite answer an hour and costs no generation.
"""

import asyncio
import time
from collections import OrderedDict

from telegram import Update, User
from telegram.ext import ApplicationHandlerStop, ContextTypes

from bot.telegram.addressed import addressed_text
from bot.telegram.keyboard import acknowledge
from store.domain import Access
from store.people import People
from store.settings import Settings

ANSWER_AGAIN_SECONDS = 3600
REMEMBERED = 10_000


class Gate:
    """Lets people in or turns them away."""

    def __init__(self, *, settings: Settings, people: People) -> None:
        self._settings = settings
        self._people = people
        self._told: OrderedDict[int, float] = OrderedDict()

    async def check(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Raise `ApplicationHandlerStop` for what is not for us, or comes without access."""
        user, message = update.effective_user, update.message
        unread = message is not None and addressed_text(message) is None
        # An edit that Telegram still had in its queue is not asked for, and not answered.
        if user is None or user.is_bot or unread or update.edited_message is not None:
            raise ApplicationHandlerStop
        if await asyncio.to_thread(self._may_talk, user, update):
            return
        if update.callback_query is not None:
            await acknowledge(update.callback_query, "You have no access to this bot.")
        elif message is not None and not self._was_told(user.id):
            await message.reply_text(
                "I am sorry, I may not talk with you. If you think I should, ask whoever runs me, "
                f"and give them this number: {user.id}"
            )
        raise ApplicationHandlerStop

    def _may_talk(self, user: User, update: Update) -> bool:
        if update.message_reaction is not None:
            # Most reactions in a group are on other people's messages: no reason to remember who.
            person = self._people.find(user.id)
        else:
            person = self._people.see(user.id, user.full_name)
        if user.id in self._settings.admins:
            return True
        if person is None or person.access == Access.UNDECIDED:
            return self._settings.access == "open"
        return person.access == Access.ALLOWED

    def _was_told(self, user_id: int) -> bool:
        now = time.monotonic()
        if now - self._told.get(user_id, -ANSWER_AGAIN_SECONDS) < ANSWER_AGAIN_SECONDS:
            return True
        self._told[user_id] = now
        self._told.move_to_end(user_id)
        while len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        return False
