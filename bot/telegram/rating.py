"""Rating a reply: the buttons under it, Telegram's own reactions, answering again, correcting.

A person has one rating a reply, whichever way it came; the last word counts. Pressing a thumb
twice records it once; ✖ takes the rating back, and so does taking the reaction away.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from telegram import (
    Bot,
    CallbackQuery,
    ForceReply,
    Message,
    MessageReactionUpdated,
    ReactionType,
    ReactionTypeEmoji,
    ReplyParameters,
    Update,
    User,
)
from telegram.constants import ParseMode
from telegram.error import BadRequest, TelegramError
from telegram.ext import ApplicationHandlerStop, ContextTypes

from bot.errors import QuotaReached
from bot.quotas import Quotas
from bot.slots import leave_slot
from bot.telegram.addressed import is_private, place_of
from bot.telegram.buttons import ReplyAction, ReplyButton
from bot.telegram.consent import Consent
from bot.telegram.keyboard import acknowledge, keyboard
from bot.telegram.outgoing import NotSent, Urgency, sending
from bot.telegram.questions import QuestionHandlers
from bot.telegram.sent import record_sent
from store.conversations import Conversations
from store.domain import Rating, RatingSource, SentKind, Turn, TurnState
from store.errors import StoreError, TurnNotFound
from store.people import People
from store.ratings import Ratings
from store.teaching import Teaching, TeachingState

logger = logging.getLogger(__name__)

CORRECTION_QUESTION = "What should that reply have been?"

LATE_SECONDS = 0.5
"""Wait before a second look: Telegram may report a reaction before the message is stored."""

TALLY_SECONDS = 3.0
"""Least time between two edits of the counts under a reply in a group."""

POSITIVE_REACTIONS = frozenset("👍❤🔥🥰👏😁🎉🤩🙏👌😍💯🤣⚡🏆🤗🫡😘🆒")
"""Reactions that count as 👍, without variation selectors."""

NEGATIVE_REACTIONS = frozenset("👎🤬😢🤮💩🥱😡🤡💔🖕🤨😐🥴")
"""Reactions that count as 👎."""

_RATINGS = {ReplyAction.UP: Rating.UP, ReplyAction.DOWN: Rating.DOWN, ReplyAction.CLEAR: None}
_ANSWERS = {
    Rating.UP: "👍 recorded. Thank you!",
    Rating.DOWN: "👎 recorded. ✏️ tells me what it should have been.",
    None: "Your rating is taken back.",
}
_NOT_LEARNED = {
    TeachingState.TEACHES: "",
    TeachingState.NOT_AGREED: " I do not learn from it until you say /optin.",
    TeachingState.OPTED_OUT: " I do not learn from it: you have opted out (/optin).",
    TeachingState.SILENT_GROUP: " I do not learn in this group.",
    TeachingState.NOT_ADMITTED: " I do not learn from it.",
}


class RatingHandlers:
    """The handlers of ratings, reactions and corrections."""

    def __init__(
        self,
        *,
        conversations: Conversations,
        feedback: Ratings,
        people: People,
        quotas: Quotas,
        chat: QuestionHandlers,
        teaching: Teaching,
        consent: Consent,
        tally_seconds: float = TALLY_SECONDS,
    ) -> None:
        self._conversations = conversations
        self._feedback = feedback
        self._people = people
        self._quotas = quotas
        self._chat = chat
        self._teaching = teaching
        self._consent = consent
        self._tally_seconds = tally_seconds
        self._tallies: dict[int, asyncio.Task[None]] = {}
        """The task that shows the counts under a reply, by the turn."""
        self._stale: set[int] = set()
        """Turns that were rated since their counts were shown."""

    async def on_button(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Handle a tap on a button under a reply."""
        query = update.callback_query
        assert query is not None
        button = ReplyButton.parse(query.data)
        if button is None or not isinstance(query.message, Message):
            await acknowledge(query, "That button no longer works.")
            return
        action, turn_id = button.action, button.turn_id
        try:
            turn = await asyncio.to_thread(
                self._conversations.turn, turn_id, chat_id=query.message.chat_id
            )
        except TurnNotFound:
            await acknowledge(query, "I no longer have that reply.")
            return
        if action is ReplyAction.AGAIN and await self._answered_again(turn, update.update_id):
            await acknowledge(query, "There is a newer reply to that already.")
        elif action is ReplyAction.AGAIN:
            await acknowledge(query, "🔄")
            await self._chat.regenerate(
                query.message, turn, query.from_user.id, update_id=update.update_id
            )
        elif action is ReplyAction.FIX:
            await self._fix(query, query.message, turn_id)
        else:
            await self._rate(query, turn_id, _RATINGS[action])

    async def on_reaction(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Handle a reaction that was added to a message, changed, or taken away."""
        reaction = update.message_reaction
        assert reaction is not None
        if reaction.user is None:  # an anonymous admin or a channel cannot rate
            return
        chat_id = reaction.chat.id
        if not self._speaks(reaction):
            return
        turn_id = await self._turn_shown_in(chat_id, reaction.message_id, SentKind.REPLY)
        if turn_id is None:
            return
        rating = self._meaning(reaction.new_reaction)
        await asyncio.to_thread(self._people.see, reaction.user.id, reaction.user.full_name)
        try:
            changed = await asyncio.to_thread(
                self._record, turn_id, reaction.user.id, rating, RatingSource.REACTION
            )
        except QuotaReached as error:  # a reaction cannot be answered
            logger.info("a reaction of %d does not count: %s", reaction.user.id, error)
            return
        if changed or rating is not None:  # it may have been recorded before a fault
            private = reaction.chat.type == "private"
            if private:
                await self._consent.ask(context.bot, chat_id, None, reaction.user.id)
            self._show_tally(context.bot, chat_id, turn_id, private=private)

    async def _turn_shown_in(self, chat_id: int, message_id: int, kind: SentKind) -> int | None:
        look = partial(self._conversations.shown_in, chat_id, message_id, kind)
        turn_id = await asyncio.to_thread(look)
        if turn_id is None:
            # Telegram may report an answer before it has reported the id of the message.
            leave_slot()
            await asyncio.sleep(LATE_SECONDS)
            turn_id = await asyncio.to_thread(look)
        return turn_id

    async def on_correction(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Record an answer to ✏️'s question as a correction.

        Answers to other messages of the bot are left to the next handler.
        """
        message = update.effective_message
        assert message is not None
        assert message.reply_to_message is not None
        assert message.from_user is not None
        if CORRECTION_QUESTION not in (message.reply_to_message.text or ""):
            return
        turn_id = await self._turn_shown_in(
            message.chat_id, message.reply_to_message.message_id, SentKind.CORRECTION_PROMPT
        )
        if turn_id is None:
            return
        if message.text:
            await message.reply_text(
                await asyncio.to_thread(
                    self._correct,
                    turn_id,
                    message.from_user.id,
                    message.chat_id,
                    message.text.strip(),
                )
            )
        else:
            await message.reply_text("A correction has to be text. Press ✏️ to try again.")
        raise ApplicationHandlerStop

    async def _answered_again(self, turn: Turn, update_id: int) -> bool:
        """Return whether another tap, such as the first of a double tap, got a later version."""
        versions = await asyncio.to_thread(self._conversations.versions, turn.id)
        return any(
            each.id > turn.id and each.state == TurnState.FINAL and each.update_id != update_id
            for each in versions
        )

    async def _fix(self, query: CallbackQuery, reply: Message, turn_id: int) -> None:
        try:
            await asyncio.to_thread(self._quotas.check_rating, query.from_user.id)
        except QuotaReached as error:  # before they write it for nothing
            await acknowledge(query, str(error))
            return
        await acknowledge(query)
        await self._ask_for_correction(reply, turn_id, query.from_user)

    async def _rate(self, query: CallbackQuery, turn_id: int, rating: Rating | None) -> None:
        message = query.message
        assert isinstance(message, Message)
        try:
            changed = await asyncio.to_thread(
                self._record, turn_id, query.from_user.id, rating, RatingSource.BUTTON
            )
        except QuotaReached as error:
            await acknowledge(query, str(error))
            return
        await self._consent.ask(
            message.get_bot(),
            message.chat_id,
            place_of(message).thread_id or None,
            query.from_user.id,
        )
        state = await asyncio.to_thread(self._teaching.state, query.from_user.id, message.chat_id)
        await acknowledge(query, _ANSWERS[rating] + (_NOT_LEARNED[state] if rating else ""))
        if changed or rating is not None:  # it may have been recorded before a fault
            self._show_tally(
                message.get_bot(), message.chat_id, turn_id, private=is_private(message)
            )

    def _record(
        self, turn_id: int, person_id: int, rating: Rating | None, source: RatingSource
    ) -> bool:
        """Record a rating; return whether anything changed. Raises `QuotaReached`.

        A person who has rated a reply may always change that rating, or take it back.
        """
        rated = {each.person_id for each in self._feedback.ratings(turn_id)}
        if rating is not None and person_id not in rated:
            self._quotas.check_rating(person_id)
        return self._feedback.rate(turn_id, person_id, rating, source)

    def _correct(self, turn_id: int, person_id: int, chat_id: int, text: str) -> str:
        """Record a correction; return the answer to its author."""
        try:
            if not self._feedback.was_given(turn_id, person_id, text):  # before a fault
                self._quotas.check_rating(person_id)
        except QuotaReached as error:
            return str(error)
        self._feedback.correct(turn_id, person_id, text)
        not_learned = _NOT_LEARNED[self._teaching.state(person_id, chat_id)]
        return f"✏️ recorded.{not_learned or ' I will learn from it.'}"

    def _show_tally(self, bot: Bot, chat_id: int, turn_id: int, *, private: bool) -> None:
        """Show the counts under a reply: at once, and then once for all who rate soon after."""
        self._stale.add(turn_id)
        if turn_id in self._tallies:
            return  # the task that shows them counts again

        async def show() -> None:
            try:
                while turn_id in self._stale:
                    self._stale.discard(turn_id)
                    await self._edit_tally(bot, chat_id, turn_id, private=private)
                    await asyncio.sleep(self._tally_seconds)
            except (TelegramError, StoreError) as error:
                logger.info("the counts under turn %d are not shown: %s", turn_id, error)
            finally:
                self._stale.discard(turn_id)
                del self._tallies[turn_id]

        self._tallies[turn_id] = asyncio.create_task(show(), name="tally")

    async def _edit_tally(self, bot: Bot, chat_id: int, turn_id: int, *, private: bool) -> None:
        tally = await asyncio.to_thread(self._feedback.tally, turn_id)
        shown = await asyncio.to_thread(self._conversations.shown_by, turn_id, chat_id)
        if shown:
            with suppress(BadRequest, NotSent), sending(Urgency.TALLY):  # not modified, or deleted
                await bot.edit_message_reply_markup(
                    chat_id, shown[-1], reply_markup=keyboard(turn_id, tally, private=private)
                )

    async def _ask_for_correction(self, reply: Message, turn_id: int, asked: User) -> None:
        private = is_private(reply)
        # In a group only those who are mentioned get the field to answer in.
        mention = "" if private else f"{asked.mention_html()}: "
        sent = await reply.get_bot().send_message(
            reply.chat_id,
            f"{mention}{CORRECTION_QUESTION} Please reply to this message with it.",
            parse_mode=ParseMode.HTML,
            message_thread_id=place_of(reply).thread_id or None,
            reply_parameters=ReplyParameters(reply.message_id, allow_sending_without_reply=True),
            reply_markup=ForceReply(
                selective=not private, input_field_placeholder="The better reply"
            ),
        )
        await record_sent(
            self._conversations,
            turn_id,
            reply.chat_id,
            sent.message_id,
            SentKind.CORRECTION_PROMPT,
        )

    def _speaks(self, reaction: MessageReactionUpdated) -> bool:
        """Return whether a reaction gives or takes back a rating; 🤔, for one, does not."""
        return any(
            self._meaning(side) is not None
            for side in (reaction.old_reaction, reaction.new_reaction)
        )

    def _meaning(self, reactions: Sequence[ReactionType]) -> Rating | None:
        emoji = {_plain(each.emoji) for each in reactions if isinstance(each, ReactionTypeEmoji)}
        if emoji & NEGATIVE_REACTIONS:
            return Rating.DOWN
        return Rating.UP if emoji & POSITIVE_REACTIONS else None


def _plain(emoji: str) -> str:
    return emoji.replace("\ufe0f", "")  # ❤️ and ❤ are one reaction
