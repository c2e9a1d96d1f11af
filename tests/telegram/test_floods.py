"""Floods: whatever one person or one chat does, an admin is answered at once, and others soon."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from bot.telegram.inbox import TOO_FAST
from bot.telegram.timing import Timing
from loopback import BotApi, Chat, User
from store.domain import Access
from store.tables import FeedbackRow, TurnRow, UpdateRow
from tests.telegram.conftest import Start
from tests.telegram.running import HURRIED, RunningBot, eventually

MOST_SECONDS = 2.0
"""Time within which an admin's command is answered."""

REAL_RATES = replace(HURRIED, persons_rate=Timing().persons_rate, chats_rate=Timing().chats_rate)
"""The pauses of tests, but as much as people may really send."""


@pytest.fixture
def timing() -> Timing:
    return REAL_RATES


@pytest.fixture
def stranger(api: BotApi) -> User:
    return api.user(666, first_name="Mallory")


@pytest.fixture
def lair(api: BotApi, stranger: User) -> Chat:
    """Return a group that a stranger made, with the bot in it."""
    return api.group(-1_001_000_000_666, "Lair", [stranger])


async def seconds_of_status(bot: RunningBot, office: Chat, grace: User) -> float:
    """Return the time that an admin waits for an answer to `/status`."""
    before = len(office.bot_messages)
    started = time.monotonic()
    await office.send(grace, "/status")
    await bot.api.wait_for(lambda: len(office.bot_messages) > before, 30)
    return time.monotonic() - started


async def by_help(bot: RunningBot, lair: Chat, stranger: User) -> None:
    for _ in range(300):
        await lair.send(stranger, "/help@ratchet_bot")


async def by_group_of_a_denied_person(bot: RunningBot, lair: Chat, stranger: User) -> None:
    bot.store.people.decide(stranger.id, Access.DENIED)
    bot.store.groups.decide(lair.id, answers=False)
    for _ in range(300):
        await lair.send(stranger, "/group@ratchet_bot")


async def by_stickers(bot: RunningBot, lair: Chat, stranger: User) -> None:
    private = bot.api.private(stranger)
    for number in range(300):
        bot.api.push(sticker(private, stranger, number))


async def by_many_strangers(bot: RunningBot, lair: Chat, stranger: User) -> None:
    for number in range(8):
        user = bot.api.user(7000 + number)
        for _ in range(40):
            await bot.api.private(user).send(user, "/help")


async def by_questions_of_many(bot: RunningBot, lair: Chat, stranger: User) -> None:
    bot.engine.hold.clear()
    for number in range(32):
        user = bot.api.user(8000 + number)
        for question in range(8):
            await bot.api.private(user).send(user, f"what about {question}?")


FLOODS: list[Callable[[RunningBot, Chat, User], Awaitable[None]]] = [
    by_help,
    by_group_of_a_denied_person,
    by_stickers,
    by_many_strangers,
    by_questions_of_many,
]


@pytest.mark.parametrize("flood", FLOODS, ids=[each.__name__ for each in FLOODS])
async def test_an_admin_is_answered_while_others_flood_the_bot(
    bot: RunningBot,
    office: Chat,
    grace: User,
    lair: Chat,
    stranger: User,
    flood: Callable[[RunningBot, Chat, User], Awaitable[None]],
) -> None:
    await flood(bot, lair, stranger)
    await asyncio.sleep(0.5)

    assert await seconds_of_status(bot, office, grace) < MOST_SECONDS
    bot.engine.hold.set()
    async with asyncio.timeout(60):
        await bot.api.wait_for(lambda: bot.telegram.dispatcher.under_way < 100, 60)


async def test_honest_people_are_answered_while_a_group_floods_the_bot(
    bot: RunningBot, lair: Chat, stranger: User, chat: Chat, ada: User
) -> None:
    await by_help(bot, lair, stranger)

    started = time.monotonic()
    asked = await chat.send(ada, "hello")
    await chat.wait_reply(asked)

    assert time.monotonic() - started < MOST_SECONDS


async def test_the_reactions_of_three_hundred_people_all_count_and_stop_nobody(
    bot: RunningBot, api: BotApi, office: Chat, grace: User, ada: User
) -> None:
    members = [api.user(9000 + number) for number in range(300)]
    group = api.group(-1_001_000_000_300, "Crowd", [ada, *members])
    asked = await group.send(ada, "@ratchet_bot hello")
    reply = await group.wait_reply(asked)
    for member in members:
        await group.react(member, reply.id, ["❤"])

    assert await seconds_of_status(bot, office, grace) < MOST_SECONDS
    await eventually(lambda: bot.count(FeedbackRow) == 300, 60)
    await eventually(lambda: "👍 300" in group.message(reply.id).labels, 60)
    assert len(api.calls_to("editMessageReplyMarkup")) < 30


async def test_a_few_accounts_do_not_make_their_group_deaf(
    bot: RunningBot, api: BotApi, ada: User
) -> None:
    accounts = [api.user(6000 + number) for number in range(8)]
    group = api.group(-1_001_000_000_800, "Crowd", [ada, *accounts])
    asked = await group.send(ada, "@ratchet_bot first")
    reply = await group.wait_reply(asked)
    for account in accounts:
        for number in range(60):
            await group.react(account, reply.id, ["❤", "👎"][number % 2 : number % 2 + 1])
            await group.send(account, "/help@ratchet_bot")

    await group.react(ada, reply.id, ["👎"])
    asked = await group.send(ada, "@ratchet_bot hello")

    await eventually(lambda: bot.ratings(reply).get(ada.id), 30)
    await eventually(lambda: bot.count(TurnRow) == 2, 30)


async def test_who_floods_is_told_once_and_what_is_left_out_is_not_stored(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    for _ in range(100):
        await chat.send(ada, "/help")
    await bot.settle()
    await eventually(lambda: TOO_FAST in [each.text for each in chat.bot_messages], 30)

    assert [each.text for each in chat.bot_messages].count(TOO_FAST) == 1
    assert bot.count(UpdateRow) < 60


async def test_a_group_that_waits_for_telegram_holds_up_no_other(
    start: Start, lair: Chat, stranger: User, chat: Chat, ada: User
) -> None:
    bot = await start(timing=HURRIED)
    await by_help(bot, lair, stranger)

    asked = await chat.send(ada, "hello")
    await chat.wait_reply(asked, timeout=10)
    await eventually(lambda: bot.telegram.dispatcher.under_way < 100, 30)


def sticker(chat: Chat, user: User, number: int) -> dict[str, object]:
    return {
        "message": {
            "message_id": 100_000 + number,
            "date": int(time.time()),
            "chat": {"id": chat.id, "type": "private", "first_name": user.first_name},
            "from": {"id": user.id, "is_bot": False, "first_name": user.first_name},
            "sticker": {
                "file_id": "a",
                "file_unique_id": "b",
                "type": "regular",
                "width": 1,
                "height": 1,
                "is_animated": False,
                "is_video": False,
            },
        }
    }
