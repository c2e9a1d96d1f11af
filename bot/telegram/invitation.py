"""`/invite`: makes links that let people in."""

import asyncio
from datetime import timedelta

from telegram import Update
from telegram.ext import ContextTypes
from telegram.helpers import create_deep_linked_url

from bot.telegram.addressed import command_of, is_private, message_and_person
from store.invitations import Invitations

DAYS = range(1, 366)
"""Days for which a link may work."""

PLACES = range(1, 1001)
"""People whom a link may let in."""

DEFAULT_DAYS = 7
DEFAULT_PLACES = 1

USAGE = """\
/invite – a link for one person, for a week
/invite DAYS PEOPLE – as in /invite 2 30, for up to 365 days and 1000 people
/invite off – all links stop working; people who came in by one stay"""


class InvitationHandlers:
    """Handles `/invite`, by which admins let people in without knowing their ids."""

    def __init__(self, *, invitations: Invitations) -> None:
        self._invitations = invitations

    async def on_invite(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/invite [DAYS [PEOPLE]]`: make a link. `/invite off`: withdraw all links."""
        message, _ = message_and_person(update)
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
    """Return the token that an invitation link adds to `/start` in a private chat."""
    message = update.message
    if message is None or not is_private(message) or command_of(message) != "start":
        return None
    words = (message.text or "").split()
    return words[1] if len(words) == 2 else None


def _wanted(arguments: list[str]) -> tuple[int, int] | None:
    """Return days and people; None if the arguments are something else."""
    if len(arguments) > 2 or not all(each.isdecimal() and len(each) < 5 for each in arguments):
        return None
    days = int(arguments[0]) if arguments else DEFAULT_DAYS
    places = int(arguments[1]) if len(arguments) > 1 else DEFAULT_PLACES
    return (days, places) if days in DAYS and places in PLACES else None
