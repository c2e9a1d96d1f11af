"""The command `/group`: a group's admins decide whether the bot answers and learns in it."""

import asyncio
from functools import partial
from typing import Literal

from telegram import Bot, InlineKeyboardButton, InlineKeyboardMarkup, Update
from telegram.error import BadRequest, Forbidden
from telegram.ext import ContextTypes

from bot.telegram.addressed import is_private, message_and_person
from bot.telegram.buttons import GroupButton
from bot.telegram.keyboard import acknowledge, show
from bot.telegram.notices import HOURLY, Notices
from store.domain import GroupRules
from store.groups import Groups

NOT_HERE = "This command works in groups. Please send it there."
NOT_YOU = "Only the admins of this group can change that."


class GroupHandlers:
    """The handlers that show and change a group's rules: answering in it, learning from it."""

    def __init__(self, *, groups: Groups) -> None:
        self._groups = groups
        self._notices = Notices(HOURLY)

    async def on_group(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Handle `/group`: show the rules to an admin of the group, with buttons to change them."""
        message, person_id = message_and_person(update)
        if is_private(message):
            await message.reply_text(NOT_HERE)
            return
        rules = await asyncio.to_thread(self._groups.rules, message.chat_id)
        if await _decides(context.bot, message.chat_id, person_id):
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
        if chat is None or not await _decides(context.bot, chat.id, query.from_user.id):
            await acknowledge(query, NOT_YOU)
            return
        change = {button.rule: button.on}
        rules = await asyncio.to_thread(partial(self._groups.decide, chat.id, **change))
        await acknowledge(query)
        text, buttons = _shown(rules)
        await show(query, text, buttons)


async def _decides(bot: Bot, chat_id: int, user_id: int) -> bool:
    """Return whether a person is an admin of a group."""
    try:
        admins = await bot.get_chat_administrators(chat_id)
    except (BadRequest, Forbidden):  # the bot was removed from the group
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


def _button(
    rule: Literal["answers", "teaches"], off: str, on: str, *, now: bool
) -> InlineKeyboardButton:
    data = GroupButton(rule=rule, on=not now).data
    return InlineKeyboardButton(off if now else on, callback_data=data)
