"""Errors of the bot, beside those of the engine and the store.

BotError
├── ConversationBusy    too many messages of one conversation are waiting
├── QuestionTooLong     a message does not fit into the model's context
├── QuotaReached        a person has reached a limit for now
├── ReplyFailed         the engine could not answer; the cause is chained
└── UsageError          a command was used wrongly
"""


class BotError(Exception):
    """Base of the bot's errors; their messages can be shown to people."""


class ConversationBusy(BotError):
    """Too many messages of one conversation are waiting."""

    def __init__(self, waiting: int) -> None:
        super().__init__(
            f"I am still answering {waiting} earlier messages here. Please send that again later."
        )


class QuestionTooLong(BotError):
    """A message does not fit into the model's context."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"That is too long for me: {tokens} tokens, and I can read {limit}. "
            "Please send it in parts."
        )


class QuotaReached(BotError):
    """A person has reached a limit for now."""


class ReplyFailed(BotError):
    """The engine could not answer; the cause is chained."""


class UsageError(BotError):
    """A command was used wrongly."""
