"""The records a test sees: people, messages, drafts, calls and callback answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from loopback.wire import JsonObject


@dataclass(frozen=True, kw_only=True)
class User:
    """A Telegram account, a person's or the bot's own."""

    id: int
    first_name: str
    last_name: str | None = None
    username: str | None = None
    language_code: str | None = None
    is_bot: bool = False

    def json(self) -> JsonObject:
        """Return the `User` object of the Bot API."""
        body: JsonObject = {"id": self.id, "is_bot": self.is_bot, "first_name": self.first_name}
        for name in ("last_name", "username", "language_code"):
            if (value := getattr(self, name)) is not None:
                body[name] = value
        return body


class MediaKind(StrEnum):
    """The kinds of file a message can carry here."""

    DOCUMENT = "document"
    PHOTO = "photo"
    STICKER = "sticker"
    VOICE = "voice"


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A stored file, fetched with getFile by `file_id` and downloaded at `file_path`."""

    kind: MediaKind
    file_id: str
    file_path: str
    name: str
    mime_type: str
    data: bytes = field(repr=False)

    def json(self) -> JsonObject | list[JsonObject]:
        """Return the Bot API object of this kind; a photo is a list of one size."""
        body: JsonObject = {
            "file_id": self.file_id,
            "file_unique_id": f"u{self.file_id}",
            "file_size": len(self.data),
        }
        if self.kind is MediaKind.PHOTO:
            return [{**body, "width": 64, "height": 64}]
        if self.kind is MediaKind.STICKER:
            still = {"is_animated": False, "is_video": False, "emoji": "👍"}
            return {**body, **still, "type": "regular", "width": 512, "height": 512}
        if self.kind is MediaKind.VOICE:
            return {**body, "duration": 1, "mime_type": self.mime_type}
        return {**body, "file_name": self.name, "mime_type": self.mime_type}


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A message's content before an edit, and the time when it was replaced (seconds)."""

    text: str
    entities: tuple[JsonObject, ...]
    markup: JsonObject | None
    until: float


@dataclass(frozen=True, kw_only=True)
class Message:
    """The current state of one message; an edit replaces the record.

    `text` is the caption when there is an attachment. `thread` is None in a forum's General
    topic, as on the wire. `reactions` maps a user id (the bot's too) to emoji.
    """

    id: int
    sender: User
    text: str
    sent_at: float
    entities: tuple[JsonObject, ...] = ()
    markup: JsonObject | None = None
    thread: int | None = None
    reply_to: int | None = None
    attachment: Attachment | None = None
    topic_name: str | None = None
    edits: tuple[Revision, ...] = ()
    edited_at: float | None = None
    reactions: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def from_bot(self) -> bool:
        """True if the bot sent it."""
        return self.sender.is_bot

    @property
    def edit_count(self) -> int:
        """Number of edits."""
        return len(self.edits)

    @property
    def buttons(self) -> tuple[JsonObject, ...]:
        """The buttons of its inline keyboard, row after row; empty without one."""
        rows = (self.markup or {}).get("inline_keyboard", [])
        return tuple(button for row in rows for button in row)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of its inline buttons."""
        return tuple(str(button["text"]) for button in self.buttons)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One frame of a streamed draft: what the person saw from `at` (seconds) on."""

    draft_id: int
    text: str
    entities: tuple[JsonObject, ...]
    thread: int | None
    at: float


@dataclass(frozen=True, kw_only=True)
class CallbackAnswer:
    """The bot's answer to a tap; `text` is None for a bare acknowledgement."""

    text: str | None
    show_alert: bool
    url: str | None


@dataclass(kw_only=True)
class Call:
    """One request to the server.

    `status` is None while it is held and 0 when the connection was dropped; `at` is
    its arrival (seconds). `fault` names the injected fault, if any.
    """

    method: str
    params: JsonObject
    at: float
    status: int | None = None
    error: str | None = None
    fault: str | None = None
