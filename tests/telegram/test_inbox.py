"""The inbox: a message is answered once, through crashes, database outages and repeats."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from loopback import BotApi, Chat, User, server_error
from store.database import Database
from store.domain import Place, Rating, TurnState
from store.errors import DatabaseUnavailable
from store.tables import TurnRow, UpdateRow
from store.updates import ReceivedUpdate, Updates
from tests.fakes import Clock, FakeEngine
from tests.telegram.conftest import Start
from tests.telegram.running import HURRIED, RunningBot, eventually

HOURS = 3600


@pytest.fixture
def died(sqlite: Database) -> Updates:
    """Return the inbox of a process that took updates in and died."""
    return Updates(sqlite)


def left(chat: Chat, user: User, update_id: int, text: str, *, age: float = 0) -> dict[str, Any]:
    """Return a message as it lies in the inbox."""
    sender = {"id": user.id, "is_bot": False, "first_name": user.first_name}
    place = {"id": chat.id, "type": "private", "first_name": user.first_name}
    message = {"message_id": update_id, "date": int(Clock()().timestamp() - age), "chat": place}
    return {"update_id": update_id, "message": {**message, "from": sender, "text": text}}


def take_in(updates: Updates, update_id: int, user: User, body: dict[str, Any]) -> None:
    updates.take_in([ReceivedUpdate(id=update_id, person_id=user.id, body=body)])


def handled(bot: RunningBot) -> bool:
    """Return whether nothing is left in the inbox."""
    with bot.store.database.reading() as session:
        return not session.scalars(select(UpdateRow).where(UpdateRow.handled_at.is_(None))).all()


def texts(chat: Chat) -> list[str]:
    return [message.text for message in chat.bot_messages]


async def test_an_update_is_stored_before_telegram_is_told(
    bot: RunningBot,
    api: BotApi,
    chat: Chat,
    ada: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_in, away = bot.store.inbox.take_in, True

    def fail(*update: Any) -> set[int]:
        if away:
            raise DatabaseUnavailable("the database is away")
        return take_in(*update)

    monkeypatch.setattr(bot.store.inbox, "take_in", fail)
    asked = await chat.send(ada, "hello")
    with pytest.raises(TimeoutError):
        await chat.wait_reply(asked, timeout=0.5)
    assert api.pending, "Telegram still has it"

    away = False

    assert (await chat.wait_reply(asked)).text == "You said: hello"


async def test_what_was_handled_is_emptied(bot: RunningBot, chat: Chat, ada: User) -> None:
    await bot.ask(chat, ada, "hello")

    await eventually(lambda: handled(bot))
    with bot.store.database.reading() as session:
        (row,) = session.scalars(select(UpdateRow))
    assert (row.body, row.person_id) == ({}, None)


async def test_what_a_group_says_to_others_is_not_even_stored(
    bot: RunningBot, group: Chat, ada: User
) -> None:
    await group.send(ada, "See you at nine.")
    await bot.settle()

    assert bot.count(UpdateRow) == 0


async def test_messages_that_a_crash_left_are_answered_oldest_first(
    died: Updates, start: Start, api: BotApi, chat: Chat, ada: User
) -> None:
    for update_id in (502, 501):
        take_in(died, update_id, ada, left(chat, ada, update_id, f"hello {update_id}"))

    bot = await start()
    await eventually(lambda: handled(bot))

    assert texts(chat) == ["You said: hello 501", "You said: hello 502"]


async def test_what_a_crash_left_waits_until_telegram_can_be_reached(
    died: Updates, start: Start, api: BotApi, chat: Chat, ada: User
) -> None:
    take_in(died, 501, ada, left(chat, ada, 501, "hello"))
    api.inject("getMe", server_error(), 2)

    bot = await start()
    await eventually(lambda: handled(bot))

    assert texts(chat) == ["You said: hello"]


async def test_a_message_that_was_missed_for_long_is_left(
    died: Updates, start: Start, chat: Chat, ada: User
) -> None:
    take_in(died, 501, ada, left(chat, ada, 501, "good morning", age=13 * HOURS))
    take_in(died, 502, ada, left(chat, ada, 502, "good evening", age=HOURS))

    bot = await start()
    await eventually(lambda: handled(bot))

    assert texts(chat) == ["You said: good evening"]


async def test_a_reply_that_was_written_but_not_shown_is_shown_as_it_was_written(
    died: Updates, start: Start, sqlite: Database, chat: Chat, ada: User
) -> None:
    engine = FakeEngine()
    bot = await start(engine=engine)
    turn = written(bot, chat, ada, 501)
    await bot.close()
    take_in(died, 501, ada, left(chat, ada, 501, "hello"))

    bot = await start(engine=engine)
    await eventually(lambda: handled(bot))

    assert texts(chat) == ["Hello, Ada."]
    assert bot.shown(chat, turn)
    assert not engine.prompts


async def test_a_reply_that_was_shown_is_not_shown_again(
    bot: RunningBot, start: Start, died: Updates, chat: Chat, ada: User
) -> None:
    shown = await bot.ask(chat, ada, "hello")
    turn = bot.turn(shown)
    assert turn.update_id is not None
    await bot.close()
    with bot.store.database.session() as session:  # it died before it was noted as handled
        row = session.get_one(UpdateRow, turn.update_id)
        row.handled_at, row.body = None, left(chat, ada, turn.update_id, "hello")

    again = await start()
    await eventually(lambda: handled(again))

    assert texts(chat) == ["You said: hello"]
    assert again.count(TurnRow) == 1


async def test_a_reply_that_was_begun_is_written_anew_in_the_same_turn(
    died: Updates, start: Start, chat: Chat, ada: User
) -> None:
    bot = await start()
    begun = begin(bot, chat, ada, 501)
    await bot.close()
    take_in(died, 501, ada, left(chat, ada, 501, "hello"))

    bot = await start()
    await eventually(lambda: handled(bot))

    assert texts(chat) == ["You said: hello"]
    assert bot.count(TurnRow) == 1
    assert bot.store.conversations.turn(begun).state is TurnState.FINAL


async def test_a_rating_that_a_crash_left_counts(
    bot: RunningBot, start: Start, died: Updates, chat: Chat, ada: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")
    await bot.close()
    message = {**left(chat, ada, 501, reply.text)["message"], "message_id": reply.id}
    tap = {
        "id": "1",
        "from": message["from"],
        "chat_instance": "1",
        "message": message,
        "data": f"up:{bot.turn(reply).id}",
    }
    take_in(died, 501, ada, {"update_id": 501, "callback_query": tap})

    again = await start()
    await eventually(lambda: handled(again))

    assert again.ratings(reply) == {ada.id: Rating.UP}


@pytest.mark.bad_input("an update that comes twice")
async def test_an_update_that_comes_twice_is_handled_once(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")
    update_id = bot.turn(reply).update_id
    assert update_id is not None

    api.push(left(chat, ada, update_id, "hello"))
    await bot.settle()

    assert texts(chat) == ["You said: hello"]


async def test_what_waits_when_the_bot_is_stopped_is_answered_when_it_runs_again(
    start: Start, chat: Chat, ada: User
) -> None:
    bot = await start(timing=replace(HURRIED, finish_seconds=0.1))
    bot.engine.hold.clear()
    await chat.send(ada, "hello")
    await bot.engine.asked.wait()
    bot.stop.set()
    bot.task.cancel()
    await bot.close()

    again = await start()
    await eventually(lambda: handled(again))

    assert "You said: hello" in texts(chat)


def begin(bot: RunningBot, chat: Chat, user: User, update_id: int) -> int:
    """Begin a turn whose process died before its reply was written."""
    store = bot.store
    conversation = store.conversations.current(Place(chat_id=chat.id))
    store.people.see(user.id, user.first_name)
    return store.conversations.begin_turn(
        conversation.id, user.id, "hello", model="fake", update_id=update_id
    ).id


def written(bot: RunningBot, chat: Chat, user: User, update_id: int) -> int:
    """Add a turn whose process died before its reply was shown."""
    turn_id = begin(bot, chat, user, update_id)
    bot.store.conversations.finish_turn(
        turn_id, state=TurnState.FINAL, completion=f"Hello, {user.first_name}."
    )
    return turn_id
