"""The promises of the loopback Telegram, kept to a real python-telegram-bot and plain HTTP."""

import asyncio
import io
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from telegram import (
    Bot,
    BotCommand,
    BotCommandScopeChat,
    ForceReply,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    MessageEntity,
    ReplyParameters,
    Update,
)
from telegram.error import BadRequest, Conflict, Forbidden, NetworkError, RetryAfter, TimedOut
from telegram.ext import (
    Application,
    ApplicationBuilder,
    CallbackQueryHandler,
    ContextTypes,
    MessageHandler,
    MessageReactionHandler,
    filters,
)
from telegram.request import HTTPXRequest

from loopback import (
    BotApi,
    Chat,
    Fault,
    User,
    any_message,
    drop_after,
    drop_before,
    flood,
    server_error,
    timeout,
)
from loopback.wire import JsonObject

TOKEN = "42:secret"
SUPERGROUP = -1_001_000_000_001
BASIC_GROUP = -77
THUMBS = InlineKeyboardMarkup(
    [
        [
            InlineKeyboardButton("👍 1", callback_data="up"),
            InlineKeyboardButton("👎", url="http://x.y"),
        ]
    ]
)


class Clock:
    """A clock that a test moves by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def durations_are_timedeltas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use durations as timedeltas: python-telegram-bot warns otherwise, and warnings are errors."""
    monkeypatch.setenv("PTB_TIMEDELTA", "1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def api(clock: Clock) -> AsyncIterator[BotApi]:
    async with BotApi(TOKEN, clock=clock) as api:
        yield api


@pytest.fixture
def ada(api: BotApi) -> User:
    return api.user(1, first_name="Ada", language_code="en")


@pytest.fixture
def chat(api: BotApi, ada: User) -> Chat:
    return api.private(ada)


@pytest.fixture
async def bot(api: BotApi) -> AsyncIterator[Bot]:
    async with make_bot(api) as bot:
        yield bot


def make_bot(api: BotApi, read_timeout: float = 5) -> Bot:
    return Bot(
        api.token,
        base_url=f"{api.url}/bot",
        base_file_url=f"{api.url}/file/bot",
        request=HTTPXRequest(read_timeout=read_timeout),
        get_updates_request=HTTPXRequest(read_timeout=read_timeout),
    )


def make_application(api: BotApi) -> "Application":  # type: ignore[type-arg]
    builder = ApplicationBuilder().token(api.token)
    return builder.base_url(f"{api.url}/bot").base_file_url(f"{api.url}/file/bot").build()


async def call(api: BotApi, method: str, /, **params: object) -> tuple[int, JsonObject]:
    """Make a plain HTTP call with a JSON body; return the status and the JSON answer."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{api.url}/bot{api.token}/{method}", json=params) as response,
    ):
        return response.status, await response.json()


async def result(api: BotApi, method: str, /, **params: object) -> object:
    status, body = await call(api, method, **params)
    assert status == 200, body
    return body["result"]


async def refusal(api: BotApi, method: str, /, **params: object) -> str:
    status, body = await call(api, method, **params)
    assert not body["ok"]
    assert status == body["error_code"]
    return str(body["description"])


async def update_texts(api: BotApi, **params: object) -> list[str]:
    updates = await result(api, "getUpdates", **params)
    assert isinstance(updates, list)
    return [update["message"]["text"] for update in updates]


async def test_an_unknown_token_is_unauthorized(api: BotApi) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{api.url}/bot42:wrong/getMe") as response,
    ):
        assert response.status == 401
        assert await response.json() == {
            "ok": False,
            "error_code": 401,
            "description": "Unauthorized",
        }


async def test_an_unknown_method_is_not_found(api: BotApi) -> None:
    status, body = await call(api, "sendTelepathy")

    assert (status, body["error_code"]) == (404, 404)


async def test_query_form_multipart_and_json_mean_the_same(api: BotApi, chat: Chat) -> None:
    url = f"{api.url}/bot{TOKEN}/sendMessage"
    markup = json.dumps(THUMBS.to_dict())
    values = {"chat_id": "1", "text": "same", "reply_markup": markup}
    multipart = aiohttp.MultipartWriter("form-data")
    for name, value in values.items():
        multipart.append(value).set_content_disposition("form-data", name=name)
    async with aiohttp.ClientSession() as session:
        for method, options in (
            ("GET", {"params": values}),
            ("POST", {"data": values}),
            ("POST", {"data": multipart}),
            ("POST", {"json": {**values, "chat_id": 1, "reply_markup": THUMBS.to_dict()}}),
        ):
            async with session.request(method, url, **options) as response:
                assert response.status == 200, await response.text()

    assert [message.labels for message in chat.messages] == [("👍 1", "👎")] * 4
    first, *others = [logged.params for logged in api.calls]
    assert all(params == first for params in others)


async def test_broken_json_is_refused(api: BotApi, chat: Chat) -> None:
    assert "can't parse" in await refusal(
        api, "sendMessage", chat_id=1, text="x", reply_markup="{oops"
    )


async def test_calls_are_logged_with_parameters_time_and_status(
    api: BotApi, bot: Bot, chat: Chat, clock: Clock
) -> None:
    await bot.send_message(1, "hi")
    with pytest.raises(BadRequest):
        await bot.send_message(999, "hi")

    good, bad = api.calls_to("sendMessage")
    assert (good.status, good.params["text"], good.at) == (200, "hi", clock.now)
    assert (bad.status, bad.error) == (400, "Bad Request: chat not found")


async def test_updates_stay_until_a_later_offset_passes_them(
    api: BotApi, ada: User, chat: Chat
) -> None:
    for text in ("one", "two", "three"):
        await chat.send(ada, text)
    first_id = api.pending[0]["update_id"]

    assert await update_texts(api, limit=2) == ["one", "two"]
    assert await update_texts(api) == ["one", "two", "three"]
    assert await update_texts(api, offset=first_id + 2) == ["three"]
    assert len(api.pending) == 1
    assert await update_texts(api, offset=first_id + 3) == []


async def test_a_negative_offset_keeps_the_latest(api: BotApi, ada: User, chat: Chat) -> None:
    for text in ("one", "two", "three"):
        await chat.send(ada, text)

    assert await update_texts(api, offset=-1) == ["three"]
    assert len(api.pending) == 1


async def test_a_long_poll_ends_when_something_arrives(api: BotApi, ada: User, chat: Chat) -> None:
    poll = asyncio.create_task(update_texts(api, timeout=20))
    await api.wait_polling()

    await chat.send(ada, "now")

    async with asyncio.timeout(2):
        assert await poll == ["now"]


async def test_a_long_poll_ends_empty_at_its_timeout(api: BotApi) -> None:
    assert await update_texts(api, timeout=1) == []


async def test_only_allowed_kinds_are_queued_and_the_choice_is_remembered(
    api: BotApi, ada: User, chat: Chat
) -> None:
    await result(api, "getUpdates", allowed_updates=["callback_query"])
    await chat.send(ada, "unheard")
    await result(api, "getUpdates")
    await chat.send(ada, "still unheard")
    assert api.pending == ()

    await result(api, "getUpdates", allowed_updates=[])
    await chat.send(ada, "heard")
    assert len(api.pending) == 1


async def test_reactions_come_only_when_asked_for(api: BotApi, ada: User, chat: Chat) -> None:
    message_id = await chat.send(ada, "hello")
    await chat.react(ada, message_id, ["👍"])
    assert [set(update) for update in api.pending] == [{"update_id", "message"}]

    await result(api, "getUpdates", allowed_updates=["message_reaction"])
    await chat.react(ada, message_id, ["👎"])

    reaction = api.pending[-1]["message_reaction"]
    assert reaction["old_reaction"] == [{"type": "emoji", "emoji": "👍"}]
    assert reaction["new_reaction"] == [{"type": "emoji", "emoji": "👎"}]
    assert chat.message(message_id).reactions == {1: ("👎",)}


async def test_a_second_poll_ends_the_first_with_a_conflict(api: BotApi, bot: Bot) -> None:
    first = asyncio.create_task(bot.get_updates(timeout=20))
    await api.wait_polling()

    async with make_bot(api) as other:
        second = asyncio.create_task(other.get_updates(timeout=1))
        with pytest.raises(Conflict, match="terminated by other getUpdates"):
            await first
        assert await second == ()


async def test_a_client_that_goes_away_frees_its_poll(api: BotApi) -> None:
    poll = asyncio.create_task(call(api, "getUpdates", timeout=20))
    await api.wait_polling()

    poll.cancel()

    await api.wait_for(lambda: not api.polling, 2)


async def test_polling_under_a_webhook_is_a_conflict(api: BotApi, bot: Bot) -> None:
    await bot.set_webhook("https://example.invalid/hook")

    with pytest.raises(Conflict, match="webhook is active"):
        await bot.get_updates()
    await bot.delete_webhook()
    assert await bot.get_updates() == ()


async def test_a_webhook_must_be_https_or_loopback_and_its_secret_plain(api: BotApi) -> None:
    assert "HTTPS" in await refusal(api, "setWebhook", url="http://example.invalid/")
    assert "secret token" in await refusal(
        api, "setWebhook", url="https://example.invalid/", secret_token="no spaces"
    )


async def test_deleting_a_webhook_may_drop_what_is_pending(
    api: BotApi, ada: User, chat: Chat
) -> None:
    await chat.send(ada, "old")
    await result(api, "deleteWebhook", drop_pending_updates=True)

    assert api.pending == ()


async def test_a_webhook_is_retried_in_order_with_its_secret(
    api: BotApi, ada: User, chat: Chat
) -> None:
    seen: list[tuple[str, str]] = []

    async def hook(request: aiohttp.web.Request) -> aiohttp.web.Response:
        text = (await request.json())["message"]["text"]
        seen.append((text, request.headers["X-Telegram-Bot-Api-Secret-Token"]))
        return aiohttp.web.Response(status=500 if len(seen) <= 2 else 200)

    app = aiohttp.web.Application()
    app.router.add_post("/hook", hook)
    runner = aiohttp.web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        await result(api, "setWebhook", url=url, secret_token="s3cret")
        await chat.send(ada, "one")
        await chat.send(ada, "two")
        await api.wait_for(lambda: not api.pending)
        info = await result(api, "getWebhookInfo")
    finally:
        await runner.cleanup()

    assert [text for text, _ in seen] == ["one", "one", "one", "two"]
    assert {secret for _, secret in seen} == {"s3cret"}
    assert isinstance(info, dict)
    assert info["url"] == url
    assert "500" in info["last_error_message"]


async def test_raw_updates_can_be_pushed(api: BotApi, bot: Bot, ada: User) -> None:
    update_id = api.push(
        {"inline_query": {"id": "1", "from": ada.json(), "query": "cats", "offset": ""}}
    )

    (update,) = await bot.get_updates()

    assert update.update_id == update_id
    assert update.inline_query
    assert update.inline_query.query == "cats"


async def test_a_message_has_its_text_entities_buttons_and_reply(
    api: BotApi, bot: Bot, ada: User, chat: Chat
) -> None:
    asked = await chat.send(ada, "hello")
    sent = await bot.send_message(
        1,
        "😀 bold",
        entities=[MessageEntity("bold", 3, 4)],
        reply_parameters=ReplyParameters(asked),
        reply_markup=THUMBS,
    )

    assert sent.parse_entities() == {sent.entities[0]: "bold"}
    assert sent.reply_to_message
    assert sent.reply_to_message.text == "hello"
    message = chat.message(sent.message_id)
    assert message.from_bot
    assert message.reply_to == asked
    assert message.labels == ("👍 1", "👎")
    assert message.entities == ({"type": "bold", "offset": 3, "length": 4},)


async def test_force_reply_is_kept_for_the_test_to_see(bot: Bot, chat: Chat) -> None:
    sent = await bot.send_message(1, "Your name?", reply_markup=ForceReply())

    assert chat.message(sent.message_id).markup == {"force_reply": True}
    assert chat.message(sent.message_id).buttons == ()


async def test_text_is_counted_in_utf16_after_trimming(bot: Bot, chat: Chat) -> None:
    await bot.send_message(1, "😀" * 2048)
    await bot.send_message(1, "x" * 4096 + "  \n")
    with pytest.raises(BadRequest, match="Message is too long"):
        await bot.send_message(1, "😀" * 2048 + "x")
    with pytest.raises(BadRequest, match="Message text is empty"):
        await bot.send_message(1, " \n ")


async def test_trimming_moves_entities_along(bot: Bot, chat: Chat) -> None:
    sent = await bot.send_message(1, "\n\nbold  ", entities=[MessageEntity("bold", 2, 6)])

    assert (sent.text, sent.parse_entity(sent.entities[0])) == ("bold", "bold")


@pytest.mark.parametrize(("offset", "length"), [(0, 4), (1, 1), (0, 1), (-1, 1)])
async def test_entities_out_of_bounds_or_inside_a_character_are_refused(
    bot: Bot, chat: Chat, offset: int, length: int
) -> None:
    with pytest.raises(BadRequest, match=r"(?i)entity_bounds_invalid"):
        await bot.send_message(1, "😀x", entities=[MessageEntity("bold", offset, length)])


async def test_only_a_hundred_entities_are_kept(bot: Bot, chat: Chat) -> None:
    entities = [MessageEntity("bold", at, 1) for at in range(120)]

    sent = await bot.send_message(1, "x" * 120, entities=entities)

    assert len(sent.entities) == 100


async def test_html_is_parsed_and_bad_html_refused(bot: Bot, chat: Chat) -> None:
    sent = await bot.send_message(1, "<b>1 &lt; 2</b> ok", parse_mode="HTML")
    assert (sent.text, sent.parse_entity(sent.entities[0])) == ("1 < 2 ok", "1 < 2")

    for text in ("<b>open", "<table>"):
        with pytest.raises(BadRequest, match=r"(?i)can't parse entities"):
            await bot.send_message(1, text, parse_mode="HTML")
    with pytest.raises(BadRequest, match="not offered"):
        await bot.send_message(1, "*x*", parse_mode="MarkdownV2")


@pytest.mark.parametrize("data", ["", "x" * 65, "é" * 33])
async def test_callback_data_holds_1_to_64_bytes(api: BotApi, chat: Chat, data: str) -> None:
    keyboard = {"inline_keyboard": [[{"text": "go", "callback_data": data}]]}

    assert await refusal(api, "sendMessage", chat_id=1, text="x", reply_markup=keyboard) == (
        "Bad Request: BUTTON_DATA_INVALID"
    )


async def test_a_button_without_an_action_is_refused(api: BotApi, chat: Chat) -> None:
    keyboard = {"inline_keyboard": [[{"text": "go"}]]}

    assert "Text buttons are unallowed" in await refusal(
        api, "sendMessage", chat_id=1, text="x", reply_markup=keyboard
    )


async def test_a_reply_to_nothing_is_refused_unless_allowed(bot: Bot, chat: Chat) -> None:
    with pytest.raises(BadRequest, match="Message to be replied not found"):
        await bot.send_message(1, "x", reply_parameters=ReplyParameters(99))
    sent = await bot.send_message(
        1, "x", reply_parameters=ReplyParameters(99, allow_sending_without_reply=True)
    )
    assert chat.message(sent.message_id).reply_to is None


async def test_an_edit_replaces_text_and_buttons_and_keeps_the_history(
    bot: Bot, chat: Chat
) -> None:
    sent = await bot.send_message(1, "a", reply_markup=THUMBS)
    await bot.edit_message_text("b", 1, sent.message_id)
    await bot.edit_message_reply_markup(1, sent.message_id, reply_markup=THUMBS)

    message = chat.message(sent.message_id)
    assert (message.text, message.labels, message.edit_count) == ("b", ("👍 1", "👎"), 2)
    assert [(edit.text, edit.markup is None) for edit in message.edits] == [
        ("a", False),
        ("b", True),
    ]


async def test_an_edit_that_changes_nothing_is_refused(bot: Bot, chat: Chat) -> None:
    sent = await bot.send_message(1, "a", reply_markup=THUMBS)

    with pytest.raises(BadRequest, match="Message is not modified: specified new"):
        await bot.edit_message_text("a", 1, sent.message_id, reply_markup=THUMBS)
    with pytest.raises(BadRequest, match="Message is not modified"):
        await bot.edit_message_reply_markup(1, sent.message_id, reply_markup=THUMBS)


async def test_an_edit_takes_inline_keyboards_only(api: BotApi, bot: Bot, chat: Chat) -> None:
    sent = await bot.send_message(1, "a")

    assert "inline keyboard expected" in await refusal(
        api,
        "editMessageText",
        chat_id=1,
        message_id=sent.message_id,
        text="b",
        reply_markup={"force_reply": True},
    )


async def test_only_the_bots_own_existing_text_can_be_edited(
    bot: Bot, ada: User, chat: Chat
) -> None:
    theirs = await chat.send(ada, "mine")
    photo = await bot.send_photo(1, b"jpeg")

    with pytest.raises(BadRequest, match="Message can't be edited"):
        await bot.edit_message_text("x", 1, theirs)
    with pytest.raises(BadRequest, match="Message to edit not found"):
        await bot.edit_message_text("x", 1, 999)
    with pytest.raises(BadRequest, match="no text in the message"):
        await bot.edit_message_text("x", 1, photo.message_id)


async def test_a_message_is_deleted_once(bot: Bot, chat: Chat) -> None:
    sent = await bot.send_message(1, "a")
    await bot.delete_message(1, sent.message_id)

    assert chat.messages == []
    with pytest.raises(BadRequest, match="Message to delete not found"):
        await bot.delete_message(1, sent.message_id)


async def test_a_bot_that_is_no_administrator_cannot_delete_others_messages(
    api: BotApi, bot: Bot, ada: User
) -> None:
    group = api.group(SUPERGROUP, "Team", [ada], bot_is_admin=False)
    message_id = await group.send(ada, "mine")

    with pytest.raises(BadRequest, match="Message can't be deleted"):
        await bot.delete_message(SUPERGROUP, message_id)


async def test_several_messages_are_deleted_at_once_and_those_that_are_gone_skipped(
    bot: Bot, chat: Chat
) -> None:
    sent = [(await bot.send_message(1, text)).message_id for text in ("a", "b", "c")]

    assert await bot.delete_messages(1, [*sent[:2], 999])

    assert [message.text for message in chat.messages] == ["c"]
    with pytest.raises(BadRequest, match="identifiers"):
        await bot.delete_messages(1, [])


async def test_a_draft_is_replaced_expires_and_ends_with_the_message(
    bot: Bot, chat: Chat, clock: Clock
) -> None:
    await bot.send_message_draft(1, 7, "")
    await bot.send_message_draft(1, 7, "Hel")
    await bot.send_message_draft(1, 7, "Hello")
    assert [draft.text for draft in chat.drafts] == ["Hello"]
    clock.now += 31
    assert chat.drafts == []

    await bot.send_message_draft(1, 8, "Hello again")
    await bot.send_message(1, "Hello again.")
    assert chat.drafts == []
    assert [draft.text for draft in chat.draft_history] == ["", "Hel", "Hello", "Hello again"]


async def test_drafts_are_for_private_chats_and_have_limits(
    api: BotApi, bot: Bot, ada: User, chat: Chat
) -> None:
    api.group(SUPERGROUP, "Team", [ada])

    with pytest.raises(BadRequest, match=r"(?i)TEXTDRAFT_PEER_INVALID"):
        await bot.send_message_draft(SUPERGROUP, 7, "x")
    with pytest.raises(BadRequest, match=r"(?i)draft_id must be non-zero"):
        await bot.send_message_draft(1, 0, "x")
    with pytest.raises(BadRequest, match="Message is too long"):
        await bot.send_message_draft(1, 7, "x" * 4097)


async def test_an_unknown_chat_is_not_found(bot: Bot) -> None:
    with pytest.raises(BadRequest, match="Chat not found"):
        await bot.send_message(5, "x")


async def test_a_blocked_bot_is_told_and_refused(
    api: BotApi, bot: Bot, ada: User, chat: Chat
) -> None:
    api.block(ada)

    with pytest.raises(Forbidden, match="bot was blocked by the user"):
        await bot.send_message(1, "x")
    (update,) = await bot.get_updates()
    assert update.my_chat_member
    assert update.my_chat_member.new_chat_member.status == "kicked"
    with pytest.raises(ValueError, match="unblock"):
        await chat.send(ada, "x")
    api.unblock(ada)
    await bot.send_message(1, "x")


async def test_threads_exist_in_forums_only(api: BotApi, bot: Bot, ada: User, chat: Chat) -> None:
    group = api.group(SUPERGROUP, "Team", [ada], forum=True)
    thread = api.topic(group, "Cats")

    sent = await bot.send_message(SUPERGROUP, "meow", message_thread_id=thread)
    asked = await group.send(ada, "more?", thread=thread)
    answer = await bot.send_message(SUPERGROUP, "yes", reply_parameters=ReplyParameters(asked))

    assert sent.is_topic_message
    assert group.message(sent.message_id).thread == thread
    assert group.message(answer.message_id).thread == thread
    for chat_id, wrong in ((SUPERGROUP, 1), (SUPERGROUP, sent.message_id), (1, thread)):
        with pytest.raises(BadRequest, match="Message thread not found"):
            await bot.send_message(chat_id, "x", message_thread_id=wrong)
    await bot.send_chat_action(SUPERGROUP, "typing", message_thread_id=1)


async def test_a_message_in_a_topic_answers_the_one_that_opened_it(
    api: BotApi, bot: Bot, ada: User
) -> None:
    group = api.group(SUPERGROUP, "Team", [ada], forum=True)
    thread = api.topic(group, "Cats")
    await group.send(ada, "meow", thread=thread)

    *_, update = await bot.get_updates()

    assert update.message
    assert update.message.reply_to_message
    assert update.message.reply_to_message.forum_topic_created


async def test_supergroups_count_their_own_messages(api: BotApi, ada: User, chat: Chat) -> None:
    basic = api.group(BASIC_GROUP, "Small", [ada])
    large = api.group(SUPERGROUP, "Large", [ada])

    ids = [await each.send(ada, "x") for each in (chat, basic, large)]

    assert ids == [1, 2, 1]


async def test_uploads_are_stored_and_can_be_fetched_back(bot: Bot, chat: Chat) -> None:
    sent = await bot.send_document(1, b"a,b\n1,2\n", caption="*data*", filename="data.csv")
    again = await bot.send_document(1, sent.document.file_id)  # type: ignore[union-attr]
    photo = await bot.send_photo(1, b"jpeg", caption="look")

    stored = chat.message(sent.message_id).attachment
    assert stored
    assert (stored.name, stored.data) == ("data.csv", b"a,b\n1,2\n")
    assert again.document
    assert again.document.file_name == "data.csv"
    assert photo.photo
    assert photo.caption == "look"
    file = await bot.get_file(photo.photo[-1])
    assert await file.download_as_bytearray() == b"jpeg"


async def test_captions_hold_1024_units(bot: Bot, chat: Chat) -> None:
    await bot.send_document(1, b"x", caption="c" * 1024)
    with pytest.raises(BadRequest, match="Message caption is too long"):
        await bot.send_document(1, b"x", caption="c" * 1025)


async def test_empty_and_unknown_files_are_refused(bot: Bot, chat: Chat) -> None:
    with pytest.raises(BadRequest, match=r"(?i)non-empty"):
        await bot.send_document(1, b"")
    with pytest.raises(BadRequest, match=r"(?i)wrong file_id"):
        await bot.get_file("nothing")
    with pytest.raises(BadRequest, match=r"(?i)wrong remote file identifier"):
        await bot.send_document(1, "nothing")


async def test_an_upload_over_50_mb_is_too_large(api: BotApi, chat: Chat) -> None:
    form = aiohttp.FormData({"chat_id": "1"})
    form.add_field("document", io.BytesIO(bytes(51 * 1024 * 1024)), filename="huge.bin")
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{api.url}/bot{TOKEN}/sendDocument", data=form) as response,
    ):
        assert response.status == 413
        assert (await response.json())["description"] == "Request Entity Too Large"
    assert chat.messages == []


async def test_a_persons_file_is_downloaded_up_to_20_mb(
    api: BotApi, bot: Bot, ada: User, chat: Chat
) -> None:
    await chat.send_document(
        ada, "notes.txt", b"hello" * 1_000_000, "read /this", mime_type="text/plain"
    )
    await chat.send_document(ada, "big.bin", bytes(20 * 1024 * 1024 + 1))
    small, big = [update.message for update in await bot.get_updates()]

    assert small
    assert small.document
    assert small.document.mime_type == "text/plain"
    assert small.caption_entities[0].type == "bot_command"
    file = await bot.get_file(small.document)
    assert len(await file.download_as_bytearray()) == 5_000_000
    assert big
    assert big.document
    assert big.document.file_size == 20 * 1024 * 1024 + 1
    with pytest.raises(BadRequest, match="File is too big"):
        await bot.get_file(big.document)


async def test_a_download_of_nothing_is_not_found_and_needs_the_token(api: BotApi) -> None:
    async with aiohttp.ClientSession() as session:
        for token, status in ((TOKEN, 404), ("42:wrong", 401)):
            async with session.get(f"{api.url}/file/bot{token}/x/y") as response:
                assert response.status == status


async def test_what_people_send_is_what_python_telegram_bot_reads(
    bot: Bot, ada: User, chat: Chat
) -> None:
    first = await chat.send(ada, "/ask@ratchet_bot hi @ratchet_bot https://x.y/z.")
    await chat.send(ada, "again", reply_to=first)
    await chat.send(ada, "not/a command", entities=[])
    await chat.send_sticker(ada)
    await chat.send_voice(ada)
    await chat.send_photo(ada, b"jpeg", "look")
    await chat.edit(ada, first, "/ask better")

    updates = await bot.get_updates()

    text, reply, plain, sticker, voice, photo = [each.message for each in updates[:6]]
    assert text
    assert [(entity.type, text.parse_entity(entity)) for entity in text.entities] == [
        ("bot_command", "/ask@ratchet_bot"),
        ("mention", "@ratchet_bot"),
        ("url", "https://x.y/z"),
    ]
    assert text.from_user
    assert text.from_user.language_code == "en"
    assert reply
    assert reply.reply_to_message
    assert reply.reply_to_message.message_id == first
    assert plain
    assert plain.entities == ()
    assert sticker
    assert sticker.sticker
    assert voice
    assert voice.voice
    assert photo
    assert photo.photo
    assert photo.caption == "look"
    assert updates[6].edited_message
    assert updates[6].edited_message.text == "/ask better"


async def test_people_do_only_what_telegrams_apps_let_them(
    api: BotApi, bot: Bot, ada: User, chat: Chat
) -> None:
    stranger = api.user(2, first_name="Eve")
    sent = await bot.send_message(1, "hi")

    with pytest.raises(ValueError, match="not in chat"):
        await chat.send(stranger, "x")
    with pytest.raises(ValueError, match="cannot edit"):
        await chat.edit(ada, sent.message_id, "x")
    with pytest.raises(ValueError, match="not a forum"):
        api.topic(api.group(SUPERGROUP, "Team", [ada]), "Cats")
    with pytest.raises(LookupError, match="no button"):
        await chat.tap(ada, sent.message_id, "👍")
    with pytest.raises(ValueError, match="as long"):
        await chat.send(ada, "x" * 4097)


async def test_a_deleted_message_is_gone_without_an_update(
    api: BotApi, bot: Bot, ada: User, chat: Chat
) -> None:
    message_id = await chat.send(ada, "oops")
    pending = api.pending
    await chat.delete(ada, message_id)

    assert api.pending == pending
    assert chat.messages == []


async def test_a_tap_returns_the_bots_answer_once(
    api: BotApi, bot: Bot, ada: User, chat: Chat
) -> None:
    sent = await bot.send_message(1, "good?", reply_markup=THUMBS)
    tap = asyncio.create_task(chat.tap(ada, sent.message_id, "👍"))
    (update,) = await bot.get_updates(timeout=5)
    assert update.callback_query
    assert update.callback_query.data == "up"

    await update.callback_query.answer("Thanks", show_alert=True)

    answer = await tap
    assert (answer.text, answer.show_alert) == ("Thanks", True)
    with pytest.raises(BadRequest, match="Query is too old"):
        await update.callback_query.answer()


async def test_a_tap_is_forgotten_after_fifteen_seconds(
    api: BotApi, bot: Bot, ada: User, chat: Chat, clock: Clock
) -> None:
    sent = await bot.send_message(1, "good?", reply_markup=THUMBS)
    with pytest.raises(TimeoutError):
        await chat.tap_data(ada, sent.message_id, "forged", timeout=0.05)
    (update,) = await bot.get_updates()
    assert update.callback_query
    assert update.callback_query.data == "forged"
    clock.now += 16

    with pytest.raises(BadRequest, match="query id is invalid"):
        await update.callback_query.answer()


async def test_reactions_in_a_group_need_an_administrator_bot(api: BotApi, ada: User) -> None:
    await result(api, "getUpdates", allowed_updates=["message_reaction"])
    for group_id, is_admin in ((SUPERGROUP, True), (SUPERGROUP - 1, False)):
        group = api.group(group_id, "Team", [ada], bot_is_admin=is_admin)
        await group.react(ada, await group.send(ada, "x"), ["🔥"])

    assert [each["message_reaction"]["chat"]["id"] for each in api.pending] == [SUPERGROUP]


async def test_the_administrators_of_a_group_are_listed(
    api: BotApi, bot: Bot, ada: User, chat: Chat
) -> None:
    bob = api.user(2, first_name="Bob")
    api.group(SUPERGROUP, "Team", [ada, bob], forum=True)

    admins = await bot.get_chat_administrators(SUPERGROUP)

    assert [(each.user.id, each.status) for each in admins] == [
        (1, "creator"),
        (42, "administrator"),
    ]
    with pytest.raises(BadRequest, match=r"(?i)no administrators"):
        await bot.get_chat_administrators(1)


async def test_commands_are_kept_per_scope_and_language(api: BotApi, bot: Bot) -> None:
    await bot.set_my_commands([BotCommand("start", "Begin")])
    await bot.set_my_commands([BotCommand("los", "Los")], language_code="de")
    await bot.set_my_commands([BotCommand("stats", "Numbers")], BotCommandScopeChat(1))

    assert api.commands() == ["start"]
    assert api.commands(language_code="de") == ["los"]
    assert api.commands({"chat_id": 1, "type": "chat"}) == ["stats"]
    for command, reason in (
        ({"command": "Start!", "description": "x"}, "BOT_COMMAND_INVALID"),
        ({"command": "start", "description": ""}, "BOT_COMMAND_DESCRIPTION_INVALID"),
    ):
        assert reason in await refusal(api, "setMyCommands", commands=[command])


async def test_rates_allow_a_short_burst_and_then_one_a_second(clock: Clock) -> None:
    async with BotApi(TOKEN, enforce_rates=True, clock=clock) as api, make_bot(api) as bot:
        api.private(api.user(1))
        for _ in range(4):
            await bot.send_message(1, "x")
        with pytest.raises(RetryAfter):
            await bot.send_message(1, "x")
        clock.now += 1
        await bot.send_message(1, "x")


async def test_rates_allow_twenty_a_minute_in_a_group(clock: Clock) -> None:
    async with BotApi(TOKEN, enforce_rates=True, clock=clock) as api:
        api.group(SUPERGROUP, "Team", [api.user(1)])
        for _ in range(20):
            await result(api, "sendMessage", chat_id=SUPERGROUP, text="x")
            clock.now += 1

        status, body = await call(api, "sendMessage", chat_id=SUPERGROUP, text="x")

        assert (status, body["error_code"], body["parameters"]) == (429, 429, {"retry_after": 40})
        assert body["description"] == "Too Many Requests: retry after 40"


async def test_rates_allow_thirty_a_second_overall(clock: Clock) -> None:
    async with BotApi(TOKEN, enforce_rates=True, clock=clock) as api:
        for user_id in range(1, 32):
            api.private(api.user(user_id))
        for user_id in range(1, 31):
            await result(api, "sendMessage", chat_id=user_id, text="x")

        assert "retry after 1" in await refusal(api, "sendMessage", chat_id=31, text="x")


async def test_a_flood_is_refused_with_retry_after_as_often_as_asked(
    api: BotApi, bot: Bot, chat: Chat
) -> None:
    api.inject("sendMessage", flood(7), times=2)
    for _ in range(2):
        with pytest.raises(RetryAfter) as refused:
            await bot.send_message(1, "x")
        assert refused.value.retry_after == timedelta(seconds=7)
    await bot.send_message(1, "x")

    assert [each.status for each in api.calls_to("sendMessage")] == [429, 429, 200]
    assert len(chat.messages) == 1


async def test_a_server_error_is_html_and_does_nothing(api: BotApi, bot: Bot, chat: Chat) -> None:
    api.inject("sendMessage", server_error())

    with pytest.raises(NetworkError):
        await bot.send_message(1, "x")
    assert chat.messages == []
    assert api.calls_to("sendMessage")[0].status == 502


@pytest.mark.parametrize(("fault", "done"), [(drop_before(), 0), (drop_after(), 1)])
async def test_a_dropped_call_is_done_or_not_but_never_answered(
    api: BotApi, bot: Bot, chat: Chat, fault: Fault, done: int
) -> None:
    api.inject("sendMessage", fault)

    with pytest.raises(NetworkError):
        await bot.send_message(1, "x")

    assert len(chat.messages) == done
    assert [(each.status, each.fault) for each in api.calls_to("sendMessage")] == [
        (0, fault.kind.value)
    ]
    await bot.send_message(1, "x")


async def test_a_timeout_outlasts_the_client_and_does_nothing(api: BotApi, chat: Chat) -> None:
    api.inject("sendMessage", timeout())
    async with make_bot(api, read_timeout=0.3) as bot:
        with pytest.raises(TimedOut):
            await bot.send_message(1, "x")
        assert chat.messages == []
        await bot.send_message(1, "x")


async def test_a_timeout_drops_the_call_in_the_end(api: BotApi, bot: Bot) -> None:
    api.inject("getMe", timeout(0.1))

    with pytest.raises(NetworkError, match="disconnected"):
        await bot.get_me()


async def test_faults_reach_get_updates_and_downloads(
    api: BotApi, bot: Bot, ada: User, chat: Chat
) -> None:
    await chat.send_document(ada, "a.txt", b"a")
    api.inject("getUpdates", drop_after())
    api.inject("download", server_error())

    with pytest.raises(NetworkError):
        await bot.get_updates()
    (update,) = await bot.get_updates()
    assert update.message
    assert update.message.document
    file = await bot.get_file(update.message.document)
    with pytest.raises(NetworkError):
        await file.download_as_bytearray()
    assert await file.download_as_bytearray() == b"a"


async def test_a_fault_for_no_method_is_a_mistake_of_the_test(api: BotApi) -> None:
    with pytest.raises(ValueError, match="no method"):
        api.inject("sendMesage", flood(1))


async def test_wait_reply_skips_notices_and_sees_an_edit_become_final(
    api: BotApi, bot: Bot, ada: User, chat: Chat
) -> None:
    asked = await chat.send(ada, "hello")
    waiting = asyncio.create_task(chat.wait_reply(asked))
    notice = await bot.send_message(1, "One moment…")
    reply = await bot.send_message(1, "Hel")
    await bot.edit_message_text("Hello", 1, reply.message_id, reply_markup=THUMBS)

    final = await waiting
    assert (final.id, final.text) == (reply.message_id, "Hello")
    first = await chat.wait_reply(asked, final=any_message)
    assert first.id == notice.message_id


async def test_a_wait_in_vain_says_what_there_was(api: BotApi, bot: Bot, chat: Chat) -> None:
    await bot.send_message(1, "Sorry, busy")

    with pytest.raises(TimeoutError, match="Sorry, busy"):
        await chat.wait_reply(0, timeout=0.05)


async def test_closing_ends_polls_and_held_faults_at_once() -> None:
    async with asyncio.timeout(5):
        async with BotApi(TOKEN) as api:
            api.inject("getMe", timeout())
            poll = asyncio.create_task(update_texts(api, timeout=50))
            held = asyncio.create_task(call(api, "getMe"))
            await api.wait_polling()
            await api.wait_for(lambda: any(each.fault for each in api.calls))
        assert await poll == []
        with pytest.raises(aiohttp.ClientError):
            await held


async def echo(update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
    assert update.effective_message
    await update.effective_message.reply_text(
        f"echo {update.effective_message.text}", reply_markup=THUMBS, do_quote=True
    )


async def thank(update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
    assert update.callback_query
    await update.callback_query.answer(f"thanks for {update.callback_query.data}")


async def notice(update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
    assert update.message_reaction
    new = update.message_reaction.new_reaction
    await context.bot.send_message(update.message_reaction.chat.id, f"{len(new)} reaction")


@pytest.mark.parametrize("way", ["polling", "webhook"])
async def test_a_real_application_talks_taps_and_reacts(
    api: BotApi, ada: User, chat: Chat, way: str
) -> None:
    app = make_application(api)
    app.add_handler(MessageHandler(filters.TEXT, echo))
    app.add_handler(CallbackQueryHandler(thank))
    app.add_handler(MessageReactionHandler(notice))
    async with app:
        assert app.updater
        if way == "polling":
            await app.updater.start_polling(allowed_updates=Update.ALL_TYPES)
        else:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            await app.updater.start_webhook(
                "127.0.0.1",
                port,
                "hook",
                webhook_url=f"http://127.0.0.1:{port}/hook",
                secret_token="s3cret",
                allowed_updates=Update.ALL_TYPES,
            )
        await app.start()
        try:
            await api.wait_polling()
            asked = await chat.send(ada, "hello")
            reply = await chat.wait_reply(asked)
            assert (reply.text, reply.reply_to) == ("echo hello", asked)
            answer = await chat.tap(ada, reply.id, "👍")
            assert answer.text == "thanks for up"
            await chat.react(ada, reply.id, ["❤"])
            noticed = await chat.wait_reply(reply.id, final=any_message)
            assert noticed.text == "1 reaction"
            await api.wait_for(lambda: not api.pending)
        finally:
            await app.updater.stop()
            await app.stop()


async def test_by_hand_a_person_types_sees_and_taps() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loopback", "--port", "0", "--token", TOKEN),
        cwd=Path(__file__).parent.parent,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    output = process.stdout

    async def line() -> str:
        return (await output.readline()).decode().strip()

    try:
        async with asyncio.timeout(15):
            api = BotApi(TOKEN, port=int((await line()).split()[1].rpartition(":")[2]))
            await line()
            process.stdin.write(b"hello\n")
            assert await line() == "#1 you: hello"
            assert await update_texts(api) == ["hello"]
            await result(api, "sendMessageDraft", chat_id=1, draft_id=5, text="Hi")
            assert await line() == "~ Hi"
            markup = THUMBS.to_dict()
            await result(api, "sendMessage", chat_id=1, text="Hi!", reply_markup=markup)
            assert [await line(), await line()] == ["#2 Hi!", "[👍 1]  [👎]"]
            process.stdin.write(b"+2\n")
            updates = await result(api, "getUpdates", offset=-1, timeout=5)
            await api.aclose()
            assert isinstance(updates, list)
            if "callback_query" not in updates[0]:
                offset = updates[0]["update_id"] + 1
                updates = await result(api, "getUpdates", offset=offset, timeout=5)
                assert isinstance(updates, list)
            query_id = updates[0]["callback_query"]["id"]
            await result(api, "answerCallbackQuery", callback_query_id=query_id, text="Ta")
            assert await line() == "(Ta)"
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
