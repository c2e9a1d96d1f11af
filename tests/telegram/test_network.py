"""Telegram and the way to it: faults on calls, starting, stopping, webhooks."""

import asyncio
import hmac
import logging
import socket
from pathlib import Path

import aiohttp
import pytest
from telegram.request import HTTPXRequest

from bot.errors import BotError
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
from store.database import Database
from store.logs import set_up_logging
from tests.telegram.conftest import Start
from tests.telegram.running import (
    RunningBot,
    SteppingEngine,
    eventually,
    make_settings,
    run,
    store_of,
)

SECRET = "a-shared_secret"


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("fault", "times"),
    [(flood(1), 1), (server_error(), 3), (drop_before(), 3)],
    ids=["429", "502", "dropped"],
)
async def test_a_reply_that_fails_to_be_sent_is_sent_again_and_arrives_once(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User, fault: Fault, times: int
) -> None:
    api.inject("sendMessage", fault, times)

    reply = await bot.ask(chat, ada, "hello")

    assert [each.id for each in chat.bot_messages] == [reply.id]
    assert len(api.calls_to("sendMessage")) == times + 1


async def test_a_flood_is_waited_out_as_long_as_telegram_asks(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User
) -> None:
    api.inject("sendMessage", flood(1))
    await bot.ask(chat, ada, "hello")

    refused, sent = api.calls_to("sendMessage")
    assert (refused.fault, sent.fault) == ("flood", None)
    assert sent.at - refused.at >= 1


async def test_a_reply_whose_receipt_is_lost_arrives_at_least_once(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User
) -> None:
    """After a lost call nobody can tell whether Telegram acted, so here the reply is sent twice."""
    api.inject("sendMessage", drop_after())
    await bot.ask(chat, ada, "hello")

    assert [each.text for each in chat.bot_messages] == ["You said: hello"] * 2


async def test_a_reply_that_telegram_does_not_answer_to_is_sent_again(
    start: Start, api: BotApi, chat: Chat, ada: User
) -> None:
    bot = await start(request=HTTPXRequest(connection_pool_size=8, read_timeout=0.2))
    api.inject("sendMessage", timeout(5))

    await bot.ask(chat, ada, "hello")

    assert [each.text for each in chat.bot_messages] == ["You said: hello"]


@pytest.mark.parametrize("fault", [server_error(), drop_before(), flood(1)])
async def test_a_failing_draft_harms_nothing(
    start: Start, api: BotApi, chat: Chat, ada: User, fault: Fault
) -> None:
    bot = await start(engine=SteppingEngine(2))
    api.inject("sendMessageDraft", fault, 100)
    api.inject("sendChatAction", fault, 100)
    asked = await chat.send(ada, "one two three")
    await api.wait_for(lambda: api.calls_to("sendMessageDraft"))
    bot.engine.hold.set()

    assert (await chat.wait_reply(asked)).text == "You said: one two three"
    await bot.settle()
    assert len(chat.bot_messages) == 1


async def test_an_edit_that_changes_nothing_is_no_error(
    start: Start, api: BotApi, group: Chat, ada: User, caplog: pytest.LogCaptureFixture
) -> None:
    await start()
    api.inject("editMessageReplyMarkup", drop_after())
    asked = await group.send(ada, "@ratchet_bot hello")
    reply = await group.wait_reply(asked)

    await group.tap(ada, reply.id, "👍")  # done, lost, and so done again
    await api.wait_for(lambda: len(api.calls_to("editMessageReplyMarkup")) == 2)
    await group.tap(ada, reply.id, "👎")
    await api.wait_for(lambda: "👎 1" in group.message(reply.id).labels)

    assert "not modified" in str(api.calls_to("editMessageReplyMarkup")[1].error)
    assert not [each for each in caplog.records if each.name.startswith("bot.")]


async def test_a_final_edit_that_changes_nothing_does_not_send_the_reply_again(
    start: Start, api: BotApi, group: Chat, ada: User
) -> None:
    bot = await start(engine=SteppingEngine(2))
    asked = await group.send(ada, "@ratchet_bot one two")
    await group.wait_reply(asked, final=any_message)
    api.inject("editMessageText", drop_after())
    bot.engine.hold.set()
    await group.wait_reply(asked)
    await bot.settle()

    assert [each.text for each in group.bot_messages] == ["You said: one two"]


async def test_a_person_who_blocked_the_bot_stops_nothing(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User, bob: User
) -> None:
    bot.engine.hold.clear()
    await chat.send(ada, "hello")
    await eventually(lambda: bot.engine.prompts)
    api.block(ada)
    bot.engine.hold.set()
    await bot.settle()

    assert not chat.bot_messages
    assert (await bot.ask(api.private(bob), bob, "hello")).text == "You said: hello"
    api.unblock(ada)
    assert (await bot.ask(chat, ada, "hello again")).text == "You said: hello again"


async def test_polling_goes_on_after_telegram_failed(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User
) -> None:
    api.inject("getUpdates", server_error())
    await bot.ask(chat, ada, "one")
    await bot.ask(chat, ada, "two")


async def test_stopping_finishes_the_reply_that_is_being_written(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    bot.engine.hold.clear()
    asked = await chat.send(ada, "hello")
    await eventually(lambda: bot.engine.prompts)
    bot.stop.set()
    await asyncio.sleep(0)
    bot.engine.hold.set()

    async with asyncio.timeout(5):
        await bot.task
    reply = chat.bot_messages[-1]
    assert (reply.text, bool(reply.buttons)) == ("You said: hello", True)
    assert bot.shown(chat, bot.turn(reply).id) == (reply.id,)
    assert reply.id > asked


async def test_stopping_answers_what_was_waiting_or_leaves_it_for_the_next_start(
    start: Start, chat: Chat, ada: User
) -> None:
    first = await start()
    first.engine.hold.clear()
    for text in ("one", "two", "three"):
        await chat.send(ada, text)
    await eventually(lambda: first.engine.prompts)
    first.stop.set()
    await asyncio.sleep(0)
    first.engine.hold.set()
    async with asyncio.timeout(5):
        await first.task
    second = await start()
    await second.settle()

    assert [each.text[10:] for each in chat.bot_messages] == ["one", "two", "three"]


async def test_what_is_written_while_the_bot_is_away_is_answered_at_the_next_start(
    start: Start, chat: Chat, ada: User
) -> None:
    first = await start()
    await first.close()
    asked = await chat.send(ada, "are you there?")

    await start()

    assert (await chat.wait_reply(asked)).text == "You said: are you there?"


async def test_an_unknown_token_is_said_without_showing_it(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    set_up_logging("INFO")
    caplog.set_level(logging.INFO)
    bot = await start(telegram_token="42:wrong", wait=False)

    with pytest.raises(BotError, match="RATCHET_TELEGRAM_TOKEN") as raised:
        async with asyncio.timeout(5):
            await bot.task
    assert "42:wrong" not in str(raised.value) + caplog.text


async def test_a_telegram_that_comes_up_later_is_waited_for(
    sqlite: Database, tmp_path: Path
) -> None:
    port = free_port()
    api = BotApi("42:secret", port=port)
    settings = make_settings(f"http://127.0.0.1:{port}", data_dir=tmp_path)
    bot = run(api, store_of(settings, sqlite))
    await asyncio.sleep(0.2)  # it finds nobody, which nothing outside tells
    assert not bot.task.done()

    async with api:
        await api.wait_polling()
        ada = api.user(1)
        await bot.ask(api.private(ada), ada, "hello")
        await bot.close()


async def test_a_bot_that_waits_for_telegram_can_be_stopped(
    sqlite: Database, tmp_path: Path
) -> None:
    port = free_port()
    settings = make_settings(f"http://127.0.0.1:{port}", data_dir=tmp_path)
    bot = run(BotApi("42:secret", port=port), store_of(settings, sqlite))
    await asyncio.sleep(0.2)
    bot.stop.set()

    async with asyncio.timeout(5):
        await bot.task
    await bot.close()


@pytest.mark.parametrize("token", ["42:wrong", "42:secret"], ids=["refused", "unreachable"])
async def test_a_bot_that_never_got_through_closes_its_connections(
    start: Start, api: BotApi, token: str
) -> None:
    class Closing(HTTPXRequest):
        closed = False

        async def shutdown(self) -> None:
            self.closed = True
            await super().shutdown()

    request = Closing()
    api.inject("getMe", server_error(), 100)
    bot = await start(telegram_token=token, request=request, wait=False)
    await api.wait_for(lambda: api.calls_to("getMe"))
    bot.stop.set()
    async with asyncio.timeout(10):
        await asyncio.gather(bot.task, return_exceptions=True)

    assert request.closed


async def test_menus_that_cannot_be_set_stop_nothing(
    start: Start, api: BotApi, chat: Chat, ada: User
) -> None:
    api.inject("setMyCommands", server_error(), 15)

    bot = await start()

    await bot.ask(chat, ada, "hello")


@pytest.mark.bad_input("a forged webhook call")
async def test_a_webhook_receives_updates_and_refuses_who_does_not_know_the_secret(
    start: Start, api: BotApi, chat: Chat, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/hooks/telegram"
    bot = await start(webhook_url=url, webhook_listen=f"127.0.0.1:{port}", webhook_secret=SECRET)
    update = {"update_id": 1, "message": chat.json(chat.add(ada, "forged"))}

    assert (await bot.ask(chat, ada, "hello")).text == "You said: hello"
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(
        hmac, "compare_digest", lambda *given: compared.append(given) or compare(*given)
    )
    statuses = []
    async with aiohttp.ClientSession() as session:
        for headers in ({}, {"X-Telegram-Bot-Api-Secret-Token": "wrong"}):
            async with session.post(url, json=update, headers=headers) as response:
                statuses.append(response.status)
    await bot.settle()

    assert statuses == [403, 403]
    assert compared == [(b"", SECRET.encode()), (b"wrong", SECRET.encode())], "in constant time"
    assert len(bot.engine.prompts) == 1
    assert not api.calls_to("getUpdates")


async def test_a_webhook_takes_reactions_and_taps(start: Start, chat: Chat, ada: User) -> None:
    port = free_port()
    bot = await start(
        webhook_url=f"http://127.0.0.1:{port}/hook",
        webhook_listen=f"127.0.0.1:{port}",
        webhook_secret=SECRET,
    )
    reply = await bot.ask(chat, ada, "hello")

    await chat.tap(ada, reply.id, "👍")
    await chat.react(ada, reply.id, ["👎"])
    await bot.settle()

    assert [int(rating) for rating in bot.ratings(reply).values()] == [-1]
