"""Wires the conversations into python-telegram-bot, and runs them by polling or webhook."""

import asyncio
import hmac
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

from telegram import (
    BotCommandScopeAllGroupChats,
    BotCommandScopeAllPrivateChats,
    BotCommandScopeChat,
    Update,
)
from telegram.error import BadRequest, Conflict, InvalidToken, NetworkError, TelegramError
from telegram.ext import (
    Application,
    ApplicationBuilder,
    CallbackQueryHandler,
    CommandHandler,
    ContextTypes,
    MessageHandler,
    MessageReactionHandler,
    TypeHandler,
    filters,
)
from telegram.request import HTTPXRequest

from bot.chat import Chat
from bot.errors import BotError
from bot.telegram.admin import AdminHandlers
from bot.telegram.chat import ChatHandlers
from bot.telegram.commands import FOR_ADMINS, FOR_EVERYBODY, FOR_GROUPS
from bot.telegram.documents import DocumentHandlers
from bot.telegram.gate import Gate
from bot.telegram.inbox import InboxQueue
from bot.telegram.keyboard import acknowledge
from bot.telegram.learning import LEARNING_PATTERN, LearningHandlers
from bot.telegram.order import InOrder
from bot.telegram.patience import Patience
from bot.telegram.privacy import FORGET_PATTERN, PrivacyHandlers
from bot.telegram.rating import RatingHandlers
from bot.telegram.trouble import on_error
from bot.telegram.welcome import WelcomeHandlers
from store.audit import AuditLog
from store.settings import Settings

logger = logging.getLogger(__name__)

ALLOWED_UPDATES = ["message", "callback_query", "message_reaction"]
POLL_SECONDS = 30
CALL_SECONDS = 20.0
FINISH_SECONDS = 60.0
"""How long replies that are being written at the end may take to be finished."""

ACTION_CHARS = 200
"""Of a command, in the audit log."""

App: TypeAlias = "Application[Any, Any, Any, Any, Any, Any]"
Handler: TypeAlias = Callable[[Update, ContextTypes.DEFAULT_TYPE], Coroutine[Any, Any, None]]


def build_application(
    settings: Settings,
    *,
    inbox: InboxQueue,
    audit: AuditLog,
    chat: Chat,
    gate: Gate,
    talking: ChatHandlers,
    rating: RatingHandlers,
    documents: DocumentHandlers,
    privacy: PrivacyHandlers,
    admin: AdminHandlers,
    learning: LearningHandlers,
    request: HTTPXRequest | None = None,
) -> App:
    """An application with every handler in place, not yet started."""
    application = _without_handlers(settings, inbox, chat, request or _request(256))
    welcome = WelcomeHandlers(admins=settings.admins)
    by_admin = filters.ChatType.PRIVATE & filters.User(settings.admins)
    application.add_handler(TypeHandler(Update, gate.check), group=-2)
    application.add_handler(
        MessageHandler(filters.REPLY & ~filters.COMMAND, rating.on_correction), group=-1
    )
    for name, callback, who in (
        ("start", welcome.on_start, None),
        ("help", welcome.on_help, None),
        ("new", talking.on_new, None),
        ("why", talking.on_why, None),
        ("privacy", privacy.on_privacy, None),
        ("export", privacy.on_export, None),
        ("forget", privacy.on_forget, None),
        ("optout", privacy.on_opt_out, None),
        ("optin", privacy.on_opt_in, None),
        ("status", admin.on_status, by_admin),
        ("allow", admin.on_allow, by_admin),
        ("deny", admin.on_deny, by_admin),
        ("audit", admin.on_audit, by_admin),
        ("train", learning.on_train, by_admin),
        ("runs", learning.on_runs, by_admin),
        ("adapters", learning.on_adapters, by_admin),
        ("promote", learning.on_promote, by_admin),
        ("rollback", learning.on_rollback, by_admin),
        ("approve", learning.on_approve, by_admin),
        ("stats", learning.on_stats, by_admin),
        ("documents", documents.on_documents, by_admin),
        ("remove", documents.on_remove, by_admin),
    ):
        handler = callback if who is None else partial(_audited, audit, callback)
        application.add_handler(CommandHandler(name, handler, filters=who))
    application.add_handler(CallbackQueryHandler(privacy.on_forget_button, FORGET_PATTERN))
    application.add_handler(
        CallbackQueryHandler(
            partial(_for_admins, settings, partial(_audited, audit, learning.on_button)),
            LEARNING_PATTERN,
        )
    )
    application.add_handler(CallbackQueryHandler(rating.on_button))
    application.add_handler(MessageReactionHandler(rating.on_reaction))
    for wanted, on_message in (
        (filters.Document.ALL & by_admin, partial(_audited, audit, documents.on_file)),
        (filters.Document.ALL, documents.on_refused_file),
        (filters.COMMAND, talking.on_unknown_command),
        (filters.TEXT, talking.on_text),
        (~filters.StatusUpdate.ALL, talking.on_other),
    ):
        application.add_handler(MessageHandler(wanted, on_message))
    application.add_error_handler(on_error)
    return application


async def _audited(
    audit: AuditLog, handler: Handler, update: Update, context: ContextTypes.DEFAULT_TYPE
) -> None:
    """Kept before it is done: what fails, or ends the process, was asked for too."""
    user, message, query = update.effective_user, update.message, update.callback_query
    assert user is not None
    action = query.data if query is not None else message.text if message is not None else None
    if message is not None and message.document is not None:
        action = f"document {message.document.file_name}"
    await asyncio.to_thread(audit.note, user.id, user.full_name, (action or "")[:ACTION_CHARS])
    await handler(update, context)


async def _for_admins(
    settings: Settings, handler: Handler, update: Update, context: ContextTypes.DEFAULT_TYPE
) -> None:
    """Buttons can be pressed by whoever sees them, and an admin may be one no longer."""
    assert update.callback_query is not None
    if update.callback_query.from_user.id not in settings.admins:
        await acknowledge(update.callback_query, "That is for admins.")
        return
    await handler(update, context)


def _without_handlers(
    settings: Settings, inbox: InboxQueue, chat: Chat, request: HTTPXRequest
) -> App:
    assert settings.telegram_token is not None
    return (
        ApplicationBuilder()
        .token(settings.telegram_token.get_secret_value())
        .base_url(f"{settings.telegram_api_url}/bot")
        .base_file_url(f"{settings.telegram_file_url or settings.telegram_api_url + '/file'}/bot")
        .request(request)
        .get_updates_request(_request(1))
        .rate_limiter(Patience())
        .update_queue(inbox)
        .concurrent_updates(InOrder(chat, inbox))
        .build()
    )


async def serve(application: App, settings: Settings, stop: asyncio.Event) -> None:
    """Run until `stop` is set; what is being answered then is finished first.

    Raises `BotError` for a token that Telegram does not know. Waits as long as it takes for a
    Telegram that cannot be reached.
    """
    try:
        if await _unless_stopped(_start(application, settings), stop):
            logger.info("talking as @%s", application.bot.username)
            await stop.wait()
    finally:
        await _wind_up(application)


async def _start(application: App, settings: Settings) -> None:
    await _initialize(application)
    await application.start()
    try:
        await _listen(application, settings)
    except (TelegramError, OSError) as error:
        raise BotError(f"cannot listen for updates: {error}") from error
    await set_commands(application, settings)


async def _wind_up(application: App) -> None:
    assert application.updater is not None
    if application.updater.running:
        await application.updater.stop()
    if application.running:
        with suppress(TimeoutError):
            await asyncio.wait_for(application.stop(), FINISH_SECONDS)
    await application.shutdown()
    await application.bot.shutdown()  # its connections, when it never was initialized


async def _unless_stopped(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> bool:
    """Do the work, unless `stop` is set before it is done; whether it was done."""
    doing, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if doing.done():
        await doing
        return True
    doing.cancel()
    await asyncio.wait((doing,))
    return False


async def set_commands(application: App, settings: Settings) -> None:
    """Menus: people see what they may do, admins see what they may do."""
    bot = application.bot
    try:
        await bot.set_my_commands(FOR_EVERYBODY, BotCommandScopeAllPrivateChats())
        await bot.set_my_commands(FOR_GROUPS, BotCommandScopeAllGroupChats())
    except TelegramError as error:
        logger.warning("the command menus could not be set: %s", error)
    for admin_id in sorted(settings.admins):
        try:
            await bot.set_my_commands(FOR_ADMINS, BotCommandScopeChat(admin_id))
        except BadRequest:
            logger.info("admin %d has not talked to the bot yet: no menu for them", admin_id)
        except TelegramError as error:
            logger.warning("the menu of admin %d could not be set: %s", admin_id, error)


async def _initialize(application: App) -> None:
    pause = 1.0
    while True:
        try:
            await application.initialize()
        except InvalidToken:
            raise BotError(
                "Telegram does not know this token: check RATCHET_TELEGRAM_TOKEN"
            ) from None
        except NetworkError as error:
            logger.warning("Telegram cannot be reached (%s): again in %.0f s", error, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 60.0)
        else:
            return


async def _listen(application: App, settings: Settings) -> None:
    updater = application.updater
    assert updater is not None
    if not settings.webhook_url:
        await updater.start_polling(
            timeout=POLL_SECONDS,
            allowed_updates=ALLOWED_UPDATES,
            bootstrap_retries=-1,
            error_callback=_on_polling_error,
        )
        return
    assert settings.webhook_secret is not None
    host, _, port = settings.webhook_listen.rpartition(":")
    await updater.start_webhook(
        listen=host,
        port=int(port),
        url_path=settings.webhook_url.partition("://")[2].partition("/")[2],
        webhook_url=settings.webhook_url,
        secret_token=_Secret(settings.webhook_secret.get_secret_value()),
        allowed_updates=ALLOWED_UPDATES,
        bootstrap_retries=-1,
    )


class _Secret(str):
    """A text whose comparison takes as long for a near miss as for any other.

    python-telegram-bot compares what came with `!=`, which Python leaves to the derived class.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and hmac.compare_digest(self.encode(), other.encode())

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def _on_polling_error(error: TelegramError) -> None:
    # The library goes on by itself; its own report would be a traceback a second.
    if isinstance(error, Conflict):
        logger.error("another bot polls with the same token: stop one of the two")
    else:
        logger.warning("polling failed: %s", error)


def _request(connections: int) -> HTTPXRequest:
    return HTTPXRequest(
        connection_pool_size=connections,
        connect_timeout=CALL_SECONDS,
        read_timeout=CALL_SECONDS,
        write_timeout=CALL_SECONDS,
        pool_timeout=CALL_SECONDS,
        media_write_timeout=3 * CALL_SECONDS,
    )
