"""`/group`: what the admins of a group decide about the bot in it."""

import asyncio
import re
from functools import partial

from telegram import Bot, InlineKeyboardButton, InlineKeyboardMarkup, Update
from telegram.error import BadRequest, Forbidden
from telegram.ext import ContextTypes

from bot.telegram.addressed import is_private
from bot.telegram.keyboard import acknowledge, show
from bot.telegram.notices import HOURLY, Notices
from store.domain import GroupRules
from store.groups import Groups

GROUP_PATTERN = re.compile(r"^group:(answers|teaches):(yes|no)$")

NOT_HERE = "That is for groups: send it in one."
NOT_YOU = "The admins of this group decide about that."


class GroupHandlers:
    """Whether the bot answers in a group, and whether it learns from what is said to it there."""

    def __init__(self, *, groups: Groups) -> None:
        self._groups = groups
        self._notices = Notices(HOURLY)

    async def on_group(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/group`."""
        message, user = update.effective_message, update.effective_user
        assert message is not None
        assert user is not None
        if is_private(message):
            await message.reply_text(NOT_HERE)
            return
        rules = await asyncio.to_thread(self._groups.rules, message.chat_id)
        if await _decides(context.bot, message.chat_id, user.id):
            text, buttons = _shown(rules)
            await message.reply_text(text, reply_markup=buttons)
        elif rules.answers and self._notices.due(user.id):
            await message.reply_text(NOT_YOU)

    async def on_button(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """An admin of the group changes a rule."""
        query = update.callback_query
        assert query is not None
        pressed = GROUP_PATTERN.match(query.data or "")
        assert pressed is not None
        chat = update.effective_chat
        if chat is None or not await _decides(context.bot, chat.id, query.from_user.id):
            await acknowledge(query, NOT_YOU)
            return
        change = {pressed[1]: pressed[2] == "yes"}
        rules = await asyncio.to_thread(partial(self._groups.decide, chat.id, **change))
        await acknowledge(query)
        await show(query, *_shown(rules))


async def _decides(bot: Bot, chat_id: int, user_id: int) -> bool:
    try:
        admins = await bot.get_chat_administrators(chat_id)
    except (BadRequest, Forbidden):  # the bot was removed
        return False
    return user_id in {admin.user.id for admin in admins}


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


def _button(rule: str, off: str, on: str, *, now: bool) -> InlineKeyboardButton:
    choice = "no" if now else "yes"
    return InlineKeyboardButton(off if now else on, callback_data=f"group:{rule}:{choice}")
