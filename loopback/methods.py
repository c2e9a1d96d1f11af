"""The bot's side of the loopback Bot API: one function for each method it offers.

Each checks its parameters, refuses in Telegram's words and changes the world. Only
getUpdates and the webhook methods wait, so every other call is done in one step: a fault or
a lost connection never leaves half a message behind.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from loopback.objects import Attachment, CallbackAnswer, Draft, MediaKind, Message, User
from loopback.rates import Rates
from loopback.telegram_chat import Chat
from loopback.text import MAX_CAPTION, MAX_TEXT, checked_markup, formatted
from loopback.wire import JsonObject, Params, bad_request
from loopback.world import World

Result: TypeAlias = JsonObject | list[JsonObject] | bool
Method: TypeAlias = Callable[[Params], Awaitable[Result]]

MAX_DOWNLOAD_BYTES = 20 * 1024 * 1024

MOST_DELETED = 100
"""Messages that one deleteMessages call accepts."""

COMMAND_NAME = re.compile(r"[a-z0-9_]{1,32}")
NOT_MODIFIED = (
    "message is not modified: specified new message content and reply markup are exactly the "
    "same as a current content and reply markup of the message"
)
RIGHTS = (
    "can_manage_chat",
    "can_delete_messages",
    "can_manage_video_chats",
    "can_restrict_members",
    "can_promote_members",
    "can_change_info",
    "can_invite_users",
    "can_post_stories",
    "can_edit_stories",
    "can_delete_stories",
)


class Methods:
    """The methods of one bot, over one world."""

    def __init__(self, world: World, rates: Rates | None) -> None:
        self._world = world
        self._rates = rates
        self.by_name: Mapping[str, Method] = {
            "getMe": self._get_me,
            "getUpdates": self._get_updates,
            "setWebhook": self._set_webhook,
            "deleteWebhook": self._delete_webhook,
            "getWebhookInfo": self._webhook_info,
            "sendMessage": self._send_message,
            "sendMessageDraft": self._send_draft,
            "sendDocument": self._send_document,
            "sendPhoto": self._send_photo,
            "sendChatAction": self._send_action,
            "editMessageText": self._edit_text,
            "editMessageReplyMarkup": self._edit_markup,
            "deleteMessage": self._delete_message,
            "deleteMessages": self._delete_messages,
            "answerCallbackQuery": self._answer_query,
            "setMyCommands": self._set_commands,
            "getFile": self._get_file,
            "getChatAdministrators": self._get_administrators,
        }

    async def _get_me(self, params: Params) -> Result:
        return {
            **self._world.bot.json(),
            "can_join_groups": True,
            "can_read_all_group_messages": True,
            "supports_inline_queries": False,
        }

    async def _get_updates(self, params: Params) -> Result:
        return await self._world.updates.poll(params)

    async def _set_webhook(self, params: Params) -> Result:
        return await self._world.updates.set_webhook(params)

    async def _delete_webhook(self, params: Params) -> Result:
        return await self._world.updates.delete_webhook(params)

    async def _webhook_info(self, params: Params) -> Result:
        return self._world.updates.webhook_info()

    async def _send_message(self, params: Params) -> Result:
        chat = self._chat(params)
        text, entities = formatted(params, field="text", entities_field="entities", limit=MAX_TEXT)
        return self._send(chat, params, text, entities, None)

    async def _send_document(self, params: Params) -> Result:
        return self._send_media(params, MediaKind.DOCUMENT)

    async def _send_photo(self, params: Params) -> Result:
        return self._send_media(params, MediaKind.PHOTO)

    def _send_media(self, params: Params, kind: MediaKind) -> Result:
        chat = self._chat(params)
        caption, entities = formatted(
            params,
            field="caption",
            entities_field="caption_entities",
            limit=MAX_CAPTION,
            may_be_empty=True,
        )
        return self._send(chat, params, caption, entities, self._attachment(params, kind))

    def _attachment(self, params: Params, kind: MediaKind) -> Attachment:
        name = params.text(kind.value)
        part = params.uploads.get(kind.value) or params.uploads.get(name.removeprefix("attach://"))
        if part is not None:
            if not part.data:
                raise bad_request("file must be non-empty")
            return self._world.store(kind, part.name, part.mime_type, part.data)
        if not name:
            raise bad_request(f"there is no {kind.value} in the request")
        if name not in self._world.files:
            raise bad_request("wrong remote file identifier specified: Wrong string length")
        return self._world.files[name]

    def _send(
        self,
        chat: Chat,
        params: Params,
        text: str,
        entities: tuple[JsonObject, ...],
        attachment: Attachment | None,
    ) -> JsonObject:
        markup = checked_markup(params.record("reply_markup"))
        reply_to = self._replied(chat, params)
        thread = self._thread(chat, params)
        if thread is None and reply_to is not None:
            thread = chat.message(reply_to).thread
        self._spend(chat)
        message = chat.add(
            self._world.bot,
            text,
            entities=entities,
            markup=markup,
            thread=thread,
            reply_to=reply_to,
            attachment=attachment,
        )
        chat.clear_drafts()
        return chat.json(message)

    async def _send_draft(self, params: Params) -> Result:
        chat = self._chat(params)
        if not chat.is_private:
            raise bad_request("TEXTDRAFT_PEER_INVALID")
        if not (draft_id := params.integer("draft_id")):
            raise bad_request("draft_id must be non-zero")
        text, entities = formatted(
            params, field="text", entities_field="entities", limit=MAX_TEXT, may_be_empty=True
        )
        thread = self._thread(chat, params)
        at = self._world.clock()
        chat.show_draft(
            Draft(draft_id=draft_id, text=text, entities=entities, thread=thread, at=at)
        )
        return True

    async def _send_action(self, params: Params) -> Result:
        chat = self._chat(params)
        if not params.text("action"):
            raise bad_request("wrong parameter action in request")
        # Unlike messages, actions may name a forum's General topic, whose id is 1.
        if not (chat.forum and params.integer("message_thread_id") == 1):
            self._thread(chat, params)
        return True

    async def _edit_text(self, params: Params) -> Result:
        chat, message = self._own(params)
        if message.attachment is not None:
            raise bad_request("there is no text in the message to edit")
        text, entities = formatted(params, field="text", entities_field="entities", limit=MAX_TEXT)
        return self._revise(chat, message, text, entities, params)

    async def _edit_markup(self, params: Params) -> Result:
        chat, message = self._own(params)
        return self._revise(chat, message, message.text, message.entities, params)

    def _revise(
        self,
        chat: Chat,
        message: Message,
        text: str,
        entities: tuple[JsonObject, ...],
        params: Params,
    ) -> JsonObject:
        # An edit without reply_markup takes the buttons away, as at Telegram.
        markup = checked_markup(params.record("reply_markup"), inline_only=True)
        if (text, entities, markup) == (message.text, message.entities, message.markup):
            raise bad_request(NOT_MODIFIED)
        self._spend(chat)
        return chat.json(chat.revise(message, text, entities, markup))

    async def _delete_message(self, params: Params) -> Result:
        chat = self._chat(params)
        message = chat.find(params.integer("message_id"))
        if message is None:
            raise bad_request("message to delete not found")
        if not self._may_delete(chat, message):
            raise bad_request("message can't be deleted")
        chat.remove(message.id)
        return True

    async def _delete_messages(self, params: Params) -> Result:
        chat, ids = self._chat(params), params.integers("message_ids")
        if not 1 <= len(ids) <= MOST_DELETED:
            raise bad_request("message identifiers are not specified")
        found = [message for each in ids if (message := chat.find(each)) is not None]
        if not all(self._may_delete(chat, message) for message in found):
            raise bad_request("message can't be deleted")
        for message in found:  # Telegram skips deleted ones
            chat.remove(message.id)
        return True

    def _may_delete(self, chat: Chat, message: Message) -> bool:
        return message.from_bot or chat.is_private or chat.bot_is_admin

    async def _answer_query(self, params: Params) -> Result:
        text = params.text("text") or None
        if text is not None and len(text) > 200:
            raise bad_request("MESSAGE_TOO_LONG")
        answer = CallbackAnswer(
            text=text, show_alert=params.flag("show_alert"), url=params.text("url") or None
        )
        self._world.answer(params.text("callback_query_id"), answer)
        return True

    async def _set_commands(self, params: Params) -> Result:
        commands = params.records("commands")
        if len(commands) > 100:
            raise bad_request("BOT_COMMANDS_TOO_MUCH")
        for each in commands:
            if not COMMAND_NAME.fullmatch(str(each.get("command", "")).removeprefix("/")):
                raise bad_request("BOT_COMMAND_INVALID")
            if not 1 <= len(str(each.get("description", ""))) <= 256:
                raise bad_request("BOT_COMMAND_DESCRIPTION_INVALID")
        self._world.commands[_scope(params)] = commands
        return True

    async def _get_file(self, params: Params) -> Result:
        attachment = self._world.files.get(params.text("file_id"))
        if attachment is None:
            raise bad_request("wrong file_id or the file is temporarily unavailable")
        if len(attachment.data) > MAX_DOWNLOAD_BYTES:
            raise bad_request("file is too big")
        return {
            "file_id": attachment.file_id,
            "file_unique_id": f"u{attachment.file_id}",
            "file_size": len(attachment.data),
            "file_path": attachment.file_path,
        }

    async def _get_administrators(self, params: Params) -> Result:
        chat = self._world.known_chat(params.integer("chat_id"))
        if chat.is_private:
            raise bad_request("there are no administrators in the private chat")
        admins = [user for user in chat.members.values() if user.id in chat.admins]
        if chat.bot_is_admin:
            admins.append(self._world.bot)
        return [self._administrator(chat, admin) for admin in admins]

    def _administrator(self, chat: Chat, user: User) -> JsonObject:
        body: JsonObject = {"user": user.json(), "is_anonymous": False}
        if chat.admins and user.id == chat.admins[0]:
            return {**body, "status": "creator"}
        rights = dict.fromkeys(RIGHTS, True)
        return {**body, "status": "administrator", **rights, "can_be_edited": False}

    def _chat(self, params: Params) -> Chat:
        return self._world.reachable_chat(params.integer("chat_id"))

    def _own(self, params: Params) -> tuple[Chat, Message]:
        chat = self._chat(params)
        message = chat.find(params.integer("message_id"))
        if message is None:
            raise bad_request("message to edit not found")
        if not message.from_bot:
            raise bad_request("message can't be edited")
        return chat, message

    def _replied(self, chat: Chat, params: Params) -> int | None:
        reply = params.record("reply_parameters")
        if reply is None:
            return None
        try:
            message_id = int(reply["message_id"])
        except (KeyError, TypeError, ValueError):
            raise bad_request("can't parse ReplyParameters") from None
        if chat.find(message_id) is not None:
            return message_id
        if reply.get("allow_sending_without_reply"):
            return None
        raise bad_request("message to be replied not found")

    def _thread(self, chat: Chat, params: Params) -> int | None:
        thread = params.optional_integer("message_thread_id")
        if thread is not None and not chat.has_topic(thread):
            raise bad_request("message thread not found")
        return thread

    def _spend(self, chat: Chat) -> None:
        if self._rates is not None:
            self._rates.spend(chat.id, is_private=chat.is_private)


def _scope(params: Params) -> tuple[str, str]:
    return scope_key(params.record("scope")), params.text("language_code")


def scope_key(scope: JsonObject | None) -> str:
    """Return a BotCommandScope as a key, the same whatever the order of its fields."""
    scope = scope or {"type": "default"}
    return "/".join(f"{name}={scope[name]}" for name in sorted(scope))
