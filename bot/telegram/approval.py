"""`/approve`: liked and corrected answers, let into every chat word for word or not at all."""

import asyncio

from telegram import InlineKeyboardButton, InlineKeyboardMarkup, Message, Update
from telegram.ext import ContextTypes

from bot.telegram.addressed import message_and_person
from bot.telegram.buttons import HASH_CHARS, ApprovalButton
from bot.telegram.keyboard import acknowledge, show
from bot.telegram.render import MOST_UNITS, units
from store.domain import Proposal
from store.errors import StoreError
from store.memories import Memories

SHOWN = 5
"""Proposals of one /approve."""

TOO_LONG = """\
An answer to “{question}” waits, too. It is too long to be shown whole, and so it cannot be \
approved (turn {turn_id}). Say no, and it is not proposed again."""


class ApprovalHandlers:
    """Shows proposals to admins, whole, and takes their decisions."""

    def __init__(self, *, memories: Memories) -> None:
        self._memories = memories

    async def on_approve(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/approve`: show what waits, newest first."""
        message, _ = message_and_person(update)
        proposals = await asyncio.to_thread(self._memories.proposals, SHOWN)
        for each in proposals:
            await _show_whole(message, each)
        if not proposals:
            await message.reply_text("No liked or corrected answer waits for a decision.")
        elif len(proposals) == SHOWN:
            await message.reply_text("There may be more: decide on these, then /approve again.")

    async def on_button(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Approve or refuse the words that were shown."""
        query = update.callback_query
        assert query is not None
        button = ApprovalButton.parse(query.data)
        assert button is not None, "the application asks for this kind of button"
        try:
            await asyncio.to_thread(
                self._memories.decide,
                button.turn_id,
                button.sha256,
                query.from_user.id,
                approved=button.approved,
            )
        except StoreError as error:
            done = str(error)
        else:
            done = (
                "✅ It helps in every chat now."
                if button.approved
                else "✖ It stays in its own chat."
            )
        await acknowledge(query)
        shown = query.message.text if isinstance(query.message, Message) else ""
        text = f"{shown}\n\n{done}".strip()
        await show(query, text if units(text) <= MOST_UNITS else done)


async def _show_whole(message: Message, proposal: Proposal) -> None:
    """Show question and answer in one message, or one each; say so if even that is too short."""
    question, answer = f"Question:\n{proposal.question}", f"Answer:\n{proposal.answer}"
    if max(units(question), units(answer)) > MOST_UNITS:
        start = " ".join(proposal.question.split())[:100]
        await message.reply_text(
            TOO_LONG.format(question=start, turn_id=proposal.turn_id),
            reply_markup=_buttons(proposal, can_approve=False),
        )
        return
    whole = f"{question}\n\n{answer}"
    if units(whole) > MOST_UNITS:
        await message.reply_text(question)
        whole = answer
    await message.reply_text(whole, reply_markup=_buttons(proposal))


def _buttons(proposal: Proposal, *, can_approve: bool = True) -> InlineKeyboardMarkup:
    def button(text: str, *, approved: bool) -> InlineKeyboardButton:
        shown = proposal.sha256[:HASH_CHARS]
        data = ApprovalButton(approved=approved, turn_id=proposal.turn_id, sha256=shown).data
        return InlineKeyboardButton(text, callback_data=data)

    approve = [button("Use it in every chat", approved=True)] if can_approve else []
    return InlineKeyboardMarkup([[*approve, button("No", approved=False)]])
