"""The admins of a group decide whether the bot answers there, and whether it learns there."""

import time
from typing import Any

import pytest

from loopback import BotApi, Chat, Message, User
from store.domain import GroupRules, Rating, RatingSource
from tests.store.threads import at_once
from tests.telegram.conftest import GROUP_ID, Start
from tests.telegram.running import RunningBot, turn_id


@pytest.fixture
def club(api: BotApi, ada: User, bob: User) -> Chat:
    """Return a group of which Ada is an admin and Bob is not."""
    return api.group(GROUP_ID - 2, "Club", [ada, bob], admins=[ada])


async def rules(bot: RunningBot, club: Chat, user: User) -> Message:
    await bot.say(club, user, "/group@ratchet_bot")
    return club.bot_messages[-1]


async def test_an_admin_of_the_group_silences_the_bot_there_and_lets_it_speak_again(
    bot: RunningBot, club: Chat, ada: User, bob: User
) -> None:
    shown = await rules(bot, club, ada)
    assert shown.text == "In this group I answer, and I learn from what is said to me."

    shown = await bot.tap(club, ada, shown, "Do not answer")
    assert shown.text.startswith("In this group I do not answer")
    assert await bot.say(club, bob, "@ratchet_bot hello") == ""
    assert not bot.engine.prompts

    await bot.tap(club, ada, await rules(bot, club, ada), "Answer")
    assert (await bot.ask(club, bob, "@ratchet_bot hello")).text == "You said: hello"


async def test_a_silent_group_silences_no_other_chat(
    bot: RunningBot, club: Chat, ada: User, chat: Chat
) -> None:
    await bot.tap(club, ada, await rules(bot, club, ada), "Do not answer")

    assert (await bot.ask(chat, ada, "hello")).text == "You said: hello"


async def test_nothing_is_learned_from_a_group_that_does_not_want_it(
    bot: RunningBot, club: Chat, ada: User, bob: User
) -> None:
    reply = await bot.ask(club, bob, "@ratchet_bot hello")
    bot.store.feedback.rate(turn_id(reply), bob.id, Rating.UP, RatingSource.BUTTON)
    bot.store.feedback.correct(turn_id(reply), bob.id, "Hello yourself!")
    assert bot.store.examples.collect().every
    assert bot.store.examples.ratings_since(None) == 2
    assert bot.store.memories.proposals()

    await bot.tap(club, ada, await rules(bot, club, ada), "Do not learn")
    assert not bot.store.examples.collect().every
    assert bot.store.examples.ratings_since(None) == 0
    assert not bot.store.memories.proposals()

    await bot.tap(club, ada, await rules(bot, club, ada), "Learn")
    assert bot.store.examples.collect().every


async def test_who_is_no_admin_of_the_group_decides_nothing(
    bot: RunningBot, club: Chat, ada: User, bob: User
) -> None:
    assert await bot.say(club, bob, "/group") == "Only the admins of this group can change that."

    shown = await rules(bot, club, ada)
    after = await bot.tap(club, bob, shown, "Do not answer")

    assert after.text == shown.text
    assert (await bot.ask(club, bob, "@ratchet_bot hello")).text == "You said: hello"


async def test_a_silent_group_gets_no_other_answer_and_no_correction(
    bot: RunningBot, club: Chat, ada: User, bob: User
) -> None:
    reply = await bot.ask(club, bob, "@ratchet_bot hello")
    await bot.tap(club, ada, await rules(bot, club, ada), "Do not answer")
    before = len(club.bot_messages)

    for button in ("🔄", "✏️"):
        answer = await club.tap(bob, reply.id, button)
        assert answer.text == "I do not answer in this group."
    assert await bot.say(club, bob, "/group") == ""
    await club.tap(bob, reply.id, "👍")
    await bot.settle()

    assert len(club.bot_messages) == before
    assert bot.ratings(club.message(reply.id)) == {bob.id: Rating.UP}


async def test_an_answer_of_such_a_group_is_not_learned_from_in_another_chat_either(
    bot: RunningBot, club: Chat, ada: User, bob: User, chat: Chat
) -> None:
    reply = await bot.ask(club, bob, "@ratchet_bot what does the club pay?")
    bot.store.feedback.correct(turn_id(reply), bob.id, "The club pays 7.")
    (proposal,) = bot.store.memories.proposals()
    bot.store.memories.decide(turn_id(reply), proposal.sha256, bob.id, approved=True)
    helped = await bot.ask(chat, ada, "what does the club pay?")
    assert "The club pays 7." in str(bot.turn(helped).messages)
    bot.store.feedback.rate(turn_id(helped), ada.id, Rating.UP, RatingSource.BUTTON)

    await bot.tap(club, ada, await rules(bot, club, ada), "Do not learn")

    assert "The club pays 7." not in str(bot.store.examples.collect())


async def test_an_admin_of_the_group_decides_though_they_may_not_talk(
    start: Start, api: BotApi, ada: User, bob: User
) -> None:
    bot = await start(access="allowlist")
    club = api.group(GROUP_ID - 2, "Club", [ada, bob], admins=[ada])

    shown = await bot.tap(club, ada, await rules(bot, club, ada), "Do not answer")

    assert shown.text.startswith("In this group I do not answer")


async def test_a_group_that_becomes_a_supergroup_keeps_its_rules(
    bot: RunningBot, api: BotApi, ada: User, bob: User
) -> None:
    old, new = -7, GROUP_ID - 3
    bot.store.groups.decide(old, answers=False)
    moved = {"id": old, "type": "group", "title": "Club"}
    sender = {"id": ada.id, "is_bot": False, "first_name": "Ada"}
    body = {"message_id": 1, "date": 0, "chat": moved, "from": sender, "migrate_to_chat_id": new}

    api.push({"message": body})
    await bot.settle()

    assert not bot.store.groups.rules(new).answers


async def test_two_who_decide_at_once_both_count(bot: RunningBot, club: Chat) -> None:
    groups = bot.store.groups
    at_once(2, lambda n: groups.decide(club.id, **{("answers", "teaches")[n]: False}))

    assert groups.rules(club.id) == GroupRules(answers=False, teaches=False)


async def test_a_private_chat_is_no_group(bot: RunningBot, chat: Chat, ada: User) -> None:
    assert (
        await bot.say(chat, ada, "/group") == "This command works in groups. Please send it there."
    )


def anonymous(group: Chat, text: str) -> dict[str, Any]:
    """Return a message that an admin of a group wrote anonymously, as Telegram sends it."""
    place = {"id": group.id, "type": "supergroup", "title": "Friends"}
    sender = {
        "id": 1087968824,
        "is_bot": True,
        "first_name": "Group",
        "username": "GroupAnonymousBot",
    }
    length = len(text.split()[0])
    kind = "bot_command" if text.startswith("/") else "mention"
    return {
        "message": {
            "message_id": 900,
            "date": int(time.time()),
            "chat": place,
            "from": sender,
            "sender_chat": place,
            "text": text,
            "entities": [{"type": kind, "offset": 0, "length": length}],
        }
    }


async def test_an_anonymous_admin_decides_and_asks(
    bot: RunningBot, api: BotApi, group: Chat
) -> None:
    api.push(anonymous(group, "/group@ratchet_bot"))
    await bot.settle()
    assert "In this group I answer" in group.bot_messages[0].text

    api.push(anonymous(group, "@ratchet_bot hello"))
    await bot.settle()
    assert group.bot_messages[1].text == "You said: hello"
    person = bot.store.people.find(group.id)
    assert person is not None
    assert person.name == "Friends"


async def test_a_channels_posts_in_its_group_are_nobodys(
    bot: RunningBot, api: BotApi, group: Chat
) -> None:
    post = anonymous(group, "@ratchet_bot hello")
    post["message"] |= {
        "from": {"id": 777000, "is_bot": False, "first_name": "Telegram"},
        "sender_chat": {"id": -1001, "type": "channel", "title": "News"},
        "is_automatic_forward": True,
    }
    api.push(post)
    await bot.settle()
    assert not group.bot_messages
