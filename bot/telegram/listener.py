"""Receives updates by polling or webhook until it is stopped."""

import asyncio
import hmac
import logging
from collections.abc import Collection, Coroutine
from contextlib import suppress
from typing import Any

from telegram import (
    BotCommandScopeAllGroupChats,
    BotCommandScopeAllPrivateChats,
    BotCommandScopeChat,
)
from telegram.error import BadRequest, Conflict, InvalidToken, NetworkError, TelegramError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential

from bot.errors import BotError
from bot.telegram.application import App
from bot.telegram.commands import FOR_ADMINS, FOR_EVERYBODY, FOR_GROUPS
from store.settings_slices import WebhookSettings

logger = logging.getLogger(__name__)

ALLOWED_UPDATES = ["message", "callback_query", "message_reaction"]
POLL_SECONDS = 30
"""Time for which one call waits for updates."""
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
"""Pauses between attempts to reach Telegram at the start: they double up to the longest one."""

FINISH_SECONDS = 60.0
"""Time that replies which are being written get when the bot stops."""


async def serve(
    application: App,
    webhook: WebhookSettings,
    admins: Collection[int],
    stop: asyncio.Event,
    *,
    finish_seconds: float = FINISH_SECONDS,
) -> None:
    """Receive updates until `stop` is set, then finish the replies that are being written.

    Waits while Telegram cannot be reached. Raises `BotError` for a token that Telegram does not
    know.
    """
    try:
        if await _unless_stopped(_start(application, webhook, admins), stop):
            logger.info("talking as @%s", application.bot.username)
            await stop.wait()
    finally:
        await _wind_up(application, finish_seconds)


async def _start(application: App, webhook: WebhookSettings, admins: Collection[int]) -> None:
    await _initialize(application)
    await application.start()
    try:
        await _listen(application, webhook)
    except (TelegramError, OSError) as error:
        raise BotError(f"cannot listen for updates: {error}") from error
    await set_commands(application, admins)


async def _wind_up(application: App, finish_seconds: float) -> None:
    assert application.updater is not None
    if application.updater.running:
        await application.updater.stop()
    if application.running:
        with suppress(TimeoutError):
            await asyncio.wait_for(application.stop(), finish_seconds)
    await application.shutdown()
    await application.bot.shutdown()  # closes its connections even if it was never initialized


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


async def _initialize(application: App) -> None:
    """Wait until Telegram can be reached. Raises `BotError` for an unknown token."""
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(NetworkError),
        wait=wait_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS),
        before_sleep=_log_unreachable,
    )
    try:
        await retrying(application.initialize)
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


async def _listen(application: App, webhook: WebhookSettings) -> None:
    updater = application.updater
    assert updater is not None
    if not webhook.url:
        await updater.start_polling(
            timeout=POLL_SECONDS,
            allowed_updates=ALLOWED_UPDATES,
            bootstrap_retries=-1,
            error_callback=_on_polling_error,
        )
        return
    assert webhook.secret is not None
    host, _, port = webhook.listen.rpartition(":")
    await updater.start_webhook(
        listen=host,
        port=int(port),
        url_path=webhook.url.partition("://")[2].partition("/")[2],
        webhook_url=webhook.url,
        secret_token=_Secret(webhook.secret.get_secret_value()),
        allowed_updates=ALLOWED_UPDATES,
        bootstrap_retries=-1,
    )


class _Secret(str):
    """A string that is compared in constant time, so that timing does not reveal it.

    python-telegram-bot compares the received secret with `!=`, for which Python asks the derived
    class first.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and hmac.compare_digest(self.encode(), other.encode())

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def _on_polling_error(error: TelegramError) -> None:
    # The library tries again by itself; its own report would be a traceback every second.
    if isinstance(error, Conflict):
        logger.error("another bot polls with the same token: stop one of the two")
    else:
        logger.warning("polling failed: %s", error)
