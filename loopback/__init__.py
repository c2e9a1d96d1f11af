"""A loopback Telegram: the Bot API over HTTP, and the people who talk to the bot.

    async with BotApi(token=TOKEN) as api:
        ada = api.user(1, first_name="Ada")
        chat = api.private(ada)
        asked = await chat.send(ada, "hello")
        reply = await chat.wait_reply(asked)
        answer = await chat.tap(ada, reply.id, "👍")

The bot under test is a real one, in this process or another, whose python-telegram-bot has
`base_url=f"{api.url}/bot"` and `base_file_url=f"{api.url}/file/bot"`. It listens on
127.0.0.1 only. Telegram's limits and error texts are kept where a bot can notice; channels,
albums, payments, inline mode, Markdown parsing and privacy mode are left out.

`python -m loopback --port 8081 --token T` serves the same by hand, with a small console.
"""

from loopback.bot_api import BotApi
from loopback.objects import (
    Attachment,
    Call,
    CallbackAnswer,
    Draft,
    MediaKind,
    Message,
    Revision,
    User,
)
from loopback.telegram_chat import Chat, any_message, is_final
from loopback.wire import Fault, drop_after, drop_before, flood, server_error, timeout

__all__ = [
    "Attachment",
    "BotApi",
    "Call",
    "CallbackAnswer",
    "Chat",
    "Draft",
    "Fault",
    "MediaKind",
    "Message",
    "Revision",
    "User",
    "any_message",
    "drop_after",
    "drop_before",
    "flood",
    "is_final",
    "server_error",
    "timeout",
]
