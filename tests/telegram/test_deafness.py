"""Nothing that arrives makes the bot deaf: it is one row and one line, and the next is answered."""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from bot.background import in_background
from bot.errors import BotError
from bot.telegram.polling import Polling
from bot.telegram.raw import chat_of, cleaned, id_of, kind_of, may_be_for_us, person_of
from loopback import BotApi, Chat, User
from store.tables import UpdateRow
from store.updates import ReceivedUpdate
from tests.telegram.running import RunningBot, eventually

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NAMES = (
    *("update_id", "message", "callback_query", "message_reaction", "from", "chat", "id", "type"),
    *("entities", "reply_to_message", "user", "caption_entities", "is_bot"),
)
SHAPED = st.recursive(
    JSON,
    lambda inner: st.dictionaries(
        st.sampled_from(NAMES),
        inner,
    ),
    max_leaves=12,
)


def message(chat: Chat, user: User, /, **more: object) -> dict[str, Any]:
    sender = {"id": user.id, "is_bot": False, "first_name": user.first_name}
    place = {"id": chat.id, "type": "private", "first_name": user.first_name}
    body = {"message_id": 77, "date": int(time.time()), "chat": place, "from": sender}
    return {"message": {**body, **more}}


POLL = {"id": "1", "question": "?", "options": [], "type": "regular"}
"""A poll as Bot API servers before 9.6 send it: the library requires more fields."""

ODD = {
    "half a surrogate pair": {
        "text": "\ud83d hello @ratchet_bot",
        "entities": [{"type": "mention", "offset": 8, "length": 12}],
    },
    "a NUL": {"text": "hel\x00lo"},
    "a poll without required fields": {"poll": POLL},
    "a sticker without required fields": {"sticker": {"file_id": "1"}},
    "a pinned message that is gone": {
        "pinned_message": {"message_id": 5, "date": 0, "chat": {"id": 1, "type": "private"}}
    },
    "a text that is a list": {"text": ["hello"]},
    "a chat that is a number": {"text": "hello", "chat": 5},
    "a sender that is a list": {"text": "hello", "from": []},
    "a date that is a text": {"text": "hello", "date": "now"},
    "an entity behind the end": {
        "text": "hi",
        "entities": [{"type": "mention", "offset": 900, "length": 2_000_000_000}],
    },
    "ten megabytes": {"text": "hello " * 1_700_000},
    "a chat whose id is a list": {"text": "/help", "chat": {"id": [1], "type": "private"}},
    "a sender whose id is a record": {"text": "/help", "from": {"id": {}, "is_bot": False}},
    "a reply to a message of no size": {
        "text": "hello",
        "reply_to_message": {
            "message_id": 2**65,
            "date": 1,
            "chat": {"id": 1, "type": "private"},
        },
    },
    "a number that is none": {"text": "hello", "date": float("nan")},
    "an id that no database takes": {"text": "hello", "from": {"id": 2**70, "is_bot": False}},
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
async def test_the_next_message_is_answered(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User, bob: User, odd: dict[str, Any]
) -> None:
    api.push(message(chat, ada, **odd))

    other = api.private(bob)
    asked = await other.send(bob, "hello")
    assert (await other.wait_reply(asked)).text == "You said: hello"
    await bot.settle()
    await eventually(lambda: not left(bot))
    assert await bot.say(api.private(bob), bob, "/help")


async def test_what_cannot_be_understood_is_one_row_that_says_why(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User, caplog: pytest.LogCaptureFixture
) -> None:
    update_id = api.push(message(chat, ada, poll=POLL))
    await bot.settle()

    [row] = await asyncio.to_thread(rows, bot)
    assert (row.id, row.person_id) == (update_id, ada.id)
    assert "missing" in (row.failure or "")
    assert row.body["message"]["poll"] == POLL
    assert f"update {update_id} cannot be understood" in caplog.text


async def test_an_error_that_nobody_thought_of_while_updates_are_stored_stops_nothing(
    bot: RunningBot, chat: Chat, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_in = bot.store.inbox.take_in

    def fail(updates: Sequence[ReceivedUpdate]) -> set[int]:
        if any(each.body["message"].get("text") == "poison" for each in updates):
            raise ZeroDivisionError
        return take_in(updates)

    monkeypatch.setattr(bot.store.inbox, "take_in", fail)
    await chat.send(ada, "poison")
    asked = await chat.send(ada, "two")
    assert (await chat.wait_reply(asked)).text == "You said: two"
    failures = [row.failure for row in await asyncio.to_thread(rows, bot)]
    assert [each for each in failures if each] == ["ZeroDivisionError: "]


@pytest.mark.parametrize("answer", [b"nonsense", b'{"ok": true}', b'{"result": [' + b"[" * 5000])
async def test_an_answer_that_is_no_json_is_passed_over(answer: bytes) -> None:
    good = json.dumps({"result": [{"update_id": 8, "message": {}}]}).encode()
    bad = answer + b' "update_id": 7, '
    answers = [bad, bad, good]
    received: list[Any] = []

    asked: list[str] = []

    class Request:
        async def do_request(self, url: str, method: str, **_: Any) -> tuple[int, bytes]:
            asked.append(url)
            if not answers:
                await asyncio.sleep(60)
            return 200, answers.pop(0)

    async def receive(updates: Any) -> None:
        received.extend(updates)

    polling = Polling("http://x/getUpdates", Request(), receive)  # type: ignore[arg-type]
    task = asyncio.create_task(polling.run())
    await eventually(lambda: len(received) == 2)
    task.cancel()

    assert [id_of(each) for each in received] == [7, 8]
    assert "limit=1&" in asked[1]
    assert "offset=8" in asked[2]


@given(SHAPED)
def test_nothing_that_is_told_of_a_raw_update_fails(update: Any) -> None:
    id_of(update), kind_of(update), person_of(update), chat_of(update)
    assert may_be_for_us(update, 42, "ratchet_bot") in (True, False)
    json.dumps(cleaned(update), ensure_ascii=False).encode()
    assert "\x00" not in str(cleaned(update))


async def test_drawn_updates_leave_the_bot_hearing(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User, bob: User
) -> None:
    drawn = random.Random(4)
    names = ["text", "chat", "from", "entities", "date", "photo", "document", "reply_to_message"]
    values = [None, 0, "x", [], {}, [{}], {"id": 1}, -1, 1e300, "\ud800", {"type": "private"}]
    for _ in range(200):
        wrong = {name: drawn.choice(values) for name in drawn.sample(names, drawn.randrange(1, 4))}
        api.push(message(chat, ada, **wrong))

    other = api.private(bob)
    asked = await other.send(bob, "hello")
    assert (await other.wait_reply(asked, timeout=30)).text == "You said: hello"
    await bot.settle()
    assert not await asyncio.to_thread(left, bot)


async def test_a_task_that_ends_by_itself_ends_the_process() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError("at once")

    with pytest.raises(BotError, match="the inbox ended: at once"):
        async with in_background(fail(), name="inbox"):
            await asyncio.sleep(10)


async def test_a_block_that_is_cancelled_from_outside_stays_cancelled() -> None:
    async def endless() -> None:
        await asyncio.sleep(100)

    async def block() -> None:
        async with in_background(endless(), name="inbox"):
            await asyncio.sleep(100)

    task = asyncio.create_task(block())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_bot_whose_inbox_dies_ends_with_an_error(
    bot: RunningBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise ZeroDivisionError

    bot.telegram.listener._receiver._receive = die  # type: ignore[union-attr, assignment]
    bot.api.push({"message": {}})
    with pytest.raises(BotError, match="the polling ended"):
        async with asyncio.timeout(10):
            await bot.task


def rows(bot: RunningBot) -> list[UpdateRow]:
    with bot.store.database.reading() as session:
        return list(session.scalars(select(UpdateRow)))


def left(bot: RunningBot) -> list[UpdateRow]:
    return [row for row in rows(bot) if row.handled_at is None]
