"""A person's rights over what is held about them: see it, get it, delete it, keep it from training.

These commands work for whoever has rows, also for people who have lost access.
"""

import asyncio
from contextlib import suppress

from telegram import CallbackQuery, InlineKeyboardButton, InlineKeyboardMarkup, Message, Update
from telegram.error import BadRequest, Forbidden, TelegramError
from telegram.ext import ContextTypes

from bot.telegram.addressed import is_private, message_and_person
from bot.telegram.buttons import ForgetButton
from bot.telegram.consent import AGREED, REFUSED, Consent
from bot.telegram.keyboard import acknowledge, show
from store.erasure import Eraser
from store.errors import ExportTooSoon
from store.export import Exports
from store.people import People
from store.teaching import Teaching, TeachingState

RIGHTS = frozenset({"privacy", "export", "forget", "optout"})
"""Commands for whoever has rows, with access or without."""

PRIVACY = """\
On the machine that I run on, and on the servers it is set up to use, I keep: your Telegram id and \
name; your messages to me and my replies, with what they were made of; your ratings and \
corrections. Telegram keeps your messages, too.

They are used to answer you. {state} The admins of this bot can read liked and corrected answers, \
and examples of what I learned from.

/export gives you everything as a file. /forget deletes everything. /optout and /optin decide \
whether I learn from you."""

STATES = {
    TeachingState.TEACHES: "I also learn from them: you take part in training.",
    TeachingState.NOT_AGREED: "I do not learn from them, until you say /optin.",
    TeachingState.OPTED_OUT: "I do not learn from them: you have opted out.",
    TeachingState.SILENT_GROUP: "I do not learn in this group.",
    TeachingState.NOT_ADMITTED: "I do not learn from them.",
}

ERASED = """\
Somebody had everything about them deleted. These versions learned from some of it: {versions}. \
The next run starts from the base model again, without it; /train starts one now. If no clean \
version has passed the gate by then, an older one or the base model answers after {days} days."""

NAMED = 5
"""Versions that are named; of the others there is only the number."""


class PrivacyHandlers:
    """`/privacy`, `/export`, `/forget`, `/optout`, `/optin`, and the question at `/start`."""

    def __init__(
        self,
        *,
        people: People,
        eraser: Eraser,
        exports: Exports,
        teaching: Teaching,
        consent: Consent,
        admins: frozenset[int],
        forget_days: int,
    ) -> None:
        self._people = people
        self._eraser = eraser
        self._exports = exports
        self._teaching = teaching
        self._consent = consent
        self._admins = admins
        self._forget_days = forget_days

    async def on_privacy(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/privacy`: say what is kept, and whether it is learned from."""
        message, person_id = message_and_person(update)
        state = await asyncio.to_thread(self._teaching.state, person_id, message.chat_id)
        await message.reply_text(PRIVACY.format(state=STATES[state]))

    async def on_export(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/export`: send everything to the person in private, wherever they asked."""
        message, person_id = message_and_person(update)
        try:
            await asyncio.to_thread(self._exports.begin, person_id)
        except ExportTooSoon as error:
            await message.reply_text(str(error))
            return
        try:
            await self._send_export(message, person_id)
        except TelegramError as error:
            await asyncio.to_thread(self._exports.take_back, person_id)
            if not isinstance(error, Forbidden | BadRequest):  # a bot may not open a private chat
                raise
            await message.reply_text("I may not write to you yet: send me /export in private.")
        else:
            if message.chat_id != person_id:
                await message.reply_text("I have sent it to you in private.")

    async def _send_export(self, message: Message, person_id: int) -> None:
        files = self._exports.write(person_id)
        number = 1
        while (content := await asyncio.to_thread(next, files, None)) is not None:
            await message.get_bot().send_document(
                person_id,
                content,
                filename=f"ratchet-export-{message.date:%Y-%m-%d}-{number}.zip",
                caption="Everything I hold about you." if number == 1 else None,
            )
            number += 1

    async def on_forget(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/forget`: ask before anything is deleted."""
        message, person_id = message_and_person(update)
        delete = ForgetButton(yes=True, person_id=person_id)
        keep = ForgetButton(yes=False, person_id=person_id)
        buttons = [
            InlineKeyboardButton("Delete", callback_data=delete.data),
            InlineKeyboardButton("Keep", callback_data=keep.data),
        ]
        await message.reply_text(
            "Delete everything I hold about you: messages, replies, ratings, corrections? "
            "This cannot be undone.",
            reply_markup=InlineKeyboardMarkup([buttons]),
        )

    async def on_forget_button(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Delete or keep; only the person who was asked may answer."""
        query = update.callback_query
        assert query is not None
        button = ForgetButton.parse(query.data)
        assert button is not None, "the application asks for this kind of button"
        if button.person_id != query.from_user.id:
            await acknowledge(query, "This question is for somebody else.")
            return
        await acknowledge(query)
        if button.yes:
            await self._forget(query)
        else:
            await show(query, "Nothing was deleted.")

    async def _forget(self, query: CallbackQuery) -> None:
        erased = await asyncio.to_thread(self._eraser.erase_person, query.from_user.id)
        text = f"Deleted: {erased.turns} messages with everything about them."
        versions = _named(erased.adapters)
        if versions:
            text += (
                f" I have learned from some of it ({versions}); such a version does not answer "
                f"for longer than {self._forget_days} days."
            )
        await show(query, text)
        told = ERASED.format(versions=versions, days=self._forget_days)
        for admin_id in sorted(self._admins - {query.from_user.id}) if versions else ():
            with suppress(TelegramError):
                await query.get_bot().send_message(admin_id, told)

    async def on_start(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/start`, after the welcome: ask whoever was never asked, in private."""
        message, person_id = message_and_person(update)
        if is_private(message):
            await self._consent.ask(message.get_bot(), message.chat_id, None, person_id)

    async def on_opt_out(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/optout`: keep what a person writes and rates out of training."""
        message, person_id = message_and_person(update)
        await asyncio.to_thread(self._people.opt_out, person_id, True)
        await message.reply_text(REFUSED)

    async def on_opt_in(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/optin`: let it in."""
        message, person_id = message_and_person(update)
        await asyncio.to_thread(self._people.opt_out, person_id, False)
        await message.reply_text(AGREED)


def _named(adapters: tuple[str, ...]) -> str:
    names = ", ".join(adapters[-NAMED:])
    more = len(adapters) - NAMED
    return f"{names} and {more} before" if more > 0 else names
