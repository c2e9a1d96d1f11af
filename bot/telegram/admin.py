"""Commands of admins in private chats: `/status`, `/allow`, `/deny`, `/audit`."""

import asyncio

from telegram import Message, Update
from telegram.ext import ContextTypes

from bot.reports.status import StatusReader
from bot.telegram.addressed import message_and_person
from store.audit import AuditEntries
from store.domain import Access
from store.people import People

SHOWN_ENTRIES = 30
"""Latest entries of the audit log in one message."""


class AdminHandlers:
    """Handles commands that only admins may use; the application sees to that."""

    def __init__(
        self, *, people: People, status: StatusReader, audit: AuditEntries, admins: frozenset[int]
    ) -> None:
        self._people = people
        self._audit = audit
        self._admins = admins
        self._status = status

    async def on_status(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/status`: show the status."""
        message, _ = message_and_person(update)
        await message.reply_text(await asyncio.to_thread(self._status.text))

    async def on_audit(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/audit`: show the latest commands of admins."""
        message, _ = message_and_person(update)
        entries = await asyncio.to_thread(self._audit.recent, SHOWN_ENTRIES)
        lines = [f"{each.created_at:%Y-%m-%d %H:%M} {each.name}: {each.action}" for each in entries]
        await message.reply_text("\n".join(lines))

    async def on_allow(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/allow ID`: let a person in."""
        await self._decide(update, context, Access.ALLOWED, "may talk to me")

    async def on_deny(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/deny ID`: keep a person out."""
        await self._decide(update, context, Access.DENIED, "may not talk to me")

    async def _decide(
        self, update: Update, context: ContextTypes.DEFAULT_TYPE, access: Access, effect: str
    ) -> None:
        message, _ = message_and_person(update)
        person_id = _person_meant(message, context.args)
        if person_id is None:
            await message.reply_text(
                "Please give me the person's id, as in /allow 123456789. Or forward me a message "
                "of theirs and reply to it with the command."
            )
            return
        if person_id in self._admins:
            await message.reply_text("That person is an admin. RATCHET_ADMINS lists the admins.")
            return
        person = await asyncio.to_thread(self._people.decide, person_id, access)
        await message.reply_text(f"{person.name or person.id} {effect}.")


def _person_meant(message: Message, arguments: list[str] | None) -> int | None:
    if arguments:
        is_id = len(arguments) == 1 and arguments[0].isdecimal() and len(arguments[0]) < 16
        return int(arguments[0]) if is_id else None
    forwarded = message.reply_to_message
    origin = forwarded.forward_origin if forwarded is not None else None
    user = getattr(origin, "sender_user", None)
    return user.id if user is not None else None
