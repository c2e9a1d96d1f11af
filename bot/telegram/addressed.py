"""Which messages are meant for the bot, and where they were said."""

from telegram import Message, MessageEntity, Update

from bot.telegram.commands import NAMES
from store.domain import Place


def place_of(message: Message) -> Place:
    """The chat, and in a forum the topic; a plain reply thread is no topic."""
    topic = message.message_thread_id if message.is_topic_message else None
    return Place(chat_id=message.chat_id, thread_id=topic or 0)


def is_private(message: Message) -> bool:
    """Whether nobody but the person reads along."""
    return message.chat.type == "private"


def command_of(message: Message) -> str | None:
    """The command that a message begins with, without slash and bot name, in lower case."""
    return _command_and_bot(message)[0] or None


def addressed_text(message: Message) -> str | None:
    """What the bot is told; None when the message is not for it.

    In a private chat everything is; elsewhere a command of its own (and of no other bot), a
    mention, or a reply to it. The mention itself is taken out of the text.
    """
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


def is_for_us(update: Update) -> bool:
    """Whether the bot may read it: of a group's talk, only what is said to the bot."""
    user, message = update.effective_user, update.message
    if user is None or user.is_bot:
        return False
    query = update.callback_query
    if query is not None:  # its data is what the bot put there
        return bool(query.data or query.game_short_name)
    if message is None:  # edits and posts, which Telegram may still have in its queue, are not
        return update.message_reaction is not None
    return message.migrate_to_chat_id is not None or addressed_text(message) is not None


def _command_and_bot(message: Message) -> tuple[str, str]:
    """What a message begins with, `/command@bot`, in lower case; empty what it does not say."""
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
