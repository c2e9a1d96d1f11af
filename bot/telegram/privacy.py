"""What is held about a person: told, given, deleted, kept out of training."""

import asyncio
import json
from contextlib import suppress

from telegram import CallbackQuery, InlineKeyboardButton, InlineKeyboardMarkup, Message, Update
from telegram.error import BadRequest, Forbidden, TelegramError
from telegram.ext import ContextTypes

from bot.telegram.addressed import is_private
from bot.telegram.keyboard import acknowledge, show
from store.people import People

FORGET_PATTERN = r"^forget:(yes|no):\d{1,18}$"

PRIVACY = """\
On the machine that I run on, and nowhere else, I keep: your Telegram id and name; your messages \
to me and my replies, with the passages I used; your ratings and corrections.

They are used to answer you, and to train me on what people rated. You are {state}.

/export gives you everything as a file. /forget deletes everything. /optout and /optin decide \
about training."""


OPTED_OUT = "What you write and rate will not be trained on. /optin takes this back."
OPTED_IN = "What you write and rate may be trained on. Thank you! /optout takes this back."

ERASED = """\
Somebody had everything about them deleted. These versions were trained on some of it: {versions}. \
The next run starts from the base model again, without it; it is due with the next schedule, or \
at once with /train. Until then another version can be put in their place: /adapters, /promote, \
/rollback."""

NAMED = 5
"""Versions that are named; of the others there is only the number."""


CONSENT_PATTERN = r"^consent:(yes|no):\d{1,18}$"

CONSENT = """\
May I learn from what you write to me and how you rate my replies? It is used to train me, on this \
machine and nowhere else; what is private in it, such as numbers and addresses, is masked before. \
You can change your mind with /optout and /optin."""


class PrivacyHandlers:
    """`/privacy`, `/export`, `/forget`, `/optout`, `/optin`, and the question at `/start`."""

    def __init__(self, *, people: People, admins: frozenset[int], only_agreed: bool) -> None:
        self._people = people
        self._admins = admins
        self._only_agreed = only_agreed

    async def on_privacy(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/privacy`."""
        message, person_id = _who(update)
        person = await asyncio.to_thread(self._people.find, person_id)
        state = "taking part in training"
        if person is not None and person.opted_out:
            state = "opted out of training"
        elif self._only_agreed and (person is None or person.consented_to is None):
            state = "not taking part in training until you say /optin"
        await message.reply_text(PRIVACY.format(state=state))

    async def on_export(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/export`: to the person in private, wherever they asked."""
        message, person_id = _who(update)
        held = await asyncio.to_thread(self._people.export, person_id)
        try:
            await context.bot.send_document(
                person_id,
                json.dumps(held, ensure_ascii=False, indent=2).encode(),
                filename="ratchet-export.json",
                caption="Everything I hold about you.",
            )
        except (Forbidden, BadRequest):  # a bot may not open a private chat
            await message.reply_text("I may not write to you yet: send me /export in private.")
            return
        if message.chat_id != person_id:
            await message.reply_text("I have sent it to you in private.")

    async def on_forget(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/forget`: asks first."""
        message, person_id = _who(update)
        await message.reply_text(
            "Delete everything I hold about you: messages, replies, ratings, corrections? "
            "This cannot be undone.",
            reply_markup=InlineKeyboardMarkup(
                [
                    [
                        InlineKeyboardButton("Delete", callback_data=f"forget:yes:{person_id}"),
                        InlineKeyboardButton("Keep", callback_data=f"forget:no:{person_id}"),
                    ]
                ]
            ),
        )

    async def on_forget_button(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """The answer to that question; only the person who was asked may give it."""
        query = update.callback_query
        assert query is not None
        answer = await _answer(query)
        if answer is None:
            return
        if answer == "no":
            await show(query, "Nothing was deleted.")
            return
        erased = await asyncio.to_thread(self._people.erase, query.from_user.id)
        text = f"Deleted: {erased.turns} messages with everything about them."
        versions = ", ".join(erased.adapters[-NAMED:])
        if len(erased.adapters) > NAMED:
            versions += f" and {len(erased.adapters) - NAMED} before"
        if versions:
            text += f" I was trained on some of it ({versions}); the next version will not be."
        await show(query, text)
        for admin_id in sorted(self._admins - {query.from_user.id}) if versions else ():
            with suppress(TelegramError):
                await context.bot.send_message(admin_id, ERASED.format(versions=versions))

    async def on_start(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/start`, after the welcome: ask whoever has not decided yet, in private."""
        message, person_id = _who(update)
        person = await asyncio.to_thread(self._people.find, person_id)
        if not is_private(message) or (person is not None and person.decided_at is not None):
            return
        buttons = [
            InlineKeyboardButton("Yes", callback_data=f"consent:yes:{person_id}"),
            InlineKeyboardButton("No", callback_data=f"consent:no:{person_id}"),
        ]
        await message.reply_text(CONSENT, reply_markup=InlineKeyboardMarkup([buttons]))

    async def on_consent_button(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """The answer to that question."""
        query = update.callback_query
        assert query is not None
        answer = await _answer(query)
        if answer is None:
            return
        await asyncio.to_thread(self._people.opt_out, query.from_user.id, answer == "no")
        await show(query, OPTED_OUT if answer == "no" else OPTED_IN)

    async def on_opt_out(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/optout`."""
        message, person_id = _who(update)
        await asyncio.to_thread(self._people.opt_out, person_id, True)
        await message.reply_text(OPTED_OUT)

    async def on_opt_in(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/optin`."""
        message, person_id = _who(update)
        await asyncio.to_thread(self._people.opt_out, person_id, False)
        await message.reply_text(OPTED_IN)


async def _answer(query: CallbackQuery) -> str | None:
    """What the person who was asked has pressed; anybody else is told that it is not theirs."""
    assert query.data is not None
    _, answer, asked_id = query.data.split(":")
    if int(asked_id) != query.from_user.id:
        await acknowledge(query, "This is not your question to answer.")
        return None
    await acknowledge(query)
    return answer


def _who(update: Update) -> tuple[Message, int]:
    assert update.effective_message is not None
    assert update.effective_user is not None
    return update.effective_message, update.effective_user.id
