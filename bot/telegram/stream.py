"""A reply that is shown while it is written: a draft in private chats, an edited message in groups.

Showing progress may fail without harm; only the finished reply matters. All replies together stay
under Telegram's rate limits.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from telegram import Bot, InlineKeyboardMarkup, ReplyParameters
from telegram.constants import ChatAction
from telegram.error import BadRequest, RetryAfter, TelegramError

from bot.telegram.outgoing import Urgency, sending
from bot.telegram.render import Part, preview
from bot.telegram.retries import seconds_of
from store.domain import Place

logger = logging.getLogger(__name__)

FIRST_WORDS_SECONDS = 0.3
"""Least time from the first word until it is shown; a reply finished by then is sent at once."""

DRAFT_SECONDS = 1.0
"""Least time between two drafts."""

EDIT_SECONDS = 4.0
"""Least time between two edits: a group allows 20 messages and edits a minute."""

TYPING_SECONDS = 4.5
"""Time between two typing actions; Telegram shows one for five seconds."""

UPDATES_PER_SECOND = 12
"""Drafts and edits of all replies together."""

TYPING_PER_SECOND = 3
"""Typing actions of all replies together.

With the updates, this is half of what Telegram allows a bot; finished replies need the rest.
"""

LAST_UPDATE_SECONDS = 5.0
"""Time that a finished reply waits for an update that is being sent."""


class Pace:
    """The rate at which the streams of one bot may show progress, so that they share its limit.

    Words and typing actions have separate limits. When there are too many streams for a limit,
    each stream is let through at random.
    """

    def __init__(
        self,
        *,
        first_words_seconds: float = FIRST_WORDS_SECONDS,
        draft_seconds: float = DRAFT_SECONDS,
        edit_seconds: float = EDIT_SECONDS,
    ) -> None:
        self.draft_seconds = draft_seconds
        self.edit_seconds = edit_seconds
        self._first_words_seconds = first_words_seconds
        self.waiting = 0
        """Number of replies that have no text yet."""
        self.writing = 0
        """Number of replies that have text and are not finished."""

    def may_type(self) -> bool:
        """Return whether a stream may send a typing action now; asked every `TYPING_SECONDS`."""
        return random.random() * self.waiting < TYPING_SECONDS * TYPING_PER_SECOND

    def before_first_words(self) -> float:
        """Return the seconds until a stream shows its first words."""
        least = self._first_words_seconds
        return random.uniform(least, self.before_update(least))

    def before_update(self, least: float) -> float:
        """Return the seconds between two updates of a stream, at least `least`."""
        return max(least, self.writing / UPDATES_PER_SECOND)


class ReplyStream:
    """One reply that is shown in one chat; an async context manager.

    `on_sent` is called with the id of every message of the reply as soon as it is sent. `messages`
    are ids of messages that an earlier process sent for this reply before it died.
    """

    def __init__(
        self,
        bot: Bot,
        pace: Pace,
        place: Place,
        *,
        private: bool,
        reply_to: int | None,
        on_sent: Callable[[int], Awaitable[None]],
        messages: Sequence[int] = (),
        link_hosts: Collection[str] = (),
    ) -> None:
        self._bot = bot
        self._pace = pace
        self._place = place
        self._private = private
        self._reply_to = reply_to
        self._on_sent = on_sent
        self._draft_id = reply_to or 1
        self._text = ""
        self._shown: Part | None = None
        self._messages = list(messages)
        self._link_hosts = link_hosts
        self._writing = False
        """True once text was written."""
        self._begun = asyncio.Event()
        """Set when text was written, or when none will follow."""
        self._finished = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "ReplyStream":
        self._pace.waiting += 1
        self._task = asyncio.create_task(self._show_progress(), name="reply-stream")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writing:
            self._pace.writing -= 1
        else:
            self._pace.waiting -= 1
        await self._stop()

    def add(self, text: str) -> None:
        """Append text to the reply."""
        self._text += text
        if not self._writing and self._text.strip():
            self._writing = True
            self._pace.waiting -= 1
            self._pace.writing += 1
            self._begun.set()

    async def finish(
        self, parts: Sequence[Part], keyboard: InlineKeyboardMarkup | None = None
    ) -> None:
        """Show the finished reply, with the keyboard under its last part."""
        await self._stop()
        with sending(Urgency.REPLY):
            for number, part in enumerate(parts, 1):
                markup = keyboard if number == len(parts) else None
                edited = False
                if number <= len(self._messages):
                    edited = await self._edit(self._messages[number - 1], part, markup)
                if not edited:
                    await self._send(part, markup, first=number == 1)

    async def _stop(self) -> None:
        # Wait for an update that is being sent: a late draft would appear under the finished
        # reply, and a message whose id is unknown could not be edited any more.
        self._finished.set()
        self._begun.set()
        if self._task is None:
            return
        await asyncio.wait((self._task,), timeout=LAST_UPDATE_SECONDS)
        self._task.cancel()
        await asyncio.wait((self._task,))
        self._task = None

    async def _show_progress(self) -> None:
        least = self._pace.draft_seconds if self._private else self._pace.edit_seconds
        while not self._begun.is_set():
            if self._pace.may_type():
                await _wait(self._finished, await _tried(self._type()))
            await _wait(self._begun, TYPING_SECONDS)
        await _wait(self._finished, self._pace.before_first_words())
        while not self._finished.is_set():
            flood = await _tried(self._show(preview(self._text, link_hosts=self._link_hosts)))
            await _wait(self._finished, max(flood, self._pace.before_update(least)))

    async def _type(self) -> None:
        await self._bot.send_chat_action(
            self._place.chat_id, ChatAction.TYPING, self._place.thread_id or None
        )

    async def _show(self, part: Part) -> None:
        if part == self._shown:
            return
        with sending(Urgency.NOTICE):
            await self._show_now(part)
        self._shown = part

    async def _show_now(self, part: Part) -> None:
        if self._private:
            await self._bot.send_message_draft(
                self._place.chat_id,
                self._draft_id,
                part.text,
                message_thread_id=self._place.thread_id or None,
                entities=part.entities,
            )
        elif not self._messages:
            self._messages.append(await self._send(part, None, first=True))
        else:
            await self._bot.edit_message_text(
                part.text, self._place.chat_id, self._messages[0], entities=part.entities
            )

    async def _edit(self, message_id: int, part: Part, markup: InlineKeyboardMarkup | None) -> bool:
        """Return whether the message shows the part now."""
        try:
            await self._bot.edit_message_text(
                part.text,
                self._place.chat_id,
                message_id,
                entities=part.entities,
                reply_markup=markup,
            )
        except BadRequest as error:
            # "Not modified" means that it shows the part already; else it was deleted.
            return "not modified" in str(error)
        return True

    async def _send(self, part: Part, markup: InlineKeyboardMarkup | None, *, first: bool) -> int:
        quoted = self._reply_to if first and not self._private else None
        message = await self._bot.send_message(
            self._place.chat_id,
            part.text,
            entities=part.entities,
            reply_markup=markup,
            message_thread_id=self._place.thread_id or None,
            reply_parameters=(
                ReplyParameters(quoted, allow_sending_without_reply=True) if quoted else None
            ),
        )
        await self._on_sent(message.message_id)
        return message.message_id


async def _tried(update: Coroutine[Any, Any, None]) -> float:
    """Send an update that may fail; return the seconds that Telegram asks to wait after it."""
    try:
        await update
    except RetryAfter as flood:
        return seconds_of(flood)
    except TelegramError as error:
        logger.debug("progress was not shown: %s", error)
    return 0.0


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
