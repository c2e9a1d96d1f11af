"""`/group`: what the admins of a group decide about the bot in it."""

import asyncio
import re
from dataclasses import replace

from telegram import (
    Bot,
    ChatMember,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    Message,
    Update,
)
from telegram.error import BadRequest, Forbidden
from telegram.ext import ContextTypes

from bot.telegram.addressed import is_private
from bot.telegram.keyboard import acknowledge
from store.domain import GroupRules
from store.groups import Groups

GROUP_PATTERN = re.compile(r"^group:(answers|teaches):(yes|no)$")

NOT_HERE = "That is for groups: send it in one."
NOT_YOU = "The admins of this group decide about that."


class GroupHandlers:
    """Whether the bot answers in a group, and whether it learns from what is said to it there."""

    def __init__(self, *, groups: Groups) -> None:
        self._groups = groups

    async def on_group(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/group`."""
        message, user = update.effective_message, update.effective_user
        assert message is not None
        assert user is not None
        if is_private(message):
            await message.reply_text(NOT_HERE)
        elif not await _decides(context.bot, message.chat_id, user.id):
            await message.reply_text(NOT_YOU)
        else:
            text, buttons = _shown(await asyncio.to_thread(self._groups.rules, message.chat_id))
            await message.reply_text(text, reply_markup=buttons)

    async def on_button(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """An admin of the group changes a rule."""
        query = update.callback_query
        assert query is not None
        pressed = GROUP_PATTERN.match(query.data or "")
        assert pressed is not None
        message = query.message
        if not isinstance(message, Message):
            await acknowledge(query, "That message is too old: send /group again.")
            return
        if not await _decides(context.bot, message.chat_id, query.from_user.id):
            await acknowledge(query, NOT_YOU)
            return
        rules = await asyncio.to_thread(self._groups.rules, message.chat_id)
        rules = replace(rules, **{pressed[1]: pressed[2] == "yes"})
        await asyncio.to_thread(
            self._groups.decide, message.chat_id, rules, admin_id=query.from_user.id
        )
        await acknowledge(query)
        text, buttons = _shown(rules)
        try:
            await message.edit_text(text, reply_markup=buttons)
        except BadRequest as error:
            if "not modified" not in str(error):  # somebody deleted it
                await message.reply_text(text, reply_markup=buttons)


async def _decides(bot: Bot, chat_id: int, user_id: int) -> bool:
    try:
        member = await bot.get_chat_member(chat_id, user_id)
    except (BadRequest, Forbidden):  # they left, or the bot was removed
        return False
    return member.status in (ChatMember.OWNER, ChatMember.ADMINISTRATOR)


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
