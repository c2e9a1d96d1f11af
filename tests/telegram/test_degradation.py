"""Outages: while something that the bot needs is away, people wait or are told; nothing is lost."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import make_url

from loopback import Chat, User
from store.database import Database
from store.tables import FeedbackRow, TurnRow
from tests.telegram.conftest import Start
from tests.telegram.running import RunningBot, SteppingEngine, eventually

IMPATIENT_MILLISECONDS = 50


@pytest.fixture
def impatient(sqlite: Database) -> None:
    """Shorten the wait for a locked database, as if the lock had outlasted it."""

    def set_timeout(connection: Any, _record: object) -> None:
        connection.execute(f"PRAGMA busy_timeout={IMPATIENT_MILLISECONDS}")

    event.listen(sqlite.engine, "connect", set_timeout)
    sqlite.engine.dispose()  # of connections that were made before


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """Lock the database from another program until the end of the block."""
    path = make_url(database.url).database
    assert path is not None
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def test_a_database_that_is_locked_for_a_moment_is_waited_for(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    with locked(bot.store.database):
        asked = await chat.send(ada, "hello")
        await asyncio.sleep(0.5)
        assert not chat.bot_messages

    assert (await chat.wait_reply(asked)).text == "You said: hello"
    await bot.settle()
    assert bot.count(TurnRow) == 1


@pytest.mark.usefixtures("impatient")
async def test_a_message_that_comes_while_the_database_is_away_is_answered_when_it_is_back(
    bot: RunningBot, chat: Chat, ada: User, caplog: pytest.LogCaptureFixture
) -> None:
    await bot.ask(chat, ada, "first")
    with locked(bot.store.database):
        asked = await chat.send(ada, "hello")
        await eventually(lambda: "waits for the database" in caplog.text)

    assert (await chat.wait_reply(asked)).text == "You said: hello"
    await bot.settle()
    assert bot.count(TurnRow) == 2


@pytest.mark.usefixtures("impatient")
async def test_a_reply_that_cannot_be_stored_is_one_sentence_and_the_next_is_answered(
    start: Start, chat: Chat, ada: User
) -> None:
    engine = SteppingEngine(1)
    bot = await start(engine=engine)
    asked = await chat.send(ada, "hello there")
    await eventually(lambda: not engine.hold.is_set())
    with locked(bot.store.database):
        engine.hold.set()
        await bot.api.wait_for(lambda: chat.bot_messages, 10)

    assert [each.text for each in chat.bot_messages] == [
        "I cannot reach my database. Please try again in a minute."
    ]
    assert (await bot.ask(chat, ada, "and now?")).text == "You said: and now?"
    assert asked < chat.bot_messages[-1].id


@pytest.mark.usefixtures("impatient")
async def test_a_thumb_that_cannot_be_stored_is_counted_when_the_database_is_back(
    bot: RunningBot, chat: Chat, ada: User, caplog: pytest.LogCaptureFixture
) -> None:
    reply = await bot.ask(chat, ada, "hello")
    with locked(bot.store.database):
        tap = asyncio.create_task(chat.tap(ada, reply.id, "👍", timeout=20))
        await eventually(lambda: "waits for the database" in caplog.text)
    await tap
    await bot.settle()

    assert bot.count(FeedbackRow) == 1
