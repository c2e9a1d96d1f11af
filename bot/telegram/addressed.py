"""Tells which messages are meant for the bot, where they were sent, and by whom."""

from telegram import Message, MessageEntity, Update

from bot.recent import Recent
from bot.telegram.commands import NAMES
from store.domain import Place

REMEMBERED = 256
"""Messages whose addressed text is remembered, for it is asked for several times an update."""

_remembered: Recent[int, tuple[Message, str | None]] = Recent(REMEMBERED)
"""Addressed text by the identity of its message, which is held so that the identity stays its."""


def message_and_person(update: Update) -> tuple[Message, int]:
    """Return the message of a command or an ordinary update, and the id of its sender."""
    assert update.effective_message is not None
    assert update.effective_user is not None
    return update.effective_message, update.effective_user.id


def place_of(message: Message) -> Place:
    """Return the chat and, in a forum, the topic; a plain reply thread is no topic."""
    topic = message.message_thread_id if message.is_topic_message else None
    return Place(chat_id=message.chat_id, thread_id=topic or 0)


def is_private(message: Message) -> bool:
    """Return whether the message was sent in a private chat."""
    return message.chat.type == "private"


def command_of(message: Message) -> str | None:
    """Return the command that begins a message, without slash and bot name, in lower case."""
    return _command_and_bot(message)[0] or None


def addressed_text(message: Message) -> str | None:
    """Return the text that is meant for the bot; None when the message is not for it.

    In a private chat everything is for the bot. In a group only its own commands, mentions of it
    and replies to it are. The mention itself is taken out of the text.
    """
    known = _remembered.get(id(message))
    if known is not None:
        return known[1]
    text = _addressed_text(message)
    _remembered[id(message)] = (message, text)
    return text


def is_for_us(update: Update) -> bool:
    """Return whether the bot may read the update: in groups only what is addressed to it."""
    user, message = update.effective_user, update.message
    if user is None or user.is_bot:
        return False
    query = update.callback_query
    if query is not None:  # its data is what the bot put there
        return bool(query.data or query.game_short_name)
    if message is None:  # edits and channel posts are not read
        return update.message_reaction is not None
    return message.migrate_to_chat_id is not None or addressed_text(message) is not None


def _addressed_text(message: Message) -> str | None:
    bot = message.get_bot()
    text = message.text or message.caption or ""
    command, other = _command_and_bot(message)
    if command:
        ours = other == bot.username.lower() if other else command in NAMES
        return text if ours or (is_private(message) and not other) else None
    entities = message.entities or message.caption_entities or ()
    mentions = [
        entity
        for entity in entities
        if entity.type == "mention" and _covered(text, entity).lower() == bot.name.lower()
    ]
    for entity in reversed(mentions):
        text = _without(text, entity)
    if mentions or is_private(message) or _replies_to(message, bot.id):
        return text.strip()
    return None


def _command_and_bot(message: Message) -> tuple[str, str]:
    """Return the parts of a leading `/command@bot` in lower case, empty where there is none."""
    first = next(iter(message.entities or ()), None)
    if first is None or first.type != "bot_command" or first.offset != 0:
        return "", ""
    command, _, bot = _covered(message.text or "", first)[1:].lower().partition("@")
    return command, bot


def _replies_to(message: Message, bot_id: int) -> bool:
    original = message.reply_to_message
    if original is None or original.from_user is None or original.forum_topic_created:
        return False
    return original.from_user.id == bot_id


def _covered(text: str, entity: MessageEntity) -> str:
    units = text.encode("utf-16-le")  # Telegram counts in UTF-16 units
    covered = units[2 * entity.offset : 2 * (entity.offset + entity.length)]
    return covered.decode("utf-16-le", "ignore")


def _without(text: str, entity: MessageEntity) -> str:
    units = text.encode("utf-16-le")
    rest = units[: 2 * entity.offset] + units[2 * (entity.offset + entity.length) :]
    return rest.decode("utf-16-le", "ignore")
