"""Access: people ask for it with a button, admins answer with one, or by command."""

import asyncio
import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from html import escape

from telegram import Bot, InlineKeyboardButton, InlineKeyboardMarkup, Message, Update
from telegram.constants import ParseMode
from telegram.error import TelegramError
from telegram.ext import ContextTypes

from bot.allowance import Allowance, Rate
from bot.telegram.addressed import message_and_person
from bot.telegram.buttons import AccessAction, AccessButton
from bot.telegram.keyboard import acknowledge, show
from bot.telegram.notices import Notices
from bot.telegram.outgoing import Urgency, sending
from bot.telegram.render import lines_that_fit
from store.domain import Access, Person
from store.people import People

logger = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 86_400.0
"""Least time between two requests of a person for access."""

REQUESTS_RATE = Rate(burst=10, per_second=20 / 3600)
"""How many requests for access the admins are told of."""

WELCOME = "You may talk to me now. Ask me anything; /help says what I can do."
WHOM = (
    "Please give me the person's id or @name, as in /allow 123456789. Or forward me a message of "
    "theirs and reply to it with the command."
)
_EFFECTS = {
    Access.ALLOWED: "may talk to me",
    Access.DENIED: "may not talk to me",
}
_KINDS = {Access.ALLOWED: "let in", Access.INVITED: "invited", Access.DENIED: "kept out"}


def ask_button(person_id: int) -> InlineKeyboardMarkup:
    """Return the button with which a person asks for access."""
    return InlineKeyboardMarkup([[_button("Ask for access", AccessAction.ASK, person_id)]])


class AccessHandlers:
    """The handlers of requests for access, `/allow`, `/deny` and `/people`."""

    def __init__(self, *, people: People, admins: frozenset[int], is_open: bool) -> None:
        self._people = people
        self._is_open = is_open
        self._all_requests = Allowance(REQUESTS_RATE)
        self._admins = admins
        self._requests = Notices(ASK_AGAIN_SECONDS)

    async def on_ask(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Pass a person's request for access on to the admins, once a day."""
        query = update.callback_query
        assert query is not None
        user = query.from_user
        person = await asyncio.to_thread(
            partial(self._people.see, user.id, user.full_name, username=user.username or "")
        )
        if self._is_open or person.access in (Access.ALLOWED, Access.INVITED):
            await acknowledge(query, "You may talk to me already.")
            return
        if person.access is Access.DENIED or not self._requests.due(user.id):
            await acknowledge(query, "You have asked already.")
            return
        if not self._all_requests.take(0):
            self._requests.take_back(user.id)
            await acknowledge(query, "Many people ask just now. Please try again in an hour.")
            return
        await acknowledge(query, "I have asked. You will be told.")
        buttons = InlineKeyboardMarkup(
            [
                [
                    _button("Let in", AccessAction.ALLOW, user.id),
                    _button("Keep out", AccessAction.DENY, user.id),
                ]
            ]
        )
        is_told = False
        for admin_id in sorted(self._admins):
            with suppress(TelegramError), sending(Urgency.NOTICE):
                await context.bot.send_message(
                    admin_id,
                    f"{_named(person)} asks for access.",
                    reply_markup=buttons,
                    parse_mode=ParseMode.HTML,
                )
                is_told = True
        if not is_told:
            self._requests.take_back(user.id)

    async def on_button(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Let a person in or keep them out, as an admin's button says."""
        query = update.callback_query
        assert query is not None
        button = AccessButton.parse(query.data)
        assert button is not None, "the application asks for this kind of button"
        allowed = button.action is AccessAction.ALLOW
        await acknowledge(query)
        person = await asyncio.to_thread(self._people.find, button.person_id)
        if person is not None and person.access is not Access.UNDECIDED:
            await show(query, f"{person.id} was {_KINDS[person.access]} already.")
            return
        text = await self._decided(
            context.bot, button.person_id, Access.ALLOWED if allowed else Access.DENIED
        )
        await show(query, text)

    async def on_allow(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/allow ID` or `/allow @name`: let a person in."""
        await self._decide(update, context, Access.ALLOWED)

    async def on_deny(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/deny ID` or `/deny @name`: keep a person out."""
        await self._decide(update, context, Access.DENIED)

    async def on_people(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/people`: list who is let in and who is kept out."""
        message, _ = message_and_person(update)
        await message.reply_text(_listing(await asyncio.to_thread(self._people.decided)))

    async def _decide(
        self, update: Update, context: ContextTypes.DEFAULT_TYPE, access: Access
    ) -> None:
        message, _ = message_and_person(update)
        person_id = await self._person_meant(message, context.args or [])
        text = WHOM
        if person_id is not None:
            text = await self._decided(context.bot, person_id, access)
        await message.reply_text(text)

    async def _decided(self, bot: Bot, person_id: int, access: Access) -> str:
        """Record a decision; tell a person who was let in. Returns what the admin is told."""
        if person_id in self._admins:
            return "That person is an admin. RATCHET_ADMINS lists the admins."
        before = await asyncio.to_thread(self._people.find, person_id)
        person = await asyncio.to_thread(self._people.decide, person_id, access)
        told = f"{person.name or person.id} {_EFFECTS[access]}."
        if access is not Access.ALLOWED or (before and before.access is Access.ALLOWED):
            return told
        try:
            with sending(Urgency.NOTICE):
                await bot.send_message(person_id, WELCOME)
        except TelegramError as error:  # they never wrote to the bot, or blocked it
            logger.info("%d could not be told that they are let in: %s", person_id, error)
        return told

    async def _person_meant(self, message: Message, arguments: Sequence[str]) -> int | None:
        if arguments:
            given = arguments[0]
            if len(arguments) > 1:
                return None
            if given.startswith("@"):
                return await asyncio.to_thread(self._people.named, given[1:])
            is_id = re.fullmatch("[0-9]{1,15}|-[0-9]{6,15}", given) is not None  # negative: groups
            return int(given) if is_id else None
        forwarded = message.reply_to_message
        origin = forwarded.forward_origin if forwarded is not None else None
        user = getattr(origin, "sender_user", None)
        return user.id if user is not None else None


def _button(text: str, action: AccessAction, person_id: int) -> InlineKeyboardButton:
    data = AccessButton(action=action, person_id=person_id).data
    return InlineKeyboardButton(text, callback_data=data)


def _named(person: Person) -> str:
    """Return who a person is, as Telegram's HTML; nothing in a name is linked."""
    name = f"{person.name} (@{person.username})" if person.username else person.name
    shown = "".join(char for char in name if char.isprintable())
    return f"<code>{escape(shown)}</code>, {person.id},"


def _listing(people: Sequence[Person]) -> str:
    """Return a line for each person, as many as one message takes."""
    lines = [_line(person) for person in people]
    shown = lines_that_fit(lines)
    if shown < len(lines):
        lines[shown:] = [f"… and {len(lines) - shown} more"]
    return "\n".join(lines) or "Nobody was let in or kept out yet."


def _line(person: Person) -> str:
    at = f" @{person.username}" if person.username else ""
    return f"{person.id}{at} {person.name[:60]}: {_KINDS[person.access]}"
