"""The command `/group`: a group's admins decide whether the bot answers and learns in it."""

import asyncio
import time
from functools import partial
from typing import Literal

from telegram import Bot, InlineKeyboardButton, InlineKeyboardMarkup, Update
from telegram.error import BadRequest, Forbidden
from telegram.ext import ContextTypes

from bot.recent import Recent
from bot.telegram.addressed import is_private, message_and_person
from bot.telegram.buttons import GroupButton
from bot.telegram.keyboard import acknowledge, show
from bot.telegram.notices import HOURLY, Notices
from store.audit import AuditEntries
from store.domain import GroupRules
from store.groups import Groups

NOT_HERE = "This command works in groups. Please send it there."
NOT_YOU = "Only the admins of this group can change that."

ASK_AGAIN_SECONDS = 60.0
"""Time for which Telegram's answer to who is an admin of a group is used."""

REMEMBERED = 1_000
"""Groups whose admins are remembered."""


class GroupHandlers:
    """The handlers that show and change a group's rules: answering in it, learning from it."""

    def __init__(self, *, groups: Groups, audit: AuditEntries) -> None:
        self._groups = groups
        self._audit = audit
        self._notices = Notices(HOURLY)
        self._admins: Recent[int, tuple[float, frozenset[int]]] = Recent(REMEMBERED)
        """The admins of groups, and when Telegram was asked for them."""

    async def on_group(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Handle `/group`: show the rules to an admin of the group, with buttons to change them."""
        message, person_id = message_and_person(update)
        if is_private(message):
            await message.reply_text(NOT_HERE)
            return
        rules = await asyncio.to_thread(self._groups.rules, message.chat_id)
        if await self._decides(context.bot, message.chat_id, person_id):
            text, buttons = _shown(rules)
            await message.reply_text(text, reply_markup=buttons)
        elif rules.answers and self._notices.due(person_id):
            await message.reply_text(NOT_YOU)

    async def on_button(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Change a rule, if an admin of the group has tapped."""
        query = update.callback_query
        assert query is not None
        button = GroupButton.parse(query.data)
        assert button is not None, "the application asks for this kind of button"
        chat = update.effective_chat
        if chat is None or not await self._decides(context.bot, chat.id, query.from_user.id):
            await acknowledge(query, NOT_YOU)
            return
        who = query.from_user
        action = f"{button.data} in {chat.title} ({chat.id})"
        note = partial(self._audit.note, action, name=who.full_name, person_id=who.id)
        await asyncio.to_thread(note)
        change = {button.rule: button.on}
        rules = await asyncio.to_thread(partial(self._groups.decide, chat.id, **change))
        await acknowledge(query)
        text, buttons = _shown(rules)
        await show(query, text, buttons)

    async def _decides(self, bot: Bot, chat_id: int, user_id: int) -> bool:
        """Return whether a person is an admin of a group; Telegram is asked once a minute.

        An anonymous admin writes in the name of the group itself.
        """
        if user_id == chat_id and chat_id < 0:
            return True
        now = time.monotonic()
        asked, admins = self._admins.get(chat_id, (-ASK_AGAIN_SECONDS, frozenset()))
        if now - asked >= ASK_AGAIN_SECONDS:
            try:
                found = await bot.get_chat_administrators(chat_id)
            except (BadRequest, Forbidden):  # the bot was removed from the group
                found = ()
            admins = frozenset(admin.user.id for admin in found)
            self._admins[chat_id] = (now, admins)
        return user_id in admins


def _shown(rules: GroupRules) -> tuple[str, InlineKeyboardMarkup]:
    answers = "answer" if rules.answers else "do not answer"
    teaches = "learn" if rules.teaches else "do not learn"
    return (
        f"In this group I {answers}, and I {teaches} from what is said to me.",
        InlineKeyboardMarkup(
            [
                [
                    _button("answers", "Do not answer", "Answer", now=rules.answers),
                    _button("teaches", "Do not learn", "Learn", now=rules.teaches),
                ]
            ]
        ),
    )


def _button(
    rule: Literal["answers", "teaches"], off: str, on: str, *, now: bool
) -> InlineKeyboardButton:
    data = GroupButton(rule=rule, on=not now).data
    return InlineKeyboardButton(off if now else on, callback_data=data)
