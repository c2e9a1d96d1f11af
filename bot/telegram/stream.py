"""Shows a reply while it is written: a draft in a private chat, a message that is edited elsewhere.

What is shown on the way may fail without harm; only the finished reply matters. Nothing is shown
more often than Telegram allows, however many replies are being written.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType

from telegram import Bot, InlineKeyboardMarkup, ReplyParameters
from telegram.constants import ChatAction
from telegram.error import BadRequest, RetryAfter, TelegramError

from bot.telegram.render import Part, preview
from store.domain import Place

logger = logging.getLogger(__name__)

DRAFT_SECONDS = 1.0
EDIT_SECONDS = 4.0
"""A group takes 20 messages a minute, edits counted, and the reply itself needs two of them."""

UPDATES_PER_SECOND = 15
"""Half of what Telegram allows a bot overall; the rest is for finished replies."""

LAST_UPDATE_SECONDS = 5.0
"""How long the finished reply waits for an update that is on its way."""

TYPING_SECONDS = 4.5
"""A typing action shows for five."""


class Pace:
    """Shared by all streams of a bot, so that together they stay under its overall limit."""

    def __init__(self) -> None:
        self.live = 0

    def pause_seconds(self, least: float) -> float:
        """How long a stream waits between two updates."""
        return max(least, self.live / UPDATES_PER_SECOND)


class ReplyStream:
    """One reply on its way to one chat. Use as an async context manager.

    `on_sent` is told every message that shows the reply, as soon as it is there. `messages` show
    parts of it already, sent by a process that died.
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
        self._finished = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "ReplyStream":
        self._pace.live += 1
        self._task = asyncio.create_task(self._show_progress(), name="reply-stream")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pace.live -= 1
        await self._stop()

    def add(self, text: str) -> None:
        """More of the reply has been written."""
        self._text += text

    async def finish(
        self, parts: Sequence[Part], keyboard: InlineKeyboardMarkup | None = None
    ) -> None:
        """Show the finished reply, the keyboard under its last part."""
        await self._stop()
        for number, part in enumerate(parts, 1):
            markup = keyboard if number == len(parts) else None
            there = self._messages[number - 1] if number <= len(self._messages) else None
            if there is None or not await self._edit(there, part, markup):
                await self._send(part, markup, first=number == 1)

    async def _stop(self) -> None:
        # An update on its way is waited for: a draft that arrives late would show up again
        # under the finished reply, and a message whose number is unknown would stay behind.
        self._finished.set()
        if self._task is None:
            return
        await asyncio.wait((self._task,), timeout=LAST_UPDATE_SECONDS)
        self._task.cancel()
        await asyncio.wait((self._task,))
        self._task = None

    async def _show_progress(self) -> None:
        since_typing = TYPING_SECONDS
        while not self._finished.is_set():
            pause = self._pace.pause_seconds(self._least_pause)
            try:
                if self._text.strip():
                    await self._show(preview(self._text))
                elif since_typing >= TYPING_SECONDS:
                    since_typing = 0.0
                    await self._bot.send_chat_action(
                        self._place.chat_id, ChatAction.TYPING, self._place.thread_id or None
                    )
            except RetryAfter as flood:
                pause = max(pause, seconds_of(flood))
            except TelegramError as error:
                logger.debug("progress was not shown: %s", error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._finished.wait(), pause)
            since_typing += pause

    @property
    def _least_pause(self) -> float:
        return DRAFT_SECONDS if self._private or not self._text else EDIT_SECONDS

    async def _show(self, part: Part) -> None:
        if part == self._shown:
            return
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
        self._shown = part

    async def _edit(self, message_id: int, part: Part, markup: InlineKeyboardMarkup | None) -> bool:
        try:
            await self._bot.edit_message_text(
                part.text,
                self._place.chat_id,
                message_id,
                entities=part.entities,
                reply_markup=markup,
            )
        except BadRequest as error:
            # Not modified: it shows what it should. Anything else: somebody deleted it.
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


def seconds_of(flood: RetryAfter) -> float:
    """How long Telegram asks to wait; the library gives a number or a timedelta."""
    wait = flood.retry_after
    return float(wait) if isinstance(wait, int) else wait.total_seconds()
