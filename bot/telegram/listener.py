"""Receives updates by polling or webhook until it is stopped."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from telegram import (
    BotCommandScopeAllGroupChats,
    BotCommandScopeAllPrivateChats,
    BotCommandScopeChat,
)
from telegram.error import BadRequest, InvalidToken, TelegramError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential

from bot.background import in_background
from bot.errors import BotError
from bot.telegram.application import App, poll_request
from bot.telegram.commands import FOR_ADMINS, FOR_EVERYBODY, FOR_GROUPS
from bot.telegram.dispatcher import Dispatcher
from bot.telegram.inbox import Inbox
from bot.telegram.outgoing import Outgoing
from bot.telegram.polling import Polling
from bot.telegram.raw import KINDS
from bot.telegram.retries import is_passing
from bot.telegram.webhook import Webhook
from store.settings_slices import WebhookSettings

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
"""Pauses between attempts to reach Telegram at the start: they double up to the longest one."""

FINISH_SECONDS = 60.0
"""Time that replies which are being written get when the bot stops."""


class Listener:
    """The connection of one bot to Telegram, for as long as it listens."""

    def __init__(
        self,
        application: App,
        inbox: Inbox,
        dispatcher: Dispatcher,
        outgoing: Outgoing,
        *,
        webhook: WebhookSettings,
        admins: Collection[int],
        is_alone: bool,
        finish_seconds: float = FINISH_SECONDS,
    ) -> None:
        self._application = application
        self._inbox = inbox
        self._dispatcher = dispatcher
        self._outgoing = outgoing
        self._webhook = webhook
        self._admins = admins
        self._is_alone = is_alone
        self._finish_seconds = finish_seconds
        self._receiver: Polling | Webhook | None = None

    @property
    def silent_seconds(self) -> float | None:
        """The time since Telegram last answered or posted; None if nobody listens."""
        return time.monotonic() - self._receiver.last_good if self._receiver else None

    @property
    def is_deaf(self) -> bool:
        """True if nobody listens, or polls have been failing for a while."""
        silent = self.silent_seconds
        if silent is None:
            return True
        return isinstance(self._receiver, Polling) and silent > Polling.DEAF_SECONDS

    async def serve(self, stop: asyncio.Event) -> None:
        """Receive updates until `stop` is set, then finish the replies that are being written.

        Waits while Telegram cannot be reached. Raises `BotError` for a token that Telegram does not
        know, and if receiving ends by itself.
        """
        try:
            if await _unless_stopped(self._start(), stop):
                bot = self._application.bot
                keeping = self._inbox.keep(bot, alone=self._is_alone)
                async with in_background(keeping, name="inbox"), self._receiving():
                    logger.info("talking as @%s", bot.username)
                    await _unless_stopped(set_commands(self._application, self._admins), stop)
                    await stop.wait()
        finally:
            self._receiver = None
            await self._wind_up()

    async def _start(self) -> None:
        await _reached(self._application.initialize)
        await self._application.start()
        bot = self._application.bot
        if not self._webhook.url:
            await _reached(bot.delete_webhook)
            return
        assert self._webhook.secret is not None
        # One post at a time, so that updates come in the order of their ids.
        set_webhook = partial(
            bot.set_webhook,
            self._webhook.url,
            secret_token=self._webhook.secret.get_secret_value(),
            allowed_updates=KINDS,
            max_connections=1,
        )
        try:
            await _reached(set_webhook)
        except TelegramError as error:
            raise BotError(f"cannot listen for updates: {error}") from error

    @asynccontextmanager
    async def _receiving(self) -> AsyncIterator[None]:
        bot = self._application.bot

        async def receive(updates: Any) -> None:
            await self._inbox.receive(updates, bot)

        if self._webhook.url:
            async with self._posted(receive):
                yield
            return
        async with poll_request() as request:
            polling = self._receiver = Polling(f"{bot.base_url}/getUpdates", request, receive)
            async with in_background(polling.run(), name="polling"):
                yield
            with suppress(Exception):  # what is not confirmed comes again, and is known then
                await polling.confirm()

    @asynccontextmanager
    async def _posted(self, receive: Any) -> AsyncIterator[None]:
        settings = self._webhook
        assert settings.secret is not None
        secret = settings.secret.get_secret_value()
        host, _, port = settings.listen.rpartition(":")
        webhook = Webhook(urlsplit(settings.url).path or "/", secret, receive)
        try:
            async with webhook.serve(host, int(port)):
                self._receiver = webhook
                yield
        except OSError as error:
            raise BotError(f"cannot listen for updates: {error}") from error

    async def _wind_up(self) -> None:
        await self._dispatcher.stop(self._finish_seconds, self._outgoing.drop_answers)
        if self._application.running:
            await self._application.stop()
        await self._application.shutdown()
        await self._application.bot.shutdown()  # closes its connections even if it never began


async def _unless_stopped(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> bool:
    """Return whether the work was done before `stop` was set; cancel it if not."""
    doing, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if doing.done():
        await doing
        return True
    doing.cancel()
    await asyncio.wait((doing,))
    return False


async def set_commands(application: App, admins: Collection[int]) -> None:
    """Set the menus of commands in private chats, in groups and for admins."""
    bot = application.bot
    try:
        await bot.set_my_commands(FOR_EVERYBODY, BotCommandScopeAllPrivateChats())
        await bot.set_my_commands(FOR_GROUPS, BotCommandScopeAllGroupChats())
    except TelegramError as error:
        logger.warning("the command menus could not be set: %s", error)
    for admin_id in sorted(admins):
        try:
            await bot.set_my_commands(FOR_ADMINS, BotCommandScopeChat(admin_id))
        except BadRequest:
            logger.info("admin %d has never written to the bot and so gets no menu yet", admin_id)
        except TelegramError as error:
            logger.warning("the menu of admin %d could not be set: %s", admin_id, error)


async def _reached(call: Callable[[], Awaitable[object]]) -> None:
    """Make a call until Telegram can be reached. Raises `BotError` for an unknown token."""
    retrying = AsyncRetrying(
        retry=retry_if_exception(is_passing),
        wait=wait_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS),
        before_sleep=_log_unreachable,
    )
    try:
        await retrying(call)
    except InvalidToken:
        raise BotError("Telegram does not know this token: check RATCHET_TELEGRAM_TOKEN") from None


def _log_unreachable(state: RetryCallState) -> None:
    assert state.outcome is not None
    assert state.next_action is not None
    logger.warning(
        "Telegram cannot be reached (%s): again in %.0f s",
        state.outcome.exception(),
        state.next_action.sleep,
    )
