"""Updates that the loopback Telegram would not send: unasked kinds, missing and odd parts."""

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from telegram import Update
from telegram.error import BadRequest, Forbidden, NetworkError

from bot.app import Store, make_telegram
from bot.telegram.application import App
from bot.telegram.timing import Timing
from store.database import Database
from store.domain import Place, TurnState
from tests.fakes import FakeEngine
from tests.telegram.requests import BOT, RecordingRequest
from tests.telegram.running import make_settings, store_of

ADA = {"id": 1, "is_bot": False, "first_name": "Ada"}
PRIVATE = {"id": 1, "type": "private", "first_name": "Ada"}
GROUP = {"id": -1_001_000_000_001, "type": "supergroup", "title": "Friends"}


@pytest.fixture
def request_() -> RecordingRequest:
    return RecordingRequest()


@pytest.fixture
def store(sqlite: Database, tmp_path: Path) -> Iterator[Store]:
    store = store_of(make_settings("http://127.0.0.1:9", data_dir=tmp_path), sqlite)
    yield store
    store.knowledge.close()


@pytest.fixture
async def application(store: Store, request_: RecordingRequest) -> AsyncIterator[App]:
    at_once = Timing(call_again_seconds=0.01)
    application = make_telegram(store, FakeEngine(), request_, at_once).application  # type: ignore[arg-type]
    async with application:
        yield application


async def take(application: App, kind: str, body: dict[str, Any]) -> None:
    """Handle one update, as it would come from Telegram."""
    update = Update.de_json({"update_id": 1, kind: body}, application.bot)
    await application.process_update(update)


def message(chat: dict[str, Any], text: str, **more: object) -> dict[str, Any]:
    now = int(time.time())
    return {"message_id": 5, "date": now, "chat": chat, "from": ADA, "text": text, **more}


def tapped(data: str | None, **more: object) -> dict[str, Any]:
    shown = {**message(PRIVATE, "a reply"), "from": BOT}
    body = {"id": "1", "from": ADA, "chat_instance": "1", "message": shown, **more}
    return body if data is None else {**body, "data": data}


def new_turn(store: Store) -> int:
    """Add a finished turn to Ada's private chat; return its id."""
    place = store.conversations.current(Place(chat_id=1))
    store.people.see(1, "Ada")
    turn = store.conversations.begin_turn(place.id, 1, "hello", model="fake").id
    store.conversations.finish_turn(turn, state=TurnState.FINAL, completion="Hello.")
    return turn


@pytest.mark.parametrize("chat", [PRIVATE, GROUP], ids=["private", "group"])
async def test_edits_that_come_all_the_same_are_neither_answered_nor_kept(
    application: App, request_: RecordingRequest, store: Store, chat: dict[str, Any]
) -> None:
    """After a change of `allowed_updates` Telegram still sends what was queued, for a while."""
    await take(application, "edited_message", message(chat, "good morning", edit_date=1))

    assert not request_.sent("sendMessage")
    assert store.people.find(1) is None


@pytest.mark.parametrize("kind", ["channel_post", "edited_channel_post"])
async def test_posts_of_a_channel_are_left_alone(
    application: App, request_: RecordingRequest, kind: str
) -> None:
    body = message({**GROUP, "type": "channel"}, "@ratchet_bot hello", sender_chat=GROUP)
    del body["from"]

    await take(application, kind, body)

    assert not request_.sent("sendMessage")


async def test_a_message_without_an_author_is_left_alone(
    application: App, request_: RecordingRequest
) -> None:
    body = message(GROUP, "@ratchet_bot hello")
    del body["from"]

    await take(application, "message", body)

    assert not request_.sent("sendMessage")


@pytest.mark.parametrize(
    "service", [{"new_chat_members": [ADA]}, {"group_chat_created": True}, {"new_chat_title": "x"}]
)
async def test_what_telegram_says_in_a_group_is_left_alone(
    application: App, request_: RecordingRequest, service: dict[str, Any]
) -> None:
    body = message(GROUP, "", **service)
    del body["text"]

    await take(application, "message", body)

    assert not request_.sent("sendMessage")


async def test_a_kind_of_message_that_is_not_known_yet_is_said_to_be_unreadable(
    application: App, request_: RecordingRequest
) -> None:
    body = message(PRIVATE, "", hologram={"size": 1})
    del body["text"]

    await take(application, "message", body)

    assert [each["text"] for each in request_.sent("sendMessage")] == ["I can only read text."]


async def test_a_mention_with_impossible_bounds_is_no_error(
    application: App, request_: RecordingRequest
) -> None:
    entity = {"type": "mention", "offset": 900, "length": 900}

    await take(application, "message", message(GROUP, "hello", entities=[entity]))

    assert not request_.sent("sendMessage")


@pytest.mark.parametrize(
    "body",
    [
        tapped(None, game_short_name="chess"),
        tapped("up:1", message={"chat": PRIVATE, "message_id": 5, "date": 0}),
        tapped("up:1\n"),
        tapped("\x00"),
        tapped("👍"),
    ],
    ids=["game", "inaccessible", "newline", "control", "emoji"],
)
async def test_a_tap_that_cannot_be_understood_is_answered(
    application: App, request_: RecordingRequest, body: dict[str, Any]
) -> None:
    await take(application, "callback_query", body)

    (answer,) = request_.sent("answerCallbackQuery")
    assert answer["text"] in ("That button no longer works.", "I no longer have that reply.")
    assert not request_.sent("sendMessage")


async def test_a_tap_on_an_inline_message_is_answered(
    application: App, request_: RecordingRequest
) -> None:
    body = tapped("up:1", inline_message_id="x")
    del body["message"]

    await take(application, "callback_query", body)

    assert len(request_.sent("answerCallbackQuery")) == 1


@pytest.mark.parametrize(
    "failure", [BadRequest("Query is too old"), NetworkError("gone")], ids=["old", "network"]
)
async def test_a_thumb_counts_though_it_cannot_be_acknowledged(
    application: App, request_: RecordingRequest, store: Store, failure: BadRequest | NetworkError
) -> None:
    turn = new_turn(store)
    request_.failures["answerCallbackQuery"] = failure

    await take(application, "callback_query", tapped(f"up:{turn}"))

    assert store.feedback.tally(turn).up == 1


async def test_a_thumb_counts_though_the_buttons_cannot_be_changed(
    application: App, request_: RecordingRequest, store: Store
) -> None:
    turn = new_turn(store)
    request_.failures["editMessageReplyMarkup"] = BadRequest("Message to edit not found")

    await take(application, "callback_query", tapped(f"up:{turn}"))

    assert store.feedback.tally(turn).up == 1
    assert not request_.sent("sendMessage")


async def test_a_count_of_reactions_is_nobodys_rating(
    application: App, request_: RecordingRequest, store: Store
) -> None:
    body = {
        "chat": GROUP,
        "message_id": 5,
        "date": 0,
        "reactions": [{"type": {"type": "emoji", "emoji": "👍"}, "total_count": 3}],
    }

    await take(application, "message_reaction_count", body)

    assert store.statistics.ratings().up == 0
    assert not request_.sent("sendMessage")


async def test_a_person_who_cannot_be_told_of_an_error_stops_nothing(
    application: App, request_: RecordingRequest
) -> None:
    request_.failures["sendMessage"] = Forbidden("bot was blocked by the user")

    await take(application, "message", message(PRIVATE, "hello"))
    await take(application, "message", message(PRIVATE, "/help"))

    assert request_.sent("sendMessage")
