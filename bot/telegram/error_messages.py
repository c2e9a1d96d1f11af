"""Tells people in a short sentence what went wrong, and the log the cause."""

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
    """Return a short sentence about an error for the person whom it met.

    An unexpected error also gets an id, under which the log has its traceback.
    """
    if isinstance(error, EngineBusy):
        return f"I am busy: {error.waiting} answers come first. Please try again soon."
    if isinstance(error, BotError | DocumentError) and not isinstance(error, ReplyFailed):
        return plain_sentence(str(error))
    if isinstance(error, DatabaseUnavailable):
        logger.error("%s", error)
        return "I cannot reach my database. Please try again in a minute."
    error_id = secrets.token_hex(4)
    logger.error("error %s", error_id, exc_info=error)
    return f"Something went wrong (error {error_id}). Please try again."


def plain_sentence(text: str) -> str:
    """Return an error's text as a sentence: a capital letter, a full stop, no backticks."""
    text = text.replace("`", "").strip()
    first = text.split(maxsplit=1)[0] if text else ""
    if first.isalpha() and first.islower():  # not the name of a file
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


async def on_error(update: object, context: ContextTypes.DEFAULT_TYPE) -> None:
    """Tell the person of an error in a handler; the bot goes on."""
    error = context.error
    assert error is not None
    if isinstance(error, Forbidden):
        logger.info("a person or a group has blocked or removed the bot: %s", error)
        return
    sentence = explain(error)
    message = update.effective_message if isinstance(update, Update) else None
    unreachable = isinstance(error, TelegramError) and not isinstance(error, BadRequest)
    if message is None or unreachable:
        return
    try:
        await message.reply_text(sentence)
    except TelegramError as failed:
        logger.warning("the person could not be told of the error: %s", failed)
