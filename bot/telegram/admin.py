"""Commands of admins in private chats: `/status` and `/audit`."""

import asyncio
from collections.abc import Sequence
from functools import partial

from telegram import Update
from telegram.ext import ContextTypes

from bot.reports.status import StatusReader
from bot.telegram.addressed import message_and_person
from bot.telegram.render import lines_that_fit
from store.audit import AuditEntries
from store.domain import AuditEntry

SHOWN_ENTRIES = 30
"""Entries of the audit log in one message, at most."""


class AdminHandlers:
    """Handles commands that only admins may use; the application sees to that."""

    def __init__(self, *, status: StatusReader, audit: AuditEntries) -> None:
        self._audit = audit
        self._status = status

    async def on_status(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/status`: show the status."""
        message, _ = message_and_person(update)
        await message.reply_text(await asyncio.to_thread(self._status.text))

    async def on_audit(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/audit`: show the newest entries of the audit log; `/audit 50`: those before 50."""
        message, _ = message_and_person(update)
        given = "".join(context.args or ())
        before = int(given) if given.isdecimal() and len(given) < 16 else None
        recent = partial(self._audit.recent, SHOWN_ENTRIES + 1, before=before)
        await message.reply_text(_page(await asyncio.to_thread(recent)))


def _page(entries: Sequence[AuditEntry]) -> str:
    """Return as many entries as one message takes, and how to see the older ones."""
    lines = [entry.line for entry in entries[:SHOWN_ENTRIES]]
    shown = lines_that_fit(lines)
    if shown < len(entries):
        lines[shown:] = [f"Older ones: /audit {entries[shown - 1].id}"]
    return "\n".join(lines) or "There are no older entries."
