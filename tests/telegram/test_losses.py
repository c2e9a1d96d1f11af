"""Nothing is lost without a word: faults that are not an update's own are waited out."""

import time
from dataclasses import replace
from typing import Any

import pytest

from loopback import BotApi, Chat, User, server_error
from store.database import Database
from store.domain import Access, Rating, TurnState
from store.errors import DatabaseUnavailable
from store.updates import ATTEMPTS, Updates
from tests.fakes import FakeEngine
from tests.telegram.conftest import Start
from tests.telegram.running import HURRIED, RunningBot, eventually
from tests.telegram.test_deafness import left
from tests.telegram.test_inbox import left as waiting_message
from tests.telegram.test_inbox import take_in

FEW_TRIES = replace(HURRIED, calls=2)


def failing(times: int, then: Any) -> Any:
    failures = iter(range(times))

    def fail(*arguments: Any, **named: Any) -> Any:
        for _ in failures:
            raise DatabaseUnavailable("the database is away")
        return then(*arguments, **named)

    return fail


@pytest.mark.parametrize("times", [1, 4])
async def test_a_reaction_counts_though_the_database_was_away_when_it_came(
    bot: RunningBot, chat: Chat, ada: User, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    reply = await bot.ask(chat, ada, "hello")
    rate = bot.store.feedback.rate
    monkeypatch.setattr(bot.store.feedback, "rate", failing(times, rate))

    await chat.react(ada, reply.id, ["❤"])
    await bot.settle()

    assert bot.ratings(reply) == {ada.id: Rating.UP}
    assert not left(bot)


async def test_the_last_of_two_thumbs_counts_though_the_first_had_to_wait(
    bot: RunningBot, chat: Chat, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = await bot.ask(chat, ada, "hello")
    monkeypatch.setattr(bot.store.feedback, "rate", failing(3, bot.store.feedback.rate))

    await chat.react(ada, reply.id, ["❤"])
    await chat.react(ada, reply.id, ["👎"])
    await bot.settle()

    assert bot.ratings(reply) == {ada.id: Rating.DOWN}


async def test_a_command_is_answered_when_the_database_is_back(
    bot: RunningBot, office: Chat, grace: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = bot.store.people
    monkeypatch.setattr(people, "decide", failing(2, people.decide))
    await office.send(grace, "/allow 5")
    await bot.settle()
    assert [each.text for each in office.bot_messages] == ["5 may talk to me."]


async def test_nobody_is_let_past_the_admission_by_a_fault_of_the_database(
    bot: RunningBot, chat: Chat, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot.store.people.see(ada.id, "Ada")
    bot.store.people.decide(ada.id, Access.DENIED)
    monkeypatch.setattr(bot.store.people, "see", failing(1, bot.store.people.see))

    await chat.send(ada, "hello")
    await bot.settle()

    assert not bot.engine.prompts
    assert "no access" in chat.bot_messages[0].text


async def test_a_reply_arrives_when_telegram_is_back(
    start: Start, api: BotApi, chat: Chat, ada: User
) -> None:
    bot = await start(timing=FEW_TRIES)
    api.inject("sendMessage", server_error(), 7)

    asked = await chat.send(ada, "hello")
    assert (await chat.wait_reply(asked, timeout=20)).text == "You said: hello"
    await bot.settle()

    assert len(chat.bot_messages) == 1
    assert len(bot.engine.prompts) == 1, "it is sent as it was written"
    assert not left(bot)


async def test_a_reply_is_kept_no_longer_than_messages_are_answered(
    start: Start, api: BotApi, chat: Chat, ada: User, caplog: pytest.LogCaptureFixture
) -> None:
    bot = await start(timing=FEW_TRIES, answer_within=1)
    bot.telegram.dispatcher._again_within = type(bot.telegram.dispatcher._again_within)(seconds=0.5)
    api.inject("sendMessage", server_error(), 10_000)
    await chat.send(ada, "hello")
    await eventually(lambda: "is given up" in caplog.text, 20)
    await bot.settle()
    assert not left(bot)


async def test_messages_that_wait_through_restarts_are_answered(
    sqlite: Database, start: Start, chat: Chat, ada: User
) -> None:
    bot = await start(timing=replace(HURRIED, finish_seconds=0.05))
    bot.engine.hold.clear()
    for number in range(5):
        await chat.send(ada, f"question {number}")
    await eventually(lambda: bot.engine.prompts)
    for _ in range(ATTEMPTS + 2):
        bot.stop.set()
        await bot.task
        engine = FakeEngine()
        engine.hold.clear()
        bot = await start(engine=engine, timing=replace(HURRIED, finish_seconds=0.05))
        await engine.asked.wait()
    bot.stop.set()
    await bot.task

    last = await start()
    await eventually(lambda: not left(last), 20)

    texts = [each.text for each in chat.bot_messages]
    assert all(f"You said: question {number}" in texts for number in range(5))


async def test_who_wrote_what_processes_die_of_is_told(
    sqlite: Database, start: Start, chat: Chat, ada: User, caplog: pytest.LogCaptureFixture
) -> None:
    update = waiting_message(chat, ada, 501, "poison", age=0)
    for _ in range(ATTEMPTS):
        died = Updates(sqlite)
        take_in(died, 501, ada, update)
        died.take_over(alone=True)
        died.begin([501])

    bot = await start()
    await eventually(lambda: chat.bot_messages)

    assert "could not handle your message" in chat.bot_messages[0].text
    assert "update 501 is given up" in caplog.text
    assert not left(bot)


async def test_a_full_disk_while_a_turn_begins_loses_no_question(
    bot: RunningBot, chat: Chat, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversations = bot.store.conversations
    begin = failing(3, conversations.begin_turn)
    monkeypatch.setattr(conversations, "begin_turn", begin)
    asked = await chat.send(ada, "hello")
    started = time.monotonic()
    assert (await chat.wait_reply(asked)).text == "You said: hello"
    assert time.monotonic() - started < 5
    assert bot.turn(chat.bot_messages[0]).state is TurnState.FINAL


async def test_a_reply_whose_number_could_not_be_stored_at_once_can_be_rated(
    bot: RunningBot, chat: Chat, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversations = bot.store.conversations
    monkeypatch.setattr(conversations, "record_sent", failing(3, conversations.record_sent))
    reply = await bot.ask(chat, ada, "hello")
    await chat.react(ada, reply.id, ["❤"])
    await bot.settle()
    assert len(chat.bot_messages) == 1
    assert bot.ratings(reply) == {ada.id: Rating.UP}


async def test_a_correction_is_asked_for_once_though_the_database_is_away_for_a_moment(
    bot: RunningBot, chat: Chat, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = await bot.ask(chat, ada, "hello")
    conversations = bot.store.conversations
    monkeypatch.setattr(conversations, "record_sent", failing(3, conversations.record_sent))
    await bot.tap(chat, ada, reply, "✏️")
    [_, question] = chat.bot_messages
    await chat.send(ada, "Hello, Ada.", reply_to=question.id)
    await bot.settle()
    corrections = bot.store.feedback.corrections(bot.turn(reply).id)
    assert [each.text for each in corrections] == ["Hello, Ada."]
