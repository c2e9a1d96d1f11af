"""Wires the handlers into python-telegram-bot.

Group -2 decides who may talk, group -1 takes corrections, and group 0 does everything else; there
the first handler that fits an update gets it.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from telegram import LinkPreviewOptions, Update
from telegram.ext import (
    Application,
    ApplicationBuilder,
    CallbackQueryHandler,
    CommandHandler,
    ContextTypes,
    Defaults,
    MessageHandler,
    MessageReactionHandler,
    TypeHandler,
    filters,
)
from telegram.request import HTTPXRequest

from bot.telegram.buttons import (
    AccessButton,
    ApprovalButton,
    ConsentButton,
    ForgetButton,
    GroupButton,
    ReleaseButton,
    parse_training,
)
from bot.telegram.commands import COMMANDS, Audience, Handler
from bot.telegram.error_messages import ErrorMessages
from bot.telegram.handlers import Handlers
from bot.telegram.keyboard import acknowledge
from bot.telegram.outgoing import Outgoing
from store.audit import AuditEntries
from store.settings_slices import TelegramSettings

CALL_SECONDS = 20.0
"""Timeout of a call to Telegram; sending a file may take three times as long."""

CONNECTIONS = 256
"""Calls to Telegram at the same time, at most."""

App: TypeAlias = "Application[Any, Any, Any, Any, Any, Any]"


def build_application(
    telegram: TelegramSettings,
    handlers: Handlers,
    *,
    admins: frozenset[int],
    audit: AuditEntries,
    errors: ErrorMessages,
    outgoing: Outgoing,
    request: HTTPXRequest | None = None,
) -> App:
    """Return an application with every handler in place, not yet started.

    It handles the updates that it is given, and asks for none itself.
    """
    application = _without_handlers(telegram, outgoing, request or _request(CONNECTIONS))
    by_admin = filters.ChatType.PRIVATE & filters.User(admins)
    application.add_handler(TypeHandler(Update, handlers.gate.check), group=-2)
    application.add_handler(
        MessageHandler(filters.REPLY & ~filters.COMMAND, handlers.rating.on_correction), group=-1
    )
    _add_commands(application, handlers, audit, by_admin)
    _add_buttons(application, handlers, audit, admins)
    application.add_handler(MessageReactionHandler(handlers.rating.on_reaction))
    _add_messages(application, handlers, audit, by_admin)
    application.add_error_handler(errors.on_error)
    return application


def _add_commands(
    application: App, handlers: Handlers, audit: AuditEntries, by_admin: filters.BaseFilter
) -> None:
    for command in COMMANDS:
        handler = command.handler(handlers)
        if command.audience is Audience.ADMINS:
            audited = partial(_audited, audit, handler)
            application.add_handler(CommandHandler(command.name, audited, filters=by_admin))
        else:
            application.add_handler(CommandHandler(command.name, handler))


def _add_buttons(
    application: App, handlers: Handlers, audit: AuditEntries, admins: frozenset[int]
) -> None:
    def add(parse: Callable[[object], object], handler: Handler) -> None:
        application.add_handler(
            CallbackQueryHandler(handler, pattern=lambda data: parse(data) is not None)
        )

    def add_for_admins(parse: Callable[[object], object], handler: Handler) -> None:
        add(parse, partial(_for_admins, admins, partial(_audited, audit, handler)))

    add(AccessButton.parse_request, handlers.access.on_ask)
    add_for_admins(AccessButton.parse, handlers.access.on_button)
    add(ForgetButton.parse, handlers.privacy.on_forget_button)
    add(ConsentButton.parse, handlers.consent.on_button)
    add(GroupButton.parse, handlers.group.on_button)
    add_for_admins(parse_training, handlers.learning.on_button)
    add_for_admins(ApprovalButton.parse, handlers.approval.on_button)
    add_for_admins(ReleaseButton.parse, handlers.quarantine.on_button)
    application.add_handler(CallbackQueryHandler(handlers.rating.on_button))


def _add_messages(
    application: App, handlers: Handlers, audit: AuditEntries, by_admin: filters.BaseFilter
) -> None:
    on_file = partial(_audited, audit, handlers.documents.on_file)
    application.add_handler(MessageHandler(filters.Document.ALL & by_admin, on_file))
    application.add_handler(
        MessageHandler(filters.Document.ALL, handlers.documents.on_refused_file)
    )
    application.add_handler(MessageHandler(filters.COMMAND, handlers.talking.on_unknown_command))
    application.add_handler(MessageHandler(filters.TEXT, handlers.talking.on_text))
    application.add_handler(MessageHandler(~filters.StatusUpdate.ALL, handlers.talking.on_other))


async def _audited(
    audit: AuditEntries, handler: Handler, update: Update, context: ContextTypes.DEFAULT_TYPE
) -> None:
    """Write an admin's command to the audit log, then carry it out.

    In this order, so that the log also has commands that fail or end the process.
    """
    user = update.effective_user
    assert user is not None
    note = partial(audit.note, _action(update), name=user.full_name, person_id=user.id)
    await asyncio.to_thread(note)
    await handler(update, context)


def _action(update: Update) -> str:
    if update.callback_query is not None:
        return update.callback_query.data or ""
    assert update.message is not None
    document = update.message.document
    return f"document {document.file_name}" if document else update.message.text or ""


async def _for_admins(
    admins: frozenset[int], handler: Handler, update: Update, context: ContextTypes.DEFAULT_TYPE
) -> None:
    """Call the handler if an admin has tapped: whoever sees a button can tap it."""
    assert update.callback_query is not None
    if update.callback_query.from_user.id not in admins:
        await acknowledge(update.callback_query, "Only admins can do that.")
        return
    await handler(update, context)


def _without_handlers(telegram: TelegramSettings, outgoing: Outgoing, request: HTTPXRequest) -> App:
    assert telegram.token is not None
    return (
        ApplicationBuilder()
        .token(telegram.token.get_secret_value())
        .base_url(f"{telegram.api_url}/bot")
        .base_file_url(f"{telegram.file_url}/bot")
        .request(request)
        .get_updates_request(request)  # nobody asks with it: polling.py has its own
        .rate_limiter(outgoing)
        .defaults(
            Defaults(
                link_preview_options=LinkPreviewOptions(is_disabled=True),
                allow_sending_without_reply=True,  # the message may be deleted meanwhile
            )
        )
        .updater(None)
        .job_queue(None)
        .build()
    )


def poll_request() -> HTTPXRequest:
    """Return the connection on which updates are asked for, beside those of other calls."""
    return _request(1)


def _request(connections: int) -> HTTPXRequest:
    return HTTPXRequest(
        connection_pool_size=connections,
        connect_timeout=CALL_SECONDS,
        read_timeout=CALL_SECONDS,
        write_timeout=CALL_SECONDS,
        pool_timeout=CALL_SECONDS,
        media_write_timeout=3 * CALL_SECONDS,
    )
