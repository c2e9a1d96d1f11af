"""The state behind the loopback Bot API: accounts, chats, files, callback queries, commands.

It knows nothing of HTTP. `loopback.methods` is the bot's side of it and
`loopback.telegram_chat` the people's.
"""

import asyncio
import mimetypes
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from loopback.delivery import Clock, Signal, Updates
from loopback.objects import Attachment, CallbackAnswer, MediaKind, Message, User
from loopback.telegram_chat import Chat
from loopback.wire import ApiError, JsonObject, bad_request

T = TypeVar("T")

QUERY_TTL_SECONDS = 15


@dataclass(frozen=True, kw_only=True)
class Query:
    """A tapped button that waits for answerCallbackQuery."""

    asked_at: float
    answer: asyncio.Future[CallbackAnswer]


@dataclass(kw_only=True)
class World:
    """Everything one bot's Telegram holds."""

    bot: User
    clock: Clock
    updates: Updates
    signal: Signal
    users: dict[int, User] = field(default_factory=dict)
    chats: dict[int, Chat] = field(default_factory=dict)
    blocked: set[int] = field(default_factory=set)
    files: dict[str, Attachment] = field(default_factory=dict)
    queries: dict[str, Query] = field(default_factory=dict)
    commands: dict[tuple[str, str], list[JsonObject]] = field(default_factory=dict)
    _ids: "count[int]" = field(default_factory=lambda: count(1))
    _last_shared_message_id: int = 0

    def changed(self) -> None:
        """Tell every waiter to look again."""
        self.signal.changed()

    async def wait_for(self, predicate: Callable[[], T], timeout_seconds: float) -> T:
        """Wait as `Signal.wait_for` does; its TimeoutError says what the chats looked like."""
        try:
            return await self.signal.wait_for(predicate, timeout_seconds)
        except TimeoutError:
            last = [
                f"{chat.id}: {message.sender.first_name}: {message.text[:80]!r} {message.labels}"
                for chat in self.chats.values()
                for message in chat.messages[-3:]
            ]
            seen = "\n  ".join(last) or "no messages"
            raise TimeoutError(
                f"nothing after {timeout_seconds} s; chats end in\n  {seen}"
            ) from None

    def push(self, update: JsonObject) -> int | None:
        """Queue an update for the bot."""
        update_id = self.updates.push(update)
        self.changed()
        return update_id

    def next_message_id(self, chat: Chat, last: int) -> int:
        """Return a new message id; supergroups count alone, all other chats share one count."""
        if chat.is_supergroup:
            return last + 1
        self._last_shared_message_id += 1
        return self._last_shared_message_id

    def store(self, kind: MediaKind, name: str, mime_type: str, data: bytes) -> Attachment:
        """Keep a file under a new file_id and path."""
        number = next(self._ids)
        suffix = name.rpartition(".")[2] if "." in name else ""
        ending = f".{suffix}" if suffix else mimetypes.guess_extension(mime_type) or ""
        attachment = Attachment(
            kind=kind,
            file_id=f"F{number:08d}",
            file_path=f"{kind.value}s/file_{number}{ending}",
            name=name,
            mime_type=mime_type,
            data=data,
        )
        self.files[attachment.file_id] = attachment
        return attachment

    async def ask(
        self, user: User, chat: Chat, message: Message, data: str, timeout_seconds: float
    ) -> CallbackAnswer:
        """Send a callback query and return the bot's answer. Raises TimeoutError."""
        query_id = str(4_000_000_000 + next(self._ids))
        answer: asyncio.Future[CallbackAnswer] = asyncio.get_running_loop().create_future()
        self.queries[query_id] = Query(asked_at=self.clock(), answer=answer)
        self.push(
            {
                "callback_query": {
                    "id": query_id,
                    "from": user.json(),
                    "message": chat.json(message),
                    "chat_instance": str(abs(chat.id)),
                    "data": data,
                }
            }
        )
        # Shielded: a test that gives up must not make the bot's late answer an error here.
        async with asyncio.timeout(timeout_seconds):
            return await asyncio.shield(answer)

    def answer(self, query_id: str, answer: CallbackAnswer) -> None:
        """Answer a query once, while it is fresh. Raises ApiError otherwise."""
        query = self.queries.pop(query_id, None)
        if query is None or self.clock() - query.asked_at > QUERY_TTL_SECONDS:
            raise bad_request(
                "query is too old and response timeout expired or query ID is invalid"
            )
        query.answer.set_result(answer)
        self.changed()

    def set_blocked(self, user: User, blocked: bool) -> None:
        """Block or unblock the bot, which is told by a change of its membership."""
        states = ("member", "kicked") if blocked else ("kicked", "member")
        (self.blocked.add if blocked else self.blocked.discard)(user.id)
        old, new = (
            {"user": self.bot.json(), "status": state, "until_date": 0}
            if state == "kicked"
            else {"user": self.bot.json(), "status": state}
            for state in states
        )
        self.push(
            {
                "my_chat_member": {
                    "chat": self.chats[user.id].json_chat(),
                    "from": user.json(),
                    "date": int(self.clock()),
                    "old_chat_member": old,
                    "new_chat_member": new,
                }
            }
        )

    def reachable_chat(self, chat_id: int) -> Chat:
        """Return a chat the bot may write to. Raises ApiError for none or one that blocked it."""
        chat = self.known_chat(chat_id)
        if chat.is_private and chat_id in self.blocked:
            raise ApiError(403, "Forbidden: bot was blocked by the user")
        return chat

    def known_chat(self, chat_id: int) -> Chat:
        """Return the chat. Raises ApiError when there is none."""
        if (chat := self.chats.get(chat_id)) is None:
            raise bad_request("chat not found")
        return chat
