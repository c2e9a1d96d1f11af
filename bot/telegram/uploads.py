"""Documents: an admin sends a file, and the bot answers from it."""

import asyncio
import logging
import mimetypes

from telegram import Document as Attached
from telegram import Update
from telegram.error import BadRequest, NetworkError
from telegram.ext import ContextTypes
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_incrementing,
)

from bot.errors import BotError
from bot.telegram.addressed import message_and_person
from bot.telegram.render import MOST_UNITS
from bot.telegram.retries import is_passing
from store.documents.documents import Documents
from store.documents.parser import SUFFIXES
from store.domain import AddOutcome, Document

logger = logging.getLogger(__name__)

MAX_DOWNLOAD_BYTES = 20_000_000
"""Largest file that Telegram lets a bot download."""

DOWNLOAD_SECONDS = 60
DOWNLOAD_TRIES = 3

_ADDED = {
    AddOutcome.ADDED: "Added",
    AddOutcome.REPLACED: "Replaced the older version of",
    AddOutcome.UNCHANGED: "I already have",
}


class UploadHandlers:
    """Handles files from admins, `/documents` and `/remove`."""

    def __init__(self, *, knowledge: Documents) -> None:
        self._knowledge = knowledge

    async def on_file(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Add a file to the documents."""
        message, person_id = message_and_person(update)
        assert message.document is not None
        if (message.document.file_size or 0) > MAX_DOWNLOAD_BYTES:
            await message.reply_text(
                "This file is too large. I can download up to 20 MB; please send it in parts."
            )
            return
        document, outcome = await asyncio.to_thread(
            self._knowledge.add,
            _name_of(message.document),
            await _download(message.document),
            added_by=person_id,
        )
        await message.reply_text(
            f"{_ADDED[outcome]} “{document.title}”, passages: {document.chunks}. "
            "I can answer from it in a moment."
        )

    async def on_refused_file(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Refuse a file from a person who is no admin, or in a group."""
        message, _ = message_and_person(update)
        await message.reply_text(
            "I read files only from admins, in private. Please write to me in text."
        )

    async def on_documents(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/documents`: list the documents with their numbers."""
        message, _ = message_and_person(update)
        documents = await asyncio.to_thread(self._knowledge.documents)
        await message.reply_text(_listing(documents))

    async def on_remove(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/remove NUMBER`: remove a document."""
        message, _ = message_and_person(update)
        number = _number(context.args)
        if number is None:
            await message.reply_text(
                "Please give me a number, as in /remove 3. /documents shows the numbers."
            )
            return
        document = await asyncio.to_thread(self._knowledge.remove, number)
        await message.reply_text(f"Removed “{document.title}”.")


async def _download(attached: Attached) -> bytes:
    """Download a file. Raises `BotError` if Telegram refuses it, or cannot be reached."""
    # Downloads do not go through `Outgoing`, which knows only the bot's methods.
    retrying = AsyncRetrying(
        retry=retry_if_exception(is_passing),
        wait=wait_incrementing(start=0, increment=1),
        stop=stop_after_attempt(DOWNLOAD_TRIES),
        after=_log_failure,
        reraise=True,
    )
    try:
        return await retrying(_download_once, attached)
    except BadRequest as error:
        raise BotError(
            f"Telegram does not give me that file ({error.message}). Please send it again."
        ) from error
    except NetworkError as error:
        raise BotError(
            "I could not fetch that file from Telegram. Please send it again."
        ) from error


async def _download_once(attached: Attached) -> bytes:
    file = await attached.get_file()
    return bytes(await file.download_as_bytearray(read_timeout=DOWNLOAD_SECONDS))


def _log_failure(state: RetryCallState) -> None:
    assert state.outcome is not None
    logger.warning("a download failed: %s", state.outcome.exception())


def _name_of(attached: Attached) -> str:
    if attached.file_name:
        return attached.file_name
    suffix = mimetypes.guess_extension(attached.mime_type or "")
    return f"{attached.file_unique_id}{suffix if suffix in SUFFIXES else '.txt'}"


def _listing(documents: tuple[Document, ...]) -> str:
    if not documents:
        suffixes = " ".join(sorted(SUFFIXES))
        return f"I know no documents yet. Send me a file to add one ({suffixes})."
    lines = [
        f"{each.id}. {each.title} ({each.name}, passages: {each.chunks})"
        + ("" if each.indexed else " – being read")
        for each in documents
    ]
    text = "\n".join(lines)
    return text if len(text) < MOST_UNITS // 2 else _shortened(lines)


def _shortened(lines: list[str]) -> str:
    kept: list[str] = []
    while lines and sum(map(len, kept)) < MOST_UNITS // 2:
        kept.append(lines.pop(0)[:200])
    return "\n".join(
        [*kept, f"… and {len(lines)} more. On the server, ratchet knowledge list shows all."]
    )


def _number(arguments: list[str] | None) -> int | None:
    if arguments and len(arguments) == 1 and arguments[0].isdecimal():
        return int(arguments[0])
    return None
