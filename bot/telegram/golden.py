"""`/golden`: answers that every version must still know, as an admin chooses them."""

import asyncio

from telegram import Message, Update
from telegram.ext import ContextTypes

from bot.telegram.addressed import message_and_person
from store.conversations import Conversations
from store.domain import SentKind
from store.errors import TurnNotFound
from store.golden_answers import GoldenAnswers

USAGE = """\
{count} answers are golden: I measure every new version with them and never learn from them. Reply \
to an answer of mine with /golden, or send /golden and its number from /why; with “off” behind it, \
the answer is golden no longer. `ratchet golden list` shows them all."""

OFF = "off"


class GoldenHandlers:
    """Takes an admin's choice of golden answers."""

    def __init__(self, *, conversations: Conversations, golden: GoldenAnswers) -> None:
        self._conversations = conversations
        self._golden = golden

    async def on_golden(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/golden`: make the answer that the message replies to golden, or the one numbered."""
        message, _ = message_and_person(update)
        text = await asyncio.to_thread(self._decide, message, [*(context.args or ())])
        await message.reply_text(text)

    def _decide(self, message: Message, words: list[str]) -> str:
        wanted = OFF not in words
        numbers = [word for word in words if word.isdecimal() and len(word) < 16]
        turn_id = int(numbers[0]) if numbers else self._replied_to(message)
        if turn_id is None:
            return USAGE.format(count=self._golden.count())
        if not wanted:
            was_golden = self._golden.drop_turn(turn_id)
            return "It is golden no longer." if was_golden else "It was not golden."
        try:
            is_new = self._golden.add(turn_id)
        except TurnNotFound:
            return "I cannot keep that: its people do not take part in training, or it is gone."
        if not is_new:
            return "It is golden already."
        return f"Golden: every new version must still know it. {self._golden.count()} answers are."

    def _replied_to(self, message: Message) -> int | None:
        answered = message.reply_to_message
        if answered is None or answered.forum_topic_created:
            return None
        return self._conversations.shown_in(message.chat_id, answered.message_id, SentKind.REPLY)
