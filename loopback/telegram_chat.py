"""A chat of the loopback Telegram, with the acts of people and the messages that a test sees.

People's acts change the chat and queue the update the bot would get; acts that Telegram's
apps would not offer (a stranger writing, editing another's message) raise ValueError.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from loopback.objects import (
    Attachment,
    CallbackAnswer,
    Draft,
    MediaKind,
    Message,
    Revision,
    User,
)
from loopback.text import MAX_CAPTION, MAX_TEXT, automatic_entities, utf16_length
from loopback.wire import JsonObject

if TYPE_CHECKING:
    from loopback.world import World

DRAFT_TTL_SECONDS = 30


def is_final(message: Message) -> bool:
    """Return whether a bot's message is a finished reply, with buttons; notices have none."""
    return bool(message.buttons)


def any_message(message: Message) -> bool:
    """Accept every bot message, for `wait_reply(final=any_message)`."""
    return True


class Chat:
    """One private chat or group; made by `BotApi.private` and `BotApi.group`."""

    def __init__(
        self,
        world: "World",
        chat_id: int,
        *,
        members: Sequence[User],
        title: str | None = None,
        forum: bool = False,
        admins: Sequence[User] = (),
        bot_is_admin: bool = False,
    ) -> None:
        self._world = world
        self.id = chat_id
        self.title = title
        self.forum = forum
        self.members = {member.id: member for member in members}
        self.admins = tuple(admin.id for admin in admins)
        self.bot_is_admin = bot_is_admin
        self.draft_history: list[Draft] = []
        self._messages: dict[int, Message] = {}
        self._drafts: dict[int, Draft] = {}
        # In a forum, 1 is the id of the General topic.
        self._last_id = 1 if forum else 0

    @property
    def is_private(self) -> bool:
        """True if it is a person's chat with the bot."""
        return self.title is None

    @property
    def messages(self) -> list[Message]:
        """Messages that exist now, oldest first; deleted ones are gone."""
        return list(self._messages.values())

    @property
    def bot_messages(self) -> list[Message]:
        """The bot's messages that exist now, oldest first."""
        return [message for message in self._messages.values() if message.from_bot]

    @property
    def drafts(self) -> list[Draft]:
        """The drafts the person sees now: the latest frame of each that is under 30 s old."""
        oldest = self._world.clock() - DRAFT_TTL_SECONDS
        return [draft for draft in self._drafts.values() if draft.at > oldest]

    def find(self, message_id: int) -> Message | None:
        """Return the message as it is now, or None when there is none."""
        return self._messages.get(message_id)

    def message(self, message_id: int) -> Message:
        """Return the message as it is now. Raises LookupError when there is none."""
        if (message := self._messages.get(message_id)) is None:
            raise LookupError(f"no message {message_id} in chat {self.id}")
        return message

    async def send(
        self,
        user: User,
        text: str,
        *,
        reply_to: int | None = None,
        thread: int | None = None,
        entities: Sequence[JsonObject] | None = None,
    ) -> int:
        """Write `text` as `user`; commands, mentions and links are marked unless `entities`."""
        found = automatic_entities(text) if entities is None else entities
        return self._write(user, text, tuple(found), reply_to=reply_to, thread=thread)

    async def send_document(
        self,
        user: User,
        name: str,
        data: bytes,
        caption: str = "",
        *,
        mime_type: str = "application/octet-stream",
        reply_to: int | None = None,
        thread: int | None = None,
    ) -> int:
        """Send a file as `user`; over 20 MB the bot is told of it and cannot fetch it."""
        media = (MediaKind.DOCUMENT, name, mime_type, data)
        return self._send_media(user, media, caption, reply_to, thread)

    async def send_photo(
        self,
        user: User,
        data: bytes = b"jpeg",
        caption: str = "",
        *,
        reply_to: int | None = None,
        thread: int | None = None,
    ) -> int:
        """Send a photo as `user`; its bytes are stored as they are."""
        media = (MediaKind.PHOTO, "photo.jpg", "image/jpeg", data)
        return self._send_media(user, media, caption, reply_to, thread)

    async def send_voice(
        self, user: User, data: bytes = b"ogg", *, thread: int | None = None
    ) -> int:
        """Send a voice message of one second as `user`."""
        return self._send_media(
            user, (MediaKind.VOICE, "voice.oga", "audio/ogg", data), "", None, thread
        )

    async def send_sticker(
        self, user: User, data: bytes = b"webp", *, thread: int | None = None
    ) -> int:
        """Send a still sticker as `user`."""
        return self._send_media(
            user, (MediaKind.STICKER, "sticker.webp", "image/webp", data), "", None, thread
        )

    async def edit(self, user: User, message_id: int, text: str) -> None:
        """Edit `user`'s own text or caption."""
        message = self.message(message_id)
        if message.sender.id != user.id:
            raise ValueError(f"{user.first_name} cannot edit a message of someone else")
        edited = self.revise(message, text, tuple(automatic_entities(text)), message.markup)
        self._world.push({"edited_message": self.json(edited)})

    async def delete(self, user: User, message_id: int) -> None:
        """Delete a message as `user`; as at Telegram, the bot is told nothing."""
        self.message(message_id)
        self.remove(message_id)

    async def tap(
        self, user: User, message_id: int, button: str, *, timeout: float = 5
    ) -> CallbackAnswer:
        """Tap, as `user`, the button whose label begins with `button`, or whose data is that.

        Returns the bot's answer. Raises LookupError when there is no such button and
        TimeoutError when the bot does not answer in time.
        """
        message = self.message(message_id)
        for candidate in message.buttons:
            data = candidate.get("callback_data")
            if data is not None and (data == button or candidate["text"].startswith(button)):
                return await self.tap_data(user, message_id, str(data), timeout=timeout)
        raise LookupError(f"message {message_id} has no button {button!r}: {message.labels}")

    async def tap_data(
        self, user: User, message_id: int, data: str, *, timeout: float = 5
    ) -> CallbackAnswer:
        """Send any callback data, as a forged client could; otherwise like `tap`."""
        self._require_member(user)
        return await self._world.ask(user, self, self.message(message_id), data, timeout)

    async def react(self, user: User, message_id: int, emoji: Sequence[str]) -> None:
        """Replace `user`'s reactions on a message; an empty list takes them away.

        In a group Telegram tells only a bot that is an administrator.
        """
        self._require_member(user)
        message = self.message(message_id)
        old = message.reactions.get(user.id, ())
        self.set_reactions(message, user, tuple(emoji))
        if not self.is_private and not self.bot_is_admin:
            return
        self._world.push(
            {
                "message_reaction": {
                    "chat": self.json_chat(),
                    "message_id": message_id,
                    "user": user.json(),
                    "date": int(self._world.clock()),
                    "old_reaction": [{"type": "emoji", "emoji": each} for each in old],
                    "new_reaction": [{"type": "emoji", "emoji": each} for each in emoji],
                }
            }
        )

    async def wait_reply(
        self,
        after: int,
        timeout: float = 10,
        final: Callable[[Message], bool] = is_final,
    ) -> Message:
        """Return the bot's first message after `after` that is `final`, by default with buttons.

        Edits count: a message streamed by editing becomes final when its buttons appear.
        Raises TimeoutError, naming what there was, after `timeout`.
        """

        def found() -> Message | None:
            later = (message for message in self.bot_messages if message.id > after)
            return next((message for message in later if final(message)), None)

        message = await self._world.wait_for(found, timeout)
        assert message is not None
        return message

    def add(
        self,
        sender: User,
        text: str,
        *,
        entities: tuple[JsonObject, ...] = (),
        markup: JsonObject | None = None,
        thread: int | None = None,
        reply_to: int | None = None,
        attachment: Attachment | None = None,
        topic_name: str | None = None,
    ) -> Message:
        """Store a message; the server's own methods and people's acts both end here."""
        self._last_id = self._world.next_message_id(self, self._last_id)
        message = Message(
            id=self._last_id,
            sender=sender,
            text=text,
            sent_at=self._world.clock(),
            entities=entities,
            markup=markup,
            thread=thread,
            reply_to=reply_to,
            attachment=attachment,
            topic_name=topic_name,
        )
        self._messages[message.id] = message
        self._world.changed()
        return message

    def revise(
        self,
        message: Message,
        text: str,
        entities: tuple[JsonObject, ...],
        markup: JsonObject | None,
    ) -> Message:
        """Replace a message's content and keep what it said before."""
        now = self._world.clock()
        before = Revision(
            text=message.text, entities=message.entities, markup=message.markup, until=now
        )
        revised = replace(
            message,
            text=text,
            entities=entities,
            markup=markup,
            edits=(*message.edits, before),
            edited_at=now,
        )
        self._messages[message.id] = revised
        self._world.changed()
        return revised

    def remove(self, message_id: int) -> None:
        """Forget a message."""
        del self._messages[message_id]
        self._world.changed()

    def set_reactions(self, message: Message, user: User, emoji: tuple[str, ...]) -> None:
        """Replace one account's reactions on a message."""
        reactions = {**message.reactions, user.id: emoji}
        if not emoji:
            del reactions[user.id]
        self._messages[message.id] = replace(message, reactions=reactions)
        self._world.changed()

    def show_draft(self, draft: Draft) -> None:
        """Show a draft in place of an earlier frame of the same id."""
        self._drafts[draft.draft_id] = draft
        self.draft_history.append(draft)
        self._world.changed()

    def clear_drafts(self) -> None:
        """Remove all drafts, as a sent message does."""
        self._drafts.clear()

    def add_topic(self, creator: User, name: str) -> int:
        """Open a topic in a forum; return its id, which is that of the message that opened it."""
        if not self.forum:
            raise ValueError(f"{self.title} is not a forum")
        message = self.add(creator, "", topic_name=name)
        self._messages[message.id] = replace(message, thread=message.id)
        self._world.push({"message": self.json(self._messages[message.id])})
        return message.id

    def has_topic(self, thread: int) -> bool:
        """Return whether `thread` is an open topic of this forum; General is not one by id."""
        opening = self._messages.get(thread)
        return opening is not None and opening.topic_name is not None

    def json_chat(self) -> JsonObject:
        """Return the `Chat` object of the Bot API."""
        if self.is_private:
            (person,) = self.members.values()
            names = {
                key: value
                for key, value in person.json().items()
                if key not in ("id", "is_bot", "language_code")
            }
            return {"id": self.id, "type": "private", **names}
        kind = "supergroup" if self.is_supergroup else "group"
        forum = {"is_forum": True} if self.forum else {}
        return {"id": self.id, "type": kind, "title": self.title, **forum}

    @property
    def is_supergroup(self) -> bool:
        """True if its id is that of a supergroup, which numbers its messages itself."""
        return self.id <= -1_000_000_000_000

    def json(self, message: Message, *, nested: bool = False) -> JsonObject:
        """Return the `Message` object of the Bot API; a nested one carries no further reply."""
        body: JsonObject = {
            "message_id": message.id,
            "date": int(message.sent_at),
            "chat": self.json_chat(),
            "from": message.sender.json(),
        }
        if message.edited_at is not None:
            body["edit_date"] = int(message.edited_at)
        if message.thread is not None:
            body |= {"message_thread_id": message.thread, "is_topic_message": True}
        if message.topic_name is not None:
            body["forum_topic_created"] = {"name": message.topic_name, "icon_color": 7322096}
        if message.attachment is not None:
            body[message.attachment.kind.value] = message.attachment.json()
        if message.text:
            prefix = "caption" if message.attachment else "text"
            body[prefix] = message.text
            if message.entities:
                key = "caption_entities" if message.attachment else "entities"
                body[key] = list(message.entities)
        if message.buttons:
            body["reply_markup"] = message.markup
        # In a topic, a message without a reply answers the one that opened the topic.
        answered = message.reply_to or message.thread
        if answered and answered != message.id and not nested and answered in self._messages:
            body["reply_to_message"] = self.json(self._messages[answered], nested=True)
        return body

    def _send_media(
        self,
        user: User,
        media: tuple[MediaKind, str, str, bytes],
        caption: str,
        reply_to: int | None,
        thread: int | None,
    ) -> int:
        attachment = self._world.store(*media)
        return self._write(
            user,
            caption,
            tuple(automatic_entities(caption)),
            reply_to=reply_to,
            thread=thread,
            attachment=attachment,
        )

    def _write(
        self,
        user: User,
        text: str,
        entities: tuple[JsonObject, ...],
        *,
        reply_to: int | None,
        thread: int | None,
        attachment: Attachment | None = None,
    ) -> int:
        self._require_member(user)
        if utf16_length(text) > (MAX_CAPTION if attachment else MAX_TEXT):
            raise ValueError("Telegram's apps do not send a text as long as this")
        if reply_to is not None:
            thread = thread or self.message(reply_to).thread
        if thread is not None and not self.has_topic(thread):
            raise ValueError(f"no topic {thread} in {self.title}")
        message = self.add(
            user,
            text,
            entities=entities,
            reply_to=reply_to,
            thread=thread,
            attachment=attachment,
        )
        self._world.push({"message": self.json(message)})
        return message.id

    def _require_member(self, user: User) -> None:
        if user.id not in self.members:
            raise ValueError(f"{user.first_name} is not in chat {self.id}")
        if self.is_private and user.id in self._world.blocked:
            raise ValueError(f"{user.first_name} blocked the bot; unblock it first")
