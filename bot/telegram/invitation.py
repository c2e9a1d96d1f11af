"""`/invite`: a link that lets people in."""

import asyncio
from datetime import timedelta

from telegram import Update
from telegram.ext import ContextTypes
from telegram.helpers import create_deep_linked_url

from bot.telegram.addressed import command_of, is_private
from store.invitations import Invitations

DAYS = range(1, 366)
PLACES = range(1, 1001)

USAGE = """\
/invite – a link for one person, for a week
/invite DAYS PEOPLE – as in /invite 2 30, for up to 365 days and 1000 people
/invite off – no link lets anybody in any more; whoever came in stays"""


class InvitationHandlers:
    """What admins do to let people in without knowing their number."""

    def __init__(self, *, invitations: Invitations) -> None:
        self._invitations = invitations

    async def on_invite(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/invite [DAYS [PEOPLE]]`, `/invite off`."""
        message = update.effective_message
        assert message is not None
        arguments = context.args or []
        if arguments == ["off"]:
            count = await asyncio.to_thread(self._invitations.withdraw)
            await message.reply_text(f"Withdrawn: {count}.")
            return
        wanted = _wanted(arguments)
        if wanted is None:
            await message.reply_text(USAGE)
            return
        days, places = wanted
        token, expires = await asyncio.to_thread(
            self._invitations.make, lasts=timedelta(days=days), places=places
        )
        people = "One person" if places == 1 else f"{places} people"
        await message.reply_text(
            f"{people} may talk to me by opening this link, until {expires:%Y-%m-%d %H:%M} UTC:\n"
            f"{create_deep_linked_url(context.bot.username, token)}"
        )


def token_in(update: Update) -> str | None:
    """The token that `/start` came with, in private, as the link makes Telegram send it."""
    message = update.message
    if message is None or not is_private(message) or command_of(message) != "start":
        return None
    words = (message.text or "").split()
    return words[1] if len(words) == 2 else None


def _wanted(arguments: list[str]) -> tuple[int, int] | None:
    """Days and people; None for what is neither."""
    if len(arguments) > 2 or not all(each.isdecimal() and len(each) < 5 for each in arguments):
        return None
    days, places = [*map(int, arguments), *(7, 1)[len(arguments) :]]
    return (days, places) if days in DAYS and places in PLACES else None
