"""What a person is told when something goes wrong, and what the log is told."""

import logging
import secrets

from telegram import Update
from telegram.error import BadRequest, Forbidden, TelegramError
from telegram.ext import ContextTypes

from bot.engine.errors import EngineBusy
from bot.errors import BotError, ReplyFailed
from store.errors import DatabaseUnavailable, DocumentError

logger = logging.getLogger(__name__)


def explain(error: BaseException) -> str:
    """A short sentence for the person; what nobody foresaw also gets an id, and a traceback."""
    if isinstance(error, EngineBusy):
        return f"I am busy, with {error.waiting} replies to write first. Please try again soon."
    if isinstance(error, BotError | DocumentError) and not isinstance(error, ReplyFailed):
        return str(error)
    if isinstance(error, DatabaseUnavailable):
        logger.error("%s", error)
        return "My database is away. Please try again in a minute."
    error_id = secrets.token_hex(4)
    logger.error("error %s", error_id, exc_info=error)
    return f"Something went wrong (error {error_id}). Please try again."


async def on_error(update: object, context: ContextTypes.DEFAULT_TYPE) -> None:
    """The outermost edge: nothing that happens in a handler stops the bot."""
    error = context.error
    assert error is not None
    if isinstance(error, Forbidden):
        logger.info("somebody has blocked the bot or removed it: %s", error)
        return
    sentence = explain(error)
    message = update.effective_message if isinstance(update, Update) else None
    unreachable = isinstance(error, TelegramError) and not isinstance(error, BadRequest)
    if message is None or unreachable:
        return
    try:
        await message.reply_text(sentence)
    except TelegramError as failed:
        logger.warning("the person could not be told: %s", failed)
