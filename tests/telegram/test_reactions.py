"""Telegram's own reactions as ratings."""

import asyncio

import pytest
from telegram.constants import ReactionEmoji

from bot.telegram.rating import NEGATIVE_REACTIONS, POSITIVE_REACTIONS
from loopback import BotApi, Chat, User, any_message, flood
from store.domain import Rating, RatingSource
from store.tables import FeedbackRow, PersonRow
from tests.telegram.conftest import GROUP_ID, Start
from tests.telegram.running import RunningBot, SteppingEngine, turn_id

UP, DOWN = Rating.UP, Rating.DOWN


@pytest.mark.parametrize(
    ("emoji", "rating"),
    [
        ("👍", UP),
        ("🔥", UP),
        ("❤", UP),
        ("❤️", UP),
        ("👎", DOWN),
        ("💩", DOWN),
        ("🤔", None),
        ("👀", None),
    ],
)
async def test_a_reaction_counts_for_what_it_means(
    bot: RunningBot, chat: Chat, ada: User, emoji: str, rating: Rating | None
) -> None:
    reply = await bot.ask(chat, ada, "hello")

    await chat.react(ada, reply.id, [emoji])
    await bot.settle()

    assert bot.ratings(reply).get(ada.id) == rating


async def test_a_reaction_shows_in_the_buttons(bot: RunningBot, chat: Chat, ada: User) -> None:
    reply = await bot.ask(chat, ada, "hello")

    await chat.react(ada, reply.id, ["👍"])
    await bot.settle()

    assert chat.message(reply.id).labels[:2] == ("👍 ✓", "👎")
    assert bot.store.feedback.ratings(turn_id(reply))[0].source == RatingSource.REACTION


@pytest.mark.parametrize(
    ("steps", "rating"),
    [
        ([["👍"], ["👎"]], DOWN),
        ([["👎"], ["❤"]], UP),
        ([["👍"], []], None),
        ([["👍"], [], ["👎"]], DOWN),
        ([["👍"], ["🔥"]], UP),
        ([["👍"], ["👍", "🔥"], ["🔥"]], UP),
        ([["👍"], ["👍", "👎"]], DOWN),
        ([["👍"], ["🤔"]], None),
        ([["🤔"], ["👍"]], UP),
        ([["🤔"], []], None),
    ],
)
async def test_the_last_reaction_counts(
    bot: RunningBot, chat: Chat, ada: User, steps: list[list[str]], rating: Rating | None
) -> None:
    reply = await bot.ask(chat, ada, "hello")

    for emoji in steps:
        await chat.react(ada, reply.id, emoji)
        await bot.settle()

    assert bot.ratings(reply).get(ada.id) == rating


async def test_the_last_of_quick_reactions_counts(bot: RunningBot, chat: Chat, ada: User) -> None:
    for number in range(10):
        reply = await bot.ask(chat, ada, f"number {number}")
        await chat.react(ada, reply.id, ["👍"])
        await chat.react(ada, reply.id, ["👎"])
        await bot.settle()

        assert bot.ratings(reply) == {ada.id: DOWN}, number


async def test_a_button_and_a_reaction_are_one_rating(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")
    await chat.tap(ada, reply.id, "👍")
    await bot.settle()

    await chat.react(ada, reply.id, ["👎"])
    await bot.settle()

    assert bot.ratings(reply) == {ada.id: DOWN}
    assert chat.message(reply.id).labels[:2] == ("👍", "👎 ✓")


async def test_a_neutral_reaction_leaves_a_button_alone(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")
    await chat.tap(ada, reply.id, "👍")

    await chat.react(ada, reply.id, ["🤔"])
    await chat.react(ada, reply.id, [])
    await bot.settle()

    assert bot.ratings(reply) == {ada.id: UP}


async def test_a_reaction_on_an_earlier_reply_counts_for_that_one(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    first = await bot.ask(chat, ada, "first")
    second = await bot.ask(chat, ada, "second")

    await chat.react(ada, first.id, ["👍"])
    await bot.settle()

    assert (bot.ratings(first), bot.ratings(second)) == ({ada.id: UP}, {})


async def test_a_reaction_on_any_part_of_a_split_reply_counts_and_shows_under_the_last(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    bot.engine.reply = lambda messages: " ".join(["x" * 40] * 300)
    last = await bot.ask(chat, ada, "tell me everything")
    middle = chat.bot_messages[1]
    assert middle.id != last.id

    await chat.react(ada, middle.id, ["👍"])
    await bot.settle()

    assert bot.ratings(last) == {ada.id: UP}
    assert chat.message(last.id).labels[0] == "👍 ✓"
    assert not chat.message(middle.id).buttons


async def test_a_reaction_on_a_part_counts_while_the_next_part_is_on_its_way(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User
) -> None:
    bot.engine.reply = lambda messages: " ".join(["x" * 40] * 150)
    asked = await chat.send(ada, "tell me everything")
    await api.wait_for(lambda: len(api.calls_to("sendMessage")) == 1)
    api.inject("sendMessage", flood(1))
    first = await chat.wait_reply(asked, final=any_message)

    await chat.react(ada, first.id, ["👍"])
    last = await chat.wait_reply(asked)
    await bot.settle()

    assert bot.ratings(last) == {ada.id: UP}


async def test_a_reaction_on_a_reply_that_is_still_written_counts(
    start: Start, group: Chat, ada: User
) -> None:
    bot = await start(engine=SteppingEngine(2))
    asked = await group.send(ada, "@ratchet_bot one two three")
    partial = await group.wait_reply(asked, final=any_message)
    await group.react(ada, partial.id, ["👍"])
    await asyncio.sleep(0.2)  # nothing tells when a reaction was looked at
    bot.engine.hold.set()

    reply = await group.wait_reply(asked)
    await bot.settle()

    assert bot.ratings(reply) == {ada.id: UP}


async def test_reactions_in_a_group_are_each_persons_own(
    bot: RunningBot, group: Chat, ada: User, bob: User
) -> None:
    reply = await bot.ask(group, ada, "@ratchet_bot hello")

    await group.react(ada, reply.id, ["👍"])
    await group.react(bob, reply.id, ["👎"])
    await bot.settle()

    assert bot.ratings(reply) == {ada.id: UP, bob.id: DOWN}
    assert group.message(reply.id).labels[:2] == ("👍 1", "👎 1")


async def test_without_reactions_the_buttons_of_a_group_still_work(
    bot: RunningBot, api: BotApi, ada: User, bob: User
) -> None:
    group = api.group(GROUP_ID - 5, "No admin", [ada, bob], bot_is_admin=False)
    reply = await bot.ask(group, ada, "@ratchet_bot hello")

    await group.react(ada, reply.id, ["👎"])
    await group.tap(bob, reply.id, "👍")
    await bot.settle()

    assert bot.ratings(reply) == {bob.id: UP}


async def test_a_reaction_on_somebody_elses_message_stores_nothing(
    bot: RunningBot, group: Chat, ada: User, bob: User
) -> None:
    said = await group.send(bob, "I like tea")

    await group.react(ada, said, ["👍"])
    await bot.settle()

    assert (bot.count(FeedbackRow), bot.count(PersonRow)) == (0, 0)


async def test_a_reaction_on_a_notice_of_the_bot_stores_nothing(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    await bot.say(chat, ada, "/help")

    await chat.react(ada, chat.bot_messages[-1].id, ["👎"])
    await bot.settle()

    assert bot.count(FeedbackRow) == 0


async def test_an_anonymous_reaction_is_ignored(
    bot: RunningBot, api: BotApi, group: Chat, ada: User
) -> None:
    reply = await bot.ask(group, ada, "@ratchet_bot hello")

    api.push(
        {
            "message_reaction": {
                "chat": group.json_chat(),
                "message_id": reply.id,
                "actor_chat": group.json_chat(),
                "date": 0,
                "old_reaction": [],
                "new_reaction": [{"type": "emoji", "emoji": "👍"}],
            }
        }
    )
    await bot.settle()

    assert bot.ratings(reply) == {}


@pytest.mark.parametrize(
    "kind", [{"type": "custom_emoji", "custom_emoji_id": "5"}, {"type": "paid"}]
)
async def test_reactions_that_are_no_emoji_say_nothing(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User, kind: dict[str, str]
) -> None:
    reply = await bot.ask(chat, ada, "hello")

    api.push(
        {
            "message_reaction": {
                "chat": chat.json_chat(),
                "message_id": reply.id,
                "user": ada.json(),
                "date": 0,
                "old_reaction": [],
                "new_reaction": [kind],
            }
        }
    )
    await bot.settle()

    assert bot.ratings(reply) == {}


def test_reactions_that_count_are_telegrams_and_count_for_one_thumb() -> None:
    assert not POSITIVE_REACTIONS & NEGATIVE_REACTIONS
    assert {
        each.value.replace("\ufe0f", "") for each in ReactionEmoji
    } >= POSITIVE_REACTIONS | NEGATIVE_REACTIONS
