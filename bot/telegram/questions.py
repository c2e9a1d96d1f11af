"""Questions: each message gets a streamed reply, with its sources and buttons under it."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from datetime import timedelta
from functools import partial

from telegram import Message, Update
from telegram.ext import ContextTypes

from bot.chat import Chat
from bot.engine.errors import EngineError
from bot.errors import BotError, QuotaReached
from bot.quotas import Quotas
from bot.reports.why import why
from bot.telegram.addressed import addressed_text, is_private, place_of
from bot.telegram.consent import Consent
from bot.telegram.error_messages import explain
from bot.telegram.keyboard import keyboard
from bot.telegram.notices import Notices
from bot.telegram.render import Part, render
from bot.telegram.sent import record_sent
from bot.telegram.stream import Pace, ReplyStream
from store.conversations import Conversations
from store.database import Clock, utc_now
from store.domain import FinishReason, SentKind, Turn
from store.errors import StoreError, TurnNotFound
from store.ratings import Ratings

logger = logging.getLogger(__name__)

CUT = " […]"
"""Ends a reply that ran into `RATCHET_MAX_NEW_TOKENS`."""

TELL_AGAIN_SECONDS = 60.0
"""Pause between two times that somebody is told of a quota."""

ONLY_TEXT = "I can only read text."


class QuestionHandlers:
    """The handlers of messages to the bot, and of `/new` and `/why`."""

    def __init__(
        self,
        *,
        answer_within: timedelta,
        admins: frozenset[int],
        chat: Chat,
        quotas: Quotas,
        conversations: Conversations,
        feedback: Ratings,
        consent: Consent,
        pace: Pace,
        link_hosts: Collection[str] = (),
        now: Clock = utc_now,
    ) -> None:
        self._answer_within = answer_within
        self._admins = admins
        self._chat = chat
        self._quotas = quotas
        self._notices = Notices(TELL_AGAIN_SECONDS)
        self._conversations = conversations
        self._feedback = feedback
        self._consent = consent
        self._pace = pace
        self._link_hosts = link_hosts
        self._now = now

    async def on_text(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Answer a message."""
        message = update.effective_message
        assert message is not None
        assert message.from_user is not None
        question = addressed_text(message)
        if not question:
            await message.reply_text("What would you like to know? Ask me anything.")
            return
        if self._now() - message.date > self._answer_within:
            logger.info("a message of %s was missed and is too old to be answered", message.date)
            return
        asker_id = message.from_user.id
        pieces = self._chat.answer(
            place_of(message),
            asker_id,
            question,
            update_id=update.update_id,
            check=partial(self._quotas.check, asker_id),
        )
        if not await self._show(message, asker_id, pieces):
            return
        if is_private(message):
            await self._consent.ask(message.get_bot(), message.chat_id, None, asker_id)

    async def on_other(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Tell the sender of a sticker, a voice note or a picture that only text is read."""
        message = update.effective_message
        assert message is not None
        await message.reply_text(ONLY_TEXT)

    async def on_new(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Handle `/new`: answer from now on without what was said before."""
        message = update.effective_message
        assert message is not None
        await self._chat.start_new(place_of(message))
        await message.reply_text("A new conversation. I start from nothing.")

    async def on_why(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Handle `/why`: explain the reply that the message answers, or the last one."""
        message = update.effective_message
        assert message is not None
        turn = await asyncio.to_thread(self._asked_about, message)
        by_admin = message.from_user is not None and message.from_user.id in self._admins
        text = "Reply to one of my messages with /why."
        if turn is not None:
            text = why(turn, sampling=by_admin)
        await message.reply_text(text)

    async def on_unknown_command(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Answer an unknown command; in a group it may be meant for another bot."""
        message = update.effective_message
        assert message is not None
        if is_private(message):
            await message.reply_text("I do not know that command. /help lists those I know.")

    async def regenerate(
        self, reply: Message, turn: Turn, person_id: int, *, update_id: int
    ) -> None:
        """Answer the question of a turn again; `reply` is the message that showed the turn."""
        check = partial(self._quotas.check, person_id)
        pieces = self._chat.regenerate(turn, person_id, update_id=update_id, check=check)
        await self._show(reply, person_id, pieces)

    async def _show(
        self, message: Message, asker_id: int, pieces: AsyncGenerator[str | Turn, None]
    ) -> bool:
        """Show a reply while it is written; False if the asker has reached a quota.

        They are told of that once a minute.
        """
        try:
            begun = await anext(pieces)
        except QuotaReached as reached:
            if self._notices.due(asker_id):
                await message.reply_text(str(reached))
            return False
        assert isinstance(begun, Turn), "a reply begins with its turn"
        private = is_private(message)
        there = await asyncio.to_thread(self._conversations.shown_by, begun.id, message.chat_id)
        stream = ReplyStream(
            message.get_bot(),
            self._pace,
            place_of(message),
            private=private,
            reply_to=message.message_id,
            on_sent=partial(self._remember, begun.id, message.chat_id),
            messages=there,
            link_hosts=self._link_hosts,
        )
        async with aclosing(pieces), stream:
            try:
                async for piece in pieces:
                    if isinstance(piece, Turn):
                        tally = await asyncio.to_thread(self._feedback.tally, piece.id)
                        buttons = keyboard(piece.id, tally, private=private)
                        cut = CUT if piece.finish_reason is FinishReason.LENGTH else ""
                        parts = render(
                            piece.completion + cut, piece.passages, link_hosts=self._link_hosts
                        )
                        await stream.finish(parts, buttons)
                    else:
                        stream.add(piece)
            except TurnNotFound:
                logger.info("turn %d was erased while its reply was written", begun.id)
            except (BotError, EngineError, StoreError) as error:
                await stream.finish((Part(text=explain(error)),))
        return True

    async def _remember(self, turn_id: int, chat_id: int, message_id: int) -> None:
        try:
            await record_sent(self._conversations, turn_id, chat_id, message_id, SentKind.REPLY)
        except TurnNotFound:
            logger.info("turn %d was erased while its reply was sent", turn_id)

    def _asked_about(self, message: Message) -> Turn | None:
        answered = message.reply_to_message
        if answered is None or answered.forum_topic_created:  # every message in a topic has that
            conversation = self._conversations.current(place_of(message))
            return self._conversations.last_turn(conversation.id)
        turn_id = self._conversations.shown_in(message.chat_id, answered.message_id, SentKind.REPLY)
        return self._conversations.turn(turn_id) if turn_id is not None else None
