"""`/quarantine`: shows people whose ratings are held back, and releases them."""

import asyncio

from telegram import InlineKeyboardButton, InlineKeyboardMarkup, Update
from telegram.ext import ContextTypes

from bot.telegram.addressed import message_and_person
from bot.telegram.buttons import ReleaseButton
from bot.telegram.keyboard import acknowledge, show
from store.domain import Suspect
from store.suspects import Suspects

SHOWN = 20
"""People in one message; the others follow when these were released."""


class QuarantineHandlers:
    """Shows admins the people whose ratings look like an attack, and releases them."""

    def __init__(self, *, quarantine: Suspects) -> None:
        self._quarantine = quarantine

    async def on_quarantine(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/quarantine`: list the people in quarantine, with a button for each."""
        message, _ = message_and_person(update)
        text, buttons = _shown(await asyncio.to_thread(self._quarantine.held))
        await message.reply_text(text, reply_markup=buttons)

    async def on_button(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Release a person, then show who is left."""
        query = update.callback_query
        assert query is not None
        button = ReleaseButton.parse(query.data)
        assert button is not None, "the application asks for this kind of button"
        released = await asyncio.to_thread(self._quarantine.release, button.person_id)
        await acknowledge(
            query, "I learn from their ratings now." if released else "Nothing is held back."
        )
        text, buttons = _shown(await asyncio.to_thread(self._quarantine.held))
        await show(query, text, buttons)


def _shown(held: tuple[Suspect, ...]) -> tuple[str, InlineKeyboardMarkup | None]:
    if not held:
        return "Nobody's ratings are held back.", None
    shown = held[:SHOWN]
    lines = [f"{_name(each)} ({each.person_id}): {each.reason}" for each in shown]
    more = f"\n… and {len(held) - SHOWN} more" if len(held) > SHOWN else ""
    buttons = [
        [
            InlineKeyboardButton(
                f"Release {_name(each)}",
                callback_data=ReleaseButton(person_id=each.person_id).data,
            )
        ]
        for each in shown
    ]
    return (
        "I do not learn from these people until you release them. "
        "/deny keeps somebody out.\n\n" + "\n".join(lines) + more,
        InlineKeyboardMarkup(buttons),
    )


def _name(suspect: Suspect) -> str:
    return suspect.name[:30] or str(suspect.person_id)
