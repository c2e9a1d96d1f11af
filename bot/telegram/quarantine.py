"""`/quarantine`: whose ratings are held back, and letting them teach after all."""

import asyncio
import re

from telegram import InlineKeyboardButton, InlineKeyboardMarkup, Update
from telegram.ext import ContextTypes

from bot.telegram.keyboard import acknowledge, show
from store.domain import Suspect
from store.suspects import Suspects

RELEASE_PATTERN = re.compile(r"^release:(\d{1,18})$")

SHOWN = 20
"""People in one message; the others are shown when these are decided about."""


class QuarantineHandlers:
    """What admins do about people whose ratings look like an attack."""

    def __init__(self, *, quarantine: Suspects) -> None:
        self._quarantine = quarantine

    async def on_quarantine(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/quarantine`."""
        assert update.effective_message is not None
        text, buttons = _shown(await asyncio.to_thread(self._quarantine.held))
        await update.effective_message.reply_text(text, reply_markup=buttons)

    async def on_button(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """An admin lets somebody's ratings teach."""
        query = update.callback_query
        assert query is not None
        pressed = RELEASE_PATTERN.match(query.data or "")
        assert pressed is not None
        released = await asyncio.to_thread(self._quarantine.release, int(pressed[1]))
        await acknowledge(
            query, "Their ratings teach now." if released else "Nothing is held back."
        )
        await show(query, *_shown(await asyncio.to_thread(self._quarantine.held)))


def _shown(held: tuple[Suspect, ...]) -> tuple[str, InlineKeyboardMarkup | None]:
    if not held:
        return "Nobody's ratings are held back.", None
    shown = held[:SHOWN]
    lines = [f"{_name(each)} ({each.person_id}): {each.reason}" for each in shown]
    more = f"\n… and {len(held) - SHOWN} more" if len(held) > SHOWN else ""
    buttons = [
        [InlineKeyboardButton(f"Release {_name(each)}", callback_data=f"release:{each.person_id}")]
        for each in shown
    ]
    return (
        "What these people say and rate teaches nothing until you release it. "
        "/deny keeps somebody out.\n\n" + "\n".join(lines) + more,
        InlineKeyboardMarkup(buttons),
    )


def _name(suspect: Suspect) -> str:
    return suspect.name[:30] or str(suspect.person_id)
