"""Raw updates: what can be told of an update before anything parses it.

Each function takes any JSON value and never fails, so that no update can stop those behind it.
"""

import math
import re
from typing import Any

KINDS = ("message", "callback_query", "message_reaction")
"""The kinds of updates that are asked for and handled."""

ANONYMOUS_ADMIN = 1087968824
"""The user that Telegram names as the sender of what an anonymous admin writes."""

_UNFIT = re.compile("[\x00\ud800-\udfff]")
"""Characters that no database takes: NUL, and halves of surrogate pairs."""


def cleaned(value: Any) -> Any:
    """Return a JSON value with U+FFFD in place of characters that cannot be stored.

    None takes the place of numbers that JSON does not know, such as NaN.
    """
    if isinstance(value, str):
        return _UNFIT.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [cleaned(each) for each in value]
    if isinstance(value, dict):
        return {cleaned(name): cleaned(each) for name, each in value.items()}
    return value


def id_of(update: Any) -> int | None:
    """Return an update's id; None for what is no update."""
    return _integer(_get(update, "update_id"))


def kind_of(update: Any) -> str | None:
    """Return the kind of an update; None for kinds that are not handled."""
    return next((kind for kind in KINDS if _get(update, kind) is not None), None)


def person_of(update: Any) -> int | None:
    """Return the id of the person who sent an update, if any."""
    content = _content(update)
    for name in ("from", "user"):
        found = _integer(_get(_get(content, name), "id"))
        if found is not None:
            return found
    return None


def chat_of(update: Any) -> int | None:
    """Return the id of the chat that an update comes from, if any."""
    content = _content(update)
    for holder in (content, _get(content, "message")):
        found = _integer(_get(_get(holder, "chat"), "id"))
        if found is not None:
            return found
    return None


def may_be_for_us(update: Any, bot_id: int, username: str) -> bool:
    """Return whether an update may be meant for the bot; True in doubt.

    What a group says to others is told by its form: it begins with no command, does not mention the
    bot, and replies to no message of the bot.
    """
    kind = kind_of(update)
    if kind != "message":
        return kind is not None
    message = _content(update)
    if _get(_get(message, "from"), "is_bot") is True:
        return False
    if _get(message, "is_automatic_forward") is True:  # of a channel's posts, by nobody
        return False
    kind_of_chat = _get(_get(message, "chat"), "type")
    if kind_of_chat not in ("group", "supergroup"):
        return True
    if _get(message, "migrate_to_chat_id") is not None:
        return True
    if _integer(_get(_get(_get(message, "reply_to_message"), "from"), "id")) == bot_id:
        return True
    text = _get(message, "text") or _get(message, "caption") or ""
    if not isinstance(text, str):
        return True
    command = text.split(maxsplit=1)[0] if text.startswith("/") else ""
    return f"@{username}".lower() in text.lower() or (command != "" and "@" not in command)


def ids_fit(*ids: Any) -> bool:
    """Return whether ids that are given are numbers that every database takes."""
    return all(each is None or _integer(each) is not None for each in ids)


def with_anonymous_admin(update: Any) -> Any:
    """Return an update with a group as the sender of what its anonymous admins write.

    Telegram names a bot that stands for all anonymous admins of all groups (`ANONYMOUS_ADMIN`).
    """
    message = _get(update, "message")
    chat = _get(message, "chat")
    chat_id = _integer(_get(chat, "id"))
    is_anonymous = (
        _get(_get(message, "from"), "id") == ANONYMOUS_ADMIN
        and chat_id is not None
        and _get(_get(message, "sender_chat"), "id") == chat_id
    )
    if not is_anonymous:
        return update
    title = _get(chat, "title")
    group = {
        "id": chat_id,
        "is_bot": False,
        "first_name": title if isinstance(title, str) else "A group",
    }
    return {**update, "message": {**message, "from": group}}


def _content(update: Any) -> Any:
    kind = kind_of(update)
    return _get(update, kind) if kind else None


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _integer(value: Any) -> int | None:
    fits = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return value if fits else None
