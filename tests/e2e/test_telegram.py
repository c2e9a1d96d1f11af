"""The bot as a process, with the embedded model, against a loopback Telegram."""

import asyncio
import io
import json
import signal
import zipfile

import httpx

from loopback import BotApi, Chat, User, any_message, drop_before, flood, server_error
from store.database import Database
from store.domain import TurnState
from store.statistics import Statistics
from store.tables import CorrectionRow, FeedbackRow, TurnRow
from tests.e2e.conftest import TOKEN, Home, StartBot

FACT = b"# Harbour notes\n\nThe harbour master of Skerrow is called Martin Brask.\n"
SECONDS = 60


async def ask(chat: Chat, user: User, text: str) -> str:
    asked = await chat.send(user, text)
    return (await chat.wait_reply(asked, timeout=SECONDS)).text


async def test_a_conversation_from_start_to_export(
    home: Home, api: BotApi, start_bot: StartBot
) -> None:
    ada, chat = api.user(7), api.private(api.user(7))
    async with start_bot(agreed=False) as bot:
        started = await chat.send(ada, "/start")
        welcome = await chat.wait_reply(started, timeout=SECONDS, final=any_message)
        question = await chat.wait_reply(welcome.id, timeout=SECONDS, final=any_message)
        await chat.tap(ada, question.id, "Yes")
        asked = await chat.send(ada, "What is the capital of France?")
        reply = await chat.wait_reply(asked, timeout=SECONDS)
        await chat.tap(ada, reply.id, "👍")
        why_asked = await chat.send(ada, "/why", reply_to=reply.id)
        why = await chat.wait_reply(why_asked, timeout=SECONDS, final=any_message)
        await chat.tap(ada, reply.id, "✏️")
        prompt = await chat.wait_reply(why.id, timeout=SECONDS, final=any_message)
        fixed = await chat.send(ada, "Paris, of course.", reply_to=prompt.id)
        await chat.wait_reply(fixed, timeout=SECONDS, final=any_message)
        exported = await chat.send(ada, "/export")
        export = await chat.wait_reply(exported, timeout=SECONDS, final=any_message)

    assert "👍" in welcome.text
    assert "Paris" in reply.text
    assert chat.message(reply.id).labels[0] == "👍 ✓"
    assert "SmolLM2" in why.text
    assert "base model" in why.text
    assert export.attachment is not None
    with zipfile.ZipFile(io.BytesIO(export.attachment.data)) as archive:
        assert "Paris, of course." in archive.read("corrections.json").decode()
    assert TOKEN not in bot.log.read_text()
    database = Database(home.database_url)
    with database.reading() as session:
        assert [row.rating for row in session.query(FeedbackRow)] == [1]
        assert [row.text for row in session.query(CorrectionRow)] == ["Paris, of course."]
    database.close()


async def test_whoever_watches_sees_replies_counted_and_finds_them_in_the_log(
    api: BotApi, start_bot: StartBot, unused_tcp_port: int
) -> None:
    ada, chat = api.user(7), api.private(api.user(7))
    watched = f"http://127.0.0.1:{unused_tcp_port}"
    async with (
        start_bot(health_listen=f"127.0.0.1:{unused_tcp_port}", log_format="json") as bot,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        await ask(chat, ada, "What is the capital of France?")
        ready = await client.get(f"{watched}/readyz")
        figures = (await client.get(f"{watched}/metrics")).text

    assert ready.status_code == 200
    assert 'ratchet_replies_total{adapter="base",outcome="stop"} 1.0' in figures
    lines = [json.loads(line) for line in bot.log.read_text().splitlines() if line[0] == "{"]
    [replied] = [line for line in lines if line["logger"] == "bot.chat"]
    assert (replied["turn"], replied["update"] > 0) == (1, True)
    assert "France" not in bot.log.read_text()


async def test_an_admins_file_is_answered_from_a_moment_later(
    api: BotApi, start_bot: StartBot
) -> None:
    admin = api.user(9)
    chat = api.private(admin)
    async with start_bot(admins="9", temperature="0"):
        before = await ask(chat, admin, "What is the harbour master of Skerrow called?")
        sent = await chat.send_document(admin, "notes.md", FACT)
        added = await chat.wait_reply(sent, timeout=SECONDS, final=any_message)

        async def answered() -> str:
            while "📎" not in (
                reply := await ask(chat, admin, "What is the harbour master of Skerrow called?")
            ):
                await chat.send(admin, "/new")
            return reply

        async with asyncio.timeout(SECONDS):
            after = await answered()

    assert "Martin" not in before
    assert "Harbour notes" in added.text
    assert "Martin Brask" in after
    assert "Harbour notes" in after


async def test_what_is_ingested_beside_the_running_bot_is_indexed_by_it(
    home: Home, api: BotApi, start_bot: StartBot
) -> None:
    admin = api.user(9)
    chat = api.private(admin)
    (home.folder / "notes.md").write_bytes(FACT)
    async with start_bot(admins="9"):
        await ask(chat, admin, "Hello")  # it has come to rest, and holds the index if it needs it
        done = await home.ratchet("ingest", "notes.md")
        async with asyncio.timeout(SECONDS):
            while True:
                sent = await chat.send(admin, "/documents")
                listed = await chat.wait_reply(sent, timeout=SECONDS, final=any_message)
                if "being read" not in listed.text:
                    break

    assert (done.code, "added" in done.out) == (0, True)
    assert "Harbour notes" in listed.text


async def test_fifty_people_at_once_are_each_answered_once_in_order_and_every_rating_counts(
    home: Home, api: BotApi, start_bot: StartBot
) -> None:
    people = [api.user(100 + number) for number in range(50)]

    async def talk(user: User) -> list[int]:
        chat = api.private(user)
        asked = [
            await chat.send(user, f"I am number {user.id}. Say hello."),
            await chat.send(user, "Name a fruit."),
        ]
        replies = await api.wait_for(
            lambda: replies if len(replies := finals(chat)) == len(asked) else None, timeout=400
        )
        for reply in replies:
            await chat.tap(user, reply, "👍" if user.id % 2 else "👎", timeout=60)
        return asked

    def finals(chat: Chat) -> list[int]:
        return [message.id for message in chat.bot_messages if message.buttons]

    async with start_bot(max_new_tokens="6", log_level="WARNING") as bot:
        async with asyncio.timeout(450):
            asked = await asyncio.gather(*(talk(user) for user in people))
        await asyncio.sleep(2)  # a second answer to anything would come now

    assert sum(len(each) for each in asked) == 100
    assert [len(finals(api.private(user))) for user in people] == [2] * 50
    assert "ERROR" not in bot.log.read_text()
    database = Database(home.database_url)
    with database.reading() as session:
        turns = session.query(TurnRow).order_by(TurnRow.id).all()
    assert [turn.state for turn in turns] == [TurnState.FINAL] * 100
    for user in people:
        questions = [turn.question for turn in turns if turn.person_id == user.id]
        assert questions == [f"I am number {user.id}. Say hello.", "Name a fruit."]
    tally = Statistics(database).ratings()
    database.close()
    assert (tally.up, tally.down) == (50, 50)


async def test_a_telegram_that_stumbles_loses_no_reply(api: BotApi, start_bot: StartBot) -> None:
    ada, chat = api.user(7), api.private(api.user(7))
    async with start_bot():
        for fault in (flood(1), server_error(), drop_before()):
            api.inject("sendMessage", fault)
            api.inject("getUpdates", server_error())
            assert "Paris" in await ask(chat, ada, "What is the capital of France?")

    assert len([message for message in chat.bot_messages if message.buttons]) == 3


async def test_a_reply_that_is_being_written_at_sigterm_is_finished(
    home: Home, api: BotApi, start_bot: StartBot
) -> None:
    ada, chat = api.user(7), api.private(api.user(7))
    async with start_bot(max_new_tokens="80") as bot:
        await chat.send(ada, "Tell me a story about a lighthouse.")
        await api.wait_for(lambda: chat.drafts, timeout=SECONDS)
        assert await bot.stop() == 0

    [reply] = chat.bot_messages
    database = Database(home.database_url)
    with database.reading() as session:
        [turn] = session.query(TurnRow)
    database.close()
    assert reply.buttons
    assert turn.state == TurnState.FINAL


async def test_a_bot_that_is_killed_answers_what_it_left_when_it_runs_again(
    home: Home, api: BotApi, start_bot: StartBot
) -> None:
    people = [api.user(number) for number in range(1, 5)]
    chats = [api.private(user) for user in people]
    async with start_bot(max_new_tokens="80") as bot:
        asked = [
            await chat.send(user, f"Tell me a story about {user.id} lighthouses.")
            for chat, user in zip(chats, people, strict=True)
        ]
        await api.wait_for(lambda: any(chat.drafts for chat in chats), timeout=SECONDS)
        await bot.kill()
    assert not [message for chat in chats for message in chat.bot_messages]

    async with start_bot(max_new_tokens="80"):
        for chat, message in zip(chats, asked, strict=True):
            await chat.wait_reply(message, timeout=SECONDS)

    assert [len(chat.bot_messages) for chat in chats] == [1] * len(chats)
    database = Database(home.database_url)
    with database.reading() as session:
        states = [turn.state for turn in session.query(TurnRow)]
    database.close()
    assert states == [TurnState.FINAL] * len(chats)


async def test_a_second_signal_stops_at_once(api: BotApi, start_bot: StartBot) -> None:
    ada, chat = api.user(7), api.private(api.user(7))
    async with start_bot() as bot:
        bot.expected_code = 130
        await chat.send(ada, "Tell me a very long story about a dragon.")
        await api.wait_for(lambda: chat.drafts, timeout=SECONDS)
        bot.process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.5)

        assert await bot.stop() == 130
