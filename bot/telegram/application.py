"""Wires the conversations into python-telegram-bot."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeAlias

from telegram import Update
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
from bot.telegram.admin import AdminHandlers
from bot.telegram.admission import Admission
from bot.telegram.approval import APPROVAL_PATTERN, ApprovalHandlers
from bot.telegram.consent import CONSENT_PATTERN, Consent
from bot.telegram.error_messages import on_error
from bot.telegram.group import GROUP_PATTERN, GroupHandlers
from bot.telegram.inbox import InboxQueue
from bot.telegram.invitation import InvitationHandlers
from bot.telegram.keyboard import acknowledge
from bot.telegram.order import InOrder
from bot.telegram.privacy import FORGET_PATTERN, PrivacyHandlers
from bot.telegram.quarantine import RELEASE_PATTERN, QuarantineHandlers
from bot.telegram.questions import QuestionHandlers
from bot.telegram.rating import RatingHandlers
from bot.telegram.retries import RetryingRateLimiter
from bot.telegram.training import LEARNING_PATTERN, TrainingHandlers
from bot.telegram.uploads import UploadHandlers
from bot.telegram.welcome import WelcomeHandlers
from store.audit import AuditEntries
from store.settings_slices import TelegramSettings

CALL_SECONDS = 20.0

ACTION_CHARS = 200
"""Of a command, in the audit log."""

App: TypeAlias = "Application[Any, Any, Any, Any, Any, Any]"
Handler: TypeAlias = Callable[[Update, ContextTypes.DEFAULT_TYPE], Coroutine[Any, Any, None]]


def build_application(
    telegram: TelegramSettings,
    *,
    admins: frozenset[int],
    inbox: InboxQueue,
    audit: AuditEntries,
    chat: Chat,
    gate: Admission,
    talking: QuestionHandlers,
    rating: RatingHandlers,
    documents: UploadHandlers,
    privacy: PrivacyHandlers,
    consent: Consent,
    admin: AdminHandlers,
    learning: TrainingHandlers,
    approval: ApprovalHandlers,
    quarantine: QuarantineHandlers,
    invitation: InvitationHandlers,
    group: GroupHandlers,
    limiter: RetryingRateLimiter,
    request: HTTPXRequest | None = None,
) -> App:
    """An application with every handler in place, not yet started."""
    application = _without_handlers(telegram, inbox, chat, limiter, request or _request(256))
    welcome = WelcomeHandlers(admins=admins)
    by_admin = filters.ChatType.PRIVATE & filters.User(admins)
    application.add_handler(TypeHandler(Update, gate.check), group=-2)
    application.add_handler(
        MessageHandler(filters.REPLY & ~filters.COMMAND, rating.on_correction), group=-1
    )
    for name, callback, who in (
        ("start", partial(_one_after_another, (welcome.on_start, privacy.on_start)), None),
        ("help", welcome.on_help, None),
        ("new", talking.on_new, None),
        ("why", talking.on_why, None),
        ("group", group.on_group, None),
        ("privacy", privacy.on_privacy, None),
        ("export", privacy.on_export, None),
        ("forget", privacy.on_forget, None),
        ("optout", privacy.on_opt_out, None),
        ("optin", privacy.on_opt_in, None),
        ("status", admin.on_status, by_admin),
        ("invite", invitation.on_invite, by_admin),
        ("allow", admin.on_allow, by_admin),
        ("deny", admin.on_deny, by_admin),
        ("audit", admin.on_audit, by_admin),
        ("train", learning.on_train, by_admin),
        ("runs", learning.on_runs, by_admin),
        ("adapters", learning.on_adapters, by_admin),
        ("promote", learning.on_promote, by_admin),
        ("rollback", learning.on_rollback, by_admin),
        ("approve", approval.on_approve, by_admin),
        ("stats", learning.on_stats, by_admin),
        ("quarantine", quarantine.on_quarantine, by_admin),
        ("documents", documents.on_documents, by_admin),
        ("remove", documents.on_remove, by_admin),
    ):
        handler = callback if who is None else partial(_audited, audit, callback)
        application.add_handler(CommandHandler(name, handler, filters=who))
    application.add_handler(CallbackQueryHandler(privacy.on_forget_button, FORGET_PATTERN))
    application.add_handler(CallbackQueryHandler(consent.on_button, CONSENT_PATTERN))
    application.add_handler(CallbackQueryHandler(group.on_button, GROUP_PATTERN))
    for pattern, pressed in (
        (LEARNING_PATTERN, learning.on_button),
        (APPROVAL_PATTERN, approval.on_button),
        (RELEASE_PATTERN, quarantine.on_button),
    ):
        by_an_admin = partial(_for_admins, admins, partial(_audited, audit, pressed))
        application.add_handler(CallbackQueryHandler(by_an_admin, pattern))
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


async def _one_after_another(
    handlers: Sequence[Handler], update: Update, context: ContextTypes.DEFAULT_TYPE
) -> None:
    for handler in handlers:
        await handler(update, context)


async def _audited(
    audit: AuditEntries, handler: Handler, update: Update, context: ContextTypes.DEFAULT_TYPE
) -> None:
    """Kept before it is done: what fails, or ends the process, was asked for too."""
    user = update.effective_user
    assert user is not None
    await asyncio.to_thread(audit.note, user.id, user.full_name, _action(update)[:ACTION_CHARS])
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
    """Buttons can be pressed by whoever sees them, and an admin may be one no longer."""
    assert update.callback_query is not None
    if update.callback_query.from_user.id not in admins:
        await acknowledge(update.callback_query, "That is for admins.")
        return
    await handler(update, context)


def _without_handlers(
    telegram: TelegramSettings,
    inbox: InboxQueue,
    chat: Chat,
    limiter: RetryingRateLimiter,
    request: HTTPXRequest,
) -> App:
    assert telegram.token is not None
    return (
        ApplicationBuilder()
        .token(telegram.token.get_secret_value())
        .base_url(f"{telegram.api_url}/bot")
        .base_file_url(f"{telegram.file_url}/bot")
        .request(request)
        .get_updates_request(_request(1))
        .rate_limiter(limiter)
        .update_queue(inbox)
        .concurrent_updates(InOrder(chat, inbox))
        .build()
    )


def _request(connections: int) -> HTTPXRequest:
    return HTTPXRequest(
        connection_pool_size=connections,
        connect_timeout=CALL_SECONDS,
        read_timeout=CALL_SECONDS,
        write_timeout=CALL_SECONDS,
        pool_timeout=CALL_SECONDS,
        media_write_timeout=3 * CALL_SECONDS,
    )
