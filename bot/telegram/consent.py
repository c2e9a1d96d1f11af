"""The question whether the bot may learn from somebody: asked once, where people are.

In private it comes with /start or under the first reply; in a group with the first thumb, as one
message under which everybody decides for themselves. Whoever was asked teaches only after a yes.
"""

import asyncio

from telegram import Bot, InlineKeyboardButton, InlineKeyboardMarkup, Update
from telegram.error import TelegramError
from telegram.ext import ContextTypes

from bot.telegram.buttons import ANYBODY, ConsentButton
from bot.telegram.keyboard import acknowledge, show
from bot.telegram.notices import HOURLY, Notices
from store.people import People

IN_PRIVATE = """\
May I learn from what you write to me and how you rate my replies? It is used to train me on the \
machine that I run on. I try to mask what is private in it, such as numbers and addresses. The \
admins of this bot can read what I learn from. Until you say yes, I do not learn from you. \
/optin and /optout change your answer."""

IN_A_GROUP = """\
May I learn from what you write to me in this group and how you rate my replies? Everybody \
decides for themselves; until you say yes, I do not learn from you. /privacy tells more."""

AGREED = "Thank you! I may learn from what you write and rate. /optout takes this back."
REFUSED = "I will not learn from what you write and rate. /optin takes this back."


class Consent:
    """Asks people whether they may be learned from, and takes the answer."""

    def __init__(self, *, people: People) -> None:
        self._people = people
        self._asked_in = Notices(HOURLY)

    async def ask(self, bot: Bot, chat_id: int, thread_id: int | None, person_id: int) -> None:
        """Ask somebody who was never asked. In a group one message an hour asks everybody."""
        if not await asyncio.to_thread(self._people.ask, person_id):
            return
        in_private = chat_id == person_id
        if not in_private and not self._asked_in.due(chat_id):
            return  # the question that stands there is for them, too
        whom = person_id if in_private else ANYBODY
        try:
            await bot.send_message(
                chat_id,
                IN_PRIVATE if in_private else IN_A_GROUP,
                message_thread_id=thread_id,
                reply_markup=_buttons(whom),
            )
        except TelegramError:  # the bot may have lost the right to write there
            self._asked_in.take_back(chat_id)
            await asyncio.to_thread(self._people.take_back_question, person_id)

    async def on_button(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Take a person's answer."""
        query = update.callback_query
        assert query is not None
        button = ConsentButton.parse(query.data)
        assert button is not None, "the application asks for this kind of button"
        if button.person_id not in (ANYBODY, query.from_user.id):
            await acknowledge(query, "This question is for somebody else.")
            return
        await asyncio.to_thread(self._people.see, query.from_user.id, query.from_user.full_name)
        await asyncio.to_thread(self._people.opt_out, query.from_user.id, not button.yes)
        text = AGREED if button.yes else REFUSED
        if button.person_id == ANYBODY:
            await acknowledge(query, text)
            return
        await acknowledge(query)
        await show(query, text)


def _buttons(person_id: int) -> InlineKeyboardMarkup:
    yes = ConsentButton(yes=True, person_id=person_id)
    no = ConsentButton(yes=False, person_id=person_id)
    buttons = [
        InlineKeyboardButton("Yes", callback_data=yes.data),
        InlineKeyboardButton("No", callback_data=no.data),
    ]
    return InlineKeyboardMarkup([buttons])
