"""The bot's side of the loopback Bot API: one function for each method it offers.

Each checks its parameters, refuses in Telegram's words and changes the world. Only
getUpdates and the webhook methods wait, so every other call is done in one step: a fault or
a lost connection never leaves half a message behind.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from loopback.chat import Chat
from loopback.rates import Rates
from loopback.records import Attachment, CallbackAnswer, Draft, MediaKind, Message, User
from loopback.text import MAX_CAPTION, MAX_TEXT, checked_markup, formatted
from loopback.wire import JsonObject, Params, bad_request
from loopback.world import World

Result: TypeAlias = JsonObject | list[JsonObject] | bool
Method: TypeAlias = Callable[[Params], Awaitable[Result]]

MAX_DOWNLOAD_BYTES = 20 * 1024 * 1024
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
            "setMessageReaction": self._set_reaction,
            "answerCallbackQuery": self._answer_query,
            "setMyCommands": self._set_commands,
            "getMyCommands": self._get_commands,
            "deleteMyCommands": self._delete_commands,
            "setMyName": self._accept,
            "setMyDescription": self._accept,
            "setMyShortDescription": self._accept,
            "setChatMenuButton": self._accept,
            "getFile": self._get_file,
            "getChat": self._get_chat,
            "getChatMember": self._get_member,
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

    async def _accept(self, params: Params) -> Result:
        return True

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
        if not (message.from_bot or chat.is_private or chat.bot_is_admin):
            raise bad_request("message can't be deleted")
        chat.remove(message.id)
        return True

    async def _set_reaction(self, params: Params) -> Result:
        chat = self._chat(params)
        message = chat.find(params.integer("message_id"))
        if message is None:
            raise bad_request("message to react not found")
        emoji = tuple(str(each.get("emoji", "")) for each in params.records("reaction"))
        if not all(emoji) or len(emoji) > 1:
            raise bad_request("REACTION_INVALID" if len(emoji) < 2 else "REACTIONS_TOO_MANY")
        chat.set_reactions(message, self._world.bot, emoji)
        return True

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

    async def _get_commands(self, params: Params) -> Result:
        return self._world.commands.get(_scope(params), [])

    async def _delete_commands(self, params: Params) -> Result:
        self._world.commands.pop(_scope(params), None)
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

    async def _get_chat(self, params: Params) -> Result:
        gifts = ("unlimited_gifts", "limited_gifts", "unique_gifts", "premium_subscription")
        return {
            **self._world.known_chat(params.integer("chat_id")).json_chat(),
            "accent_color_id": 0,
            "max_reaction_count": 11,
            "accepted_gift_types": dict.fromkeys((*gifts, "gifts_from_channels"), False),
        }

    async def _get_member(self, params: Params) -> Result:
        chat = self._world.known_chat(params.integer("chat_id"))
        user_id = params.integer("user_id")
        if user_id == self._world.bot.id:
            return self._member(chat, self._world.bot)
        user = chat.members.get(user_id) or self._world.users.get(user_id)
        if user is None:
            raise bad_request("member not found")
        return self._member(chat, user)

    async def _get_administrators(self, params: Params) -> Result:
        chat = self._world.known_chat(params.integer("chat_id"))
        if chat.is_private:
            raise bad_request("there are no administrators in the private chat")
        admins = [user for user in chat.members.values() if user.id in chat.admins]
        if chat.bot_is_admin:
            admins.append(self._world.bot)
        return [self._member(chat, admin) for admin in admins]

    def _member(self, chat: Chat, user: User) -> JsonObject:
        body: JsonObject = {"user": user.json(), "status": "member"}
        if user.is_bot:
            admin = chat.bot_is_admin
        elif user.id not in chat.members:
            return {**body, "status": "left"}
        elif chat.admins and user.id == chat.admins[0]:
            return {**body, "status": "creator", "is_anonymous": False}
        else:
            admin = user.id in chat.admins
        if not admin:
            return body
        rights = dict.fromkeys(RIGHTS, True)
        more = {"can_be_edited": False, "is_anonymous": False}
        return {**body, "status": "administrator", **rights, **more}

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
    """A BotCommandScope as a key: the same scope reads the same in any order."""
    scope = scope or {"type": "default"}
    return "/".join(f"{name}={scope[name]}" for name in sorted(scope))
