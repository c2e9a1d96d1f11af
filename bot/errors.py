"""What can go wrong in the bot, beside the engine and the store.

BotError
├── ConversationBusy    too many messages of one conversation wait for their turn
├── QuestionTooLong     a message that does not fit into the model's context
├── QuotaReached        somebody has asked for as much as they may, for now
├── ReplyFailed         the engine could not answer; the cause is chained
└── UsageError          a command was used wrongly
"""


class BotError(Exception):
    """Base of everything the bot raises on purpose; the message is fit to be shown."""


class ConversationBusy(BotError):
    """Too many messages of one conversation wait for their turn."""

    def __init__(self, waiting: int) -> None:
        super().__init__(
            f"I am still answering {waiting} earlier messages here. Please send that again later."
        )


class QuestionTooLong(BotError):
    """A message that does not fit into the model's context."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"That is too long for me: {tokens} tokens, and I can read {limit}. "
            "Please send it in parts."
        )


class QuotaReached(BotError):
    """Somebody has asked for as much as they may, for now."""


class ReplyFailed(BotError):
    """The engine could not answer; the cause is chained."""


class UsageError(BotError):
    """A command was used wrongly."""
