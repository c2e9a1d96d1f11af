"""Nobody gets more than their share, and nobody is told so more than once a minute."""

from datetime import timedelta

import pytest

from bot.errors import QuotaReached
from bot.quotas import Quotas
from store.domain import Access
from tests.botapi import Chat, User
from tests.fakes import Clock
from tests.telegram.conftest import Start
from tests.telegram.running import ADMIN_ID, RunningBot

NEXT = 1
"""An update that nobody has begun."""


def quotas(bot: RunningBot) -> Quotas:
    return Quotas(
        settings=bot.settings, conversations=bot.store.conversations, people=bot.store.people
    )


def replies(chat: Chat) -> int:
    return len([message for message in chat.bot_messages if message.buttons])


async def test_more_messages_in_a_minute_than_the_quota_are_not_answered(
    start: Start, chat: Chat, ada: User
) -> None:
    bot = await start(stranger_messages=2)
    for number in range(5):
        await chat.send(ada, f"hello {number}")
        await bot.settle()

    assert replies(chat) == 2
    told = [message.text for message in chat.bot_messages if not message.buttons]
    assert told == ["That is 2 messages in a minute. Please wait a moment."]
    assert len(bot.engine.prompts) == 2


async def test_a_minute_later_they_are_answered_again(
    start: Start, chat: Chat, ada: User, clock: Clock
) -> None:
    bot = await start(stranger_messages=1)
    await bot.ask(chat, ada, "hello")
    with pytest.raises(QuotaReached):
        quotas(bot).check(ada.id, NEXT)

    clock.advance(seconds=timedelta(minutes=1).total_seconds())

    quotas(bot).check(ada.id, NEXT)


async def test_whoever_an_admin_let_in_may_ask_for_more(
    start: Start, chat: Chat, ada: User
) -> None:
    bot = await start(stranger_messages=1, quota_messages=2)
    await bot.ask(chat, ada, "hello")
    bot.store.people.decide(ada.id, Access.ALLOWED)
    await bot.ask(chat, ada, "hello again")

    with pytest.raises(QuotaReached, match="2 messages"):
        quotas(bot).check(ada.id, NEXT)


async def test_tokens_of_a_day_are_bounded(start: Start, chat: Chat, ada: User) -> None:
    bot = await start(stranger_tokens=1)
    await bot.ask(chat, ada, "hello")

    await chat.send(ada, "and now?")
    await bot.settle()

    assert replies(chat) == 1
    assert "come back tomorrow" in chat.bot_messages[-1].text


async def test_answers_again_count_too(start: Start, chat: Chat, ada: User) -> None:
    bot = await start(stranger_messages=1)
    reply = await bot.ask(chat, ada, "hello")

    await bot.tap(chat, ada, reply, "🔄")

    assert len(bot.engine.prompts) == 1


async def test_replies_at_once_are_bounded_over_all_chats(
    start: Start, chat: Chat, group: Chat, ada: User
) -> None:
    bot = await start(quota_at_once=1)
    bot.engine.hold.clear()
    asked = await chat.send(ada, "hello")
    await bot.engine.asked.wait()

    with pytest.raises(QuotaReached, match="still writing 1"):
        quotas(bot).check(ada.id, NEXT)

    bot.engine.hold.set()
    await chat.wait_reply(asked)
    quotas(bot).check(ada.id, NEXT)


async def test_what_was_begun_before_a_crash_is_within_the_quota(
    start: Start, chat: Chat, ada: User
) -> None:
    bot = await start(stranger_messages=1)
    begun = bot.turn(await bot.ask(chat, ada, "hello")).update_id
    assert begun is not None

    quotas(bot).check(ada.id, begun)
    with pytest.raises(QuotaReached):
        quotas(bot).check(ada.id, NEXT)


async def test_admins_have_no_quota(start: Start, office: Chat, grace: User) -> None:
    bot = await start(stranger_messages=1, stranger_tokens=1)
    for _ in range(3):
        await bot.ask(office, grace, "hello")

    quotas(bot).check(ADMIN_ID, NEXT)
    assert replies(office) == 3
