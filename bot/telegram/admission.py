"""Admission: the check of every update, before any other handler.

An update that is not meant for the bot stops here, unread and not stored. A person without access
gets one polite answer an hour, and no reply is generated for them.
"""

import asyncio
import logging

from telegram import Message, Update, User
from telegram.constants import ChatType
from telegram.ext import ApplicationHandlerStop, ContextTypes

from bot.telegram.access import ask_button
from bot.telegram.addressed import command_of, is_for_us, is_private
from bot.telegram.buttons import AccessButton, ForgetButton, GroupButton, ReplyAction, ReplyButton
from bot.telegram.invitation import token_in
from bot.telegram.keyboard import acknowledge
from bot.telegram.notices import HOURLY, Notices
from bot.telegram.privacy import RIGHTS
from store.domain import Access
from store.groups import Groups
from store.invitations import Invitations
from store.people import People
from store.settings_slices import AdmissionSettings

logger = logging.getLogger(__name__)

RIGHTS_SECONDS = 2.0
"""Least time between two requests to see or delete data, by a person without access."""


class Admission:
    """The admission to one bot: people are let in or turned away."""

    def __init__(
        self,
        *,
        settings: AdmissionSettings,
        people: People,
        groups: Groups,
        invitations: Invitations,
    ) -> None:
        self._settings = settings
        self._people = people
        self._groups = groups
        self._invitations = invitations
        self._notices = Notices(HOURLY)
        self._rights = Notices(RIGHTS_SECONDS)

    async def check(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Raise `ApplicationHandlerStop` for updates not meant for us, or without access."""
        user, message = update.effective_user, update.message
        if user is None or not is_for_us(update):
            raise ApplicationHandlerStop
        if message is not None and message.migrate_to_chat_id is not None:
            new_id = message.migrate_to_chat_id
            await asyncio.to_thread(self._groups.move, message.chat_id, new_id)
            raise ApplicationHandlerStop
        if _decides_about_group(update):  # the handler asks Telegram whether they may
            return
        query = update.callback_query
        if query is not None and AccessButton.parse_request(query.data) is not None:
            return
        if _asks_for_rights(update) and await asyncio.to_thread(self._has_rights, user.id):
            return
        if _wants_answer(update) and not await asyncio.to_thread(self._answers_in, update):
            if update.callback_query is not None:
                await acknowledge(update.callback_query, "I do not answer in this group.")
            raise ApplicationHandlerStop
        if await asyncio.to_thread(self._may_talk, user, update):
            return
        if update.callback_query is not None:
            await acknowledge(update.callback_query, "You have no access to this bot.")
        elif message is not None and self._notices.due(user.id):
            await self._turn_away(message, user, is_invited=token_in(update) is not None)
        raise ApplicationHandlerStop

    async def _turn_away(self, message: Message, user: User, *, is_invited: bool) -> None:
        person = await asyncio.to_thread(self._people.find, user.id)
        if person is not None and person.access is Access.DENIED:
            await message.reply_text("Sorry, you have no access to this bot.")
            return
        buttons = ask_button(user.id) if self._settings.admins and is_private(message) else None
        expired = "That invitation is no longer valid. " if is_invited else ""
        await message.reply_text(
            f"Sorry, you have no access to this bot. {expired}"
            f"Your number, for the person who runs the bot: {user.id}",
            reply_markup=buttons,
        )

    def _answers_in(self, update: Update) -> bool:
        chat = update.effective_chat
        if chat is None or chat.type == ChatType.PRIVATE:
            return True
        return self._groups.rules(chat.id).answers

    def _has_rights(self, person_id: int) -> bool:
        """Return whether a person without access has rows here and has not asked just now."""
        person = self._people.find(person_id)
        return person is not None and self._rights.due(person_id)

    def _may_talk(self, user: User, update: Update) -> bool:
        if update.message_reaction is not None:
            # Most reactions in a group are on other people's messages: no need to store who.
            person = self._people.find(user.id)
        else:
            person = self._people.see(user.id, user.full_name, username=user.username or "")
            token = token_in(update)
            if token is not None and self._invitations.accept(token, user.id):
                logger.info("person %d joined with an invitation", user.id)
                return True
        if user.id in self._settings.admins:
            return True
        if person is None or person.access == Access.UNDECIDED:
            return self._settings.access == "open"
        return person.access in (Access.ALLOWED, Access.INVITED)


def _decides_about_group(update: Update) -> bool:
    query, message = update.callback_query, update.message
    if query is not None:
        return GroupButton.parse(query.data) is not None
    return message is not None and command_of(message) == "group"


def _asks_for_rights(update: Update) -> bool:
    """Return whether a person asks to see or delete their rows, by command or button."""
    query, message = update.callback_query, update.message
    if query is not None:
        return ForgetButton.parse(query.data) is not None
    return message is not None and command_of(message) in RIGHTS


def _wants_answer(update: Update) -> bool:
    """Return whether an update is a message, or a button that makes the bot write."""
    if update.callback_query is None:
        return update.message is not None
    button = ReplyButton.parse(update.callback_query.data)
    return button is not None and button.action in (ReplyAction.AGAIN, ReplyAction.FIX)
