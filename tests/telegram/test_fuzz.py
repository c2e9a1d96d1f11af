"""Random updates: nothing fails unforeseen, and the next question is answered."""

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from telegram import Update
from telegram.error import BadRequest

from bot.app import Store, make_telegram
from bot.telegram.application import App
from bot.telegram.buttons import KINDS as KINDS_OF_BUTTONS
from bot.telegram.commands import NAMES
from store.database import Database
from store.domain import Place
from tests.fakes import FakeEngine
from tests.telegram.requests import BOT, RecordingRequest
from tests.telegram.running import ADMIN_ID, make_settings, store_of

ADA = {"id": 1, "is_bot": False, "first_name": "Ada"}
GRACE = {"id": ADMIN_ID, "is_bot": False, "first_name": "Grace"}
CHATS = (
    {"id": 1, "type": "private", "first_name": "Ada"},
    {"id": ADMIN_ID, "type": "private", "first_name": "Grace"},
    {"id": -1_001_000_000_001, "type": "supergroup", "title": "Friends"},
    {"id": -5, "type": "group", "title": "Few"},
)
COMMANDS = (
    *("/start", "/help", "/new", "/why", "/group", "/privacy", "/export", "/forget", "/optout"),
    *("/optin", "/people", "/allow @ada"),
    *("/status", "/allow 1", "/deny x", "/audit", "/train", "/runs", "/adapters", "/promote a1"),
    *(
        "/golden 1",
        "/golden off",
        "/rollback",
        "/approve 1",
        "/stats",
        "/quarantine",
        "/documents",
        "/remove 1",
        "/invite 1 1",
    ),
)
BUTTONS = (
    *("up:1", "down:1", "clear:1", "again:1", "fix:1", "forget:yes:1", "consent:no:1"),
    *("access:ask:1", "access:allow:1", "access:deny:-1", "access:ask:99"),
    *("group:answers:no", "group:teaches:yes", "release:1", "cancel:1"),
    *("approve:1:0123456789abcdef", "refuse:1:0123456789abcdef"),
    *("promote:a1", "force:a1", "rollback:a1", "no:"),
)
ODD = st.text(max_size=60) | st.just("@ratchet_bot hello")
NUMBERS = st.integers(-10, 300)
KINDS = ("bot_command", "mention", "bold", "url", "text_link", "custom_emoji", "new_kind")
ENTITIES = st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(KINDS), "offset": NUMBERS, "length": NUMBERS}),
    max_size=3,
)
EMPTY_COMMAND = {"type": "bot_command", "offset": 0, "length": 0}
FILE = {"file_id": "f", "file_unique_id": "u"}
PARTS: dict[str, st.SearchStrategy[Any]] = {
    "text": ODD,
    "caption": ODD,
    "entities": ENTITIES,
    "caption_entities": ENTITIES,
    "edit_date": st.integers(0, 2**31),
    "message_thread_id": st.integers(0, 9),
    "is_topic_message": st.booleans(),
    "voice": st.just({**FILE, "duration": 1}),
    "document": st.fixed_dictionaries(
        {"file_id": st.just("f"), "file_unique_id": st.just("u")},
        optional={"file_name": st.text(max_size=20), "file_size": st.integers(0, 2**31)},
    ),
    "new_chat_members": st.just([ADA]),
    "sender_chat": st.sampled_from(CHATS),
}

SAID = {"message_id": 5, "date": int(time.time()), "chat": CHATS[0], "from": ADA}


def _message(more: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "message_id": st.integers(1, 9),
            "date": st.just(int(time.time())),
            "chat": st.sampled_from(CHATS),
            "from": st.sampled_from((ADA, GRACE, BOT)),
        },
        optional={**PARTS, **more},
    )


def _command(text: str) -> dict[str, Any]:
    word = text.split()[0]
    return {"text": text, "entities": [{"type": "bot_command", "offset": 0, "length": len(word)}]}


TALK = _message({"reply_to_message": _message({})})
COMMANDED = st.builds(
    lambda message, text: {**message, **_command(text)}, TALK, st.sampled_from(COMMANDS)
)
MESSAGES = TALK | COMMANDED
TAPS = st.fixed_dictionaries(
    {"id": st.just("1"), "from": st.sampled_from((ADA, GRACE)), "chat_instance": st.just("1")},
    optional={
        "data": st.text(max_size=64) | st.sampled_from(BUTTONS),
        "message": MESSAGES,
        "inline_message_id": st.text(max_size=9),
    },
)
EMOJI = st.lists(
    st.fixed_dictionaries({"type": st.just("emoji"), "emoji": st.text(min_size=1, max_size=2)}),
    max_size=3,
)
REACTIONS = st.fixed_dictionaries(
    {
        "chat": st.sampled_from(CHATS),
        "message_id": st.integers(1, 9),
        "date": st.just(0),
        "old_reaction": EMOJI,
        "new_reaction": EMOJI,
    },
    optional={"user": st.sampled_from((ADA, GRACE)), "actor_chat": st.sampled_from(CHATS)},
)
UPDATES = st.one_of(
    st.fixed_dictionaries({"message": MESSAGES}),
    st.fixed_dictionaries({"edited_message": MESSAGES}),
    st.fixed_dictionaries({"channel_post": MESSAGES}),
    st.fixed_dictionaries({"callback_query": TAPS}),
    st.fixed_dictionaries({"message_reaction": REACTIONS}),
)


@dataclass(frozen=True, kw_only=True)
class Fuzzed:
    """A bot in an event loop of its own, which outlives an example."""

    loop: asyncio.Runner
    application: App
    store: Store
    ids: Iterator[int] = field(default_factory=count)

    def take(self, update: dict[str, Any]) -> None:
        """Handle one update, as it would come from Telegram."""
        parsed = Update.de_json({"update_id": next(self.ids), **update}, self.application.bot)
        self.loop.run(self.application.process_update(parsed))


@pytest.fixture
def fuzzed(sqlite: Database, tmp_path: Path) -> Iterator[Fuzzed]:
    store = store_of(make_settings("http://127.0.0.1:9", data_dir=tmp_path), sqlite)
    request: Any = RecordingRequest()
    for asked in ("getFile", "getChatAdministrators"):
        request.failures[asked] = BadRequest("not found")
    with asyncio.Runner() as loop:
        application = make_telegram(store, FakeEngine(), request).application
        loop.run(application.initialize())
        yield Fuzzed(loop=loop, application=application, store=store)
        loop.run(application.shutdown())
    store.knowledge.close()


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(update=UPDATES)
@example(update={"message": {**SAID, "entities": [EMPTY_COMMAND]}})
def test_no_update_fails_unforeseen(
    fuzzed: Fuzzed, caplog: pytest.LogCaptureFixture, update: dict[str, Any]
) -> None:
    caplog.clear()

    fuzzed.take(update)

    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]
    fuzzed.take({"message": {**SAID, "text": "and now?"}})
    conversations = fuzzed.store.conversations
    last = conversations.last_turn(conversations.current(Place(chat_id=1)).id)
    assert last is not None
    assert (last.question, last.completion) == ("and now?", "You said: and now?")


def test_every_kind_of_button_and_command_is_among_what_is_drawn() -> None:
    for kind in KINDS_OF_BUTTONS:
        assert any(kind.parse(button) for button in BUTTONS), kind
    assert {text.split()[0][1:] for text in COMMANDS} == NAMES
