"""Tells people in a short sentence what went wrong, and the log the cause."""

import logging
import secrets

from telegram import Update
from telegram.error import Forbidden, TelegramError
from telegram.ext import ApplicationHandlerStop, ContextTypes

from bot.engine.errors import EngineBusy
from bot.errors import BotError, ReplyFailed
from bot.telegram.outgoing import NotSent
from bot.telegram.retries import is_passing
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


class ErrorMessages:
    """Tells people of errors, and the dispatcher of faults that are no fault of an update."""

    def __init__(self) -> None:
        self._faults: dict[int, Exception] = {}

    def take(self, update_id: int) -> Exception | None:
        """Return the fault of the database or the network that an update met, once."""
        return self._faults.pop(update_id, None)

    async def on_error(self, update: object, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Tell the person of an error in a handler; the bot goes on with the next update.

        Raises `ApplicationHandlerStop`: after an error in the admission no other handler may run.
        """
        assert context.error is not None
        try:
            await self._tell(update, context.error)
        except Exception:
            logger.exception("the person could not be told of an error")
        raise ApplicationHandlerStop

    async def _tell(self, update: object, error: Exception) -> None:
        if isinstance(error, Forbidden):
            logger.info("a person or a group has blocked or removed the bot: %s", error)
            return
        is_fault = isinstance(error, DatabaseUnavailable | NotSent) or is_passing(error)
        if isinstance(update, Update) and is_fault:
            self._faults[update.update_id] = error
            return
        message = update.effective_message if isinstance(update, Update) else None
        sentence = explain(error)
        if message is None:
            return
        try:
            await message.reply_text(sentence)
        except TelegramError as failed:
            logger.warning("the person could not be told of the error: %s", failed)
