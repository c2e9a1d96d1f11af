"""Quotas: nobody gets more than their share, or is told so more than once a minute."""

import asyncio
from datetime import timedelta
from functools import partial

import pytest

from bot.errors import QuotaReached
from bot.quotas import Quotas
from loopback import BotApi, Chat, User
from store.domain import Access, Rating, RatingSource
from store.ratings import CHANGES_KEPT
from store.tables import FeedbackRow, TurnRow
from tests.fakes import Clock
from tests.telegram.conftest import Start
from tests.telegram.running import ADMIN_ID, RunningBot, eventually

NEXT = 1
"""Id of an update that nobody has begun."""


def quotas(bot: RunningBot) -> Quotas:
    return Quotas(
        quota=bot.settings.quota,
        admins=bot.settings.admission.admins,
        conversations=bot.store.conversations,
        feedback=bot.store.feedback,
        people=bot.store.people,
    )


def replies(chat: Chat) -> int:
    return len([message for message in chat.bot_messages if message.buttons])


@pytest.mark.bad_input("a flood of messages")
async def test_more_messages_in_a_minute_than_the_quota_are_not_answered(
    start: Start, chat: Chat, ada: User
) -> None:
    bot = await start(quota_messages=4)
    for number in range(5):
        await chat.send(ada, f"hello {number}")
        await bot.settle()

    assert replies(chat) == 2
    told = [message.text for message in chat.bot_messages if not message.buttons]
    assert told == ["You sent 2 messages in a minute. Please wait a moment."]
    assert len(bot.engine.prompts) == 2


async def test_a_minute_later_they_are_answered_again(
    start: Start, chat: Chat, ada: User, clock: Clock
) -> None:
    bot = await start(quota_messages=2)
    await bot.ask(chat, ada, "hello")
    with pytest.raises(QuotaReached):
        quotas(bot).check(ada.id)

    clock.advance(seconds=timedelta(minutes=1).total_seconds())

    quotas(bot).check(ada.id)


async def test_whoever_an_admin_let_in_may_ask_for_more(
    start: Start, chat: Chat, ada: User
) -> None:
    bot = await start(quota_messages=2)
    await bot.ask(chat, ada, "hello")
    bot.store.people.decide(ada.id, Access.ALLOWED)
    await bot.ask(chat, ada, "hello again")

    with pytest.raises(QuotaReached, match="2 messages"):
        quotas(bot).check(ada.id)


async def test_tokens_of_a_day_are_bounded(start: Start, chat: Chat, ada: User) -> None:
    bot = await start(quota_tokens=2)
    await bot.ask(chat, ada, "hello")

    await chat.send(ada, "and now?")
    await bot.settle()

    assert replies(chat) == 1
    assert "come back tomorrow" in chat.bot_messages[-1].text


async def test_answers_again_count_too(start: Start, chat: Chat, ada: User) -> None:
    bot = await start(quota_messages=2)
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
        quotas(bot).check(ada.id)

    bot.engine.hold.set()
    await chat.wait_reply(asked)
    quotas(bot).check(ada.id)


async def test_what_was_begun_before_a_crash_is_within_the_quota(
    start: Start, chat: Chat, ada: User
) -> None:
    bot = await start(quota_messages=1)
    begun = bot.turn(await bot.ask(chat, ada, "hello"))

    def refuse() -> None:
        raise QuotaReached("too much")

    begin = partial(bot.store.conversations.begin_turn, begun.conversation_id, ada.id, "hello")
    again = begin(model="fake", update_id=begun.update_id, check=refuse)
    assert again.id == begun.id
    with pytest.raises(QuotaReached):
        begin(model="fake", update_id=NEXT, check=refuse)
    assert bot.count(TurnRow) == 1


async def test_questions_in_many_chats_at_the_same_moment_are_within_the_quota(
    start: Start, api: BotApi, ada: User
) -> None:
    bot = await start(quota_at_once=4)
    bot.engine.hold.clear()
    groups = [api.group(-1_001_000_000_400 - number, "G", [ada]) for number in range(30)]
    await asyncio.gather(*(group.send(ada, "@ratchet_bot hello") for group in groups))
    await eventually(lambda: len(bot.engine.prompts) == 4)
    await asyncio.sleep(0.5)

    assert bot.count(TurnRow) == 4
    bot.engine.hold.set()


async def test_admins_have_no_quota(start: Start, office: Chat, grace: User) -> None:
    bot = await start(quota_messages=1, quota_tokens=1)
    for _ in range(3):
        await bot.ask(office, grace, "hello")

    quotas(bot).check(ADMIN_ID)
    assert replies(office) == 3


async def test_more_ratings_in_an_hour_than_the_quota_do_not_count(
    start: Start, chat: Chat, ada: User, clock: Clock
) -> None:
    bot = await start(quota_ratings=2)
    replies = [await bot.ask(chat, ada, f"hello {number}") for number in range(3)]
    answers = [await chat.tap(ada, reply.id, "👍") for reply in replies]
    await bot.settle()

    assert [bool(bot.ratings(reply)) for reply in replies] == [True, True, False]
    assert (answers[-1].text or "").startswith("You have reached the hourly limit for ratings.")

    clock.advance(seconds=timedelta(hours=1).total_seconds())
    await bot.tap(chat, ada, replies[2], "👍")
    assert bot.ratings(replies[2]) == {ada.id: Rating.UP}


async def test_whoever_has_rated_may_change_their_mind_beyond_the_quota(
    start: Start, chat: Chat, ada: User
) -> None:
    bot = await start(quota_ratings=1)
    reply = await bot.ask(chat, ada, "hello")
    rated = await bot.tap(chat, ada, reply, "👍")

    changed = await bot.tap(chat, ada, rated, "👎")

    assert bot.ratings(reply) == {ada.id: Rating.DOWN}
    assert changed.labels[1] == "👎 ✓"


async def test_a_rating_can_be_taken_back_at_any_time(start: Start, chat: Chat, ada: User) -> None:
    bot = await start(quota_ratings=1)
    reply = await bot.ask(chat, ada, "hello")
    rated = await bot.tap(chat, ada, reply, "👍")

    await bot.tap(chat, ada, rated, "✖")

    assert bot.ratings(reply) == {}


async def test_reactions_and_corrections_beyond_the_quota_do_not_count_either(
    start: Start, chat: Chat, ada: User
) -> None:
    bot = await start(quota_ratings=1)
    first, second = [await bot.ask(chat, ada, f"hello {number}") for number in range(2)]
    await chat.react(ada, first.id, "👍")
    await bot.settle()
    await chat.react(ada, second.id, "👎")
    await bot.settle()
    told = await chat.tap(ada, second.id, "✏️")
    await bot.settle()

    assert bot.ratings(second) == {}
    assert (told.text or "").startswith("You have reached the hourly limit")
    assert not [message for message in chat.bot_messages if "should that reply" in message.text]


async def test_changing_ones_mind_again_and_again_fills_no_table(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")
    turn = bot.turn(reply).id
    for number in range(50):
        rating = (Rating.UP, Rating.DOWN, None)[number % 3]
        bot.store.feedback.rate(turn, ada.id, rating, RatingSource.BUTTON)
    assert bot.ratings(reply) == {ada.id: Rating.DOWN}
    assert bot.count(FeedbackRow) <= CHANGES_KEPT + 1
