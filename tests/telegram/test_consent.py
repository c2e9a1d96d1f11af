"""The question whether the bot may learn from somebody: once, where they are, and it counts."""

import asyncio

import pytest

from bot.telegram.admission import RIGHTS_SECONDS
from loopback import Chat, User
from store.domain import Access
from store.tables import TurnRow
from tests.telegram.conftest import Start
from tests.telegram.running import RunningBot

pytestmark = pytest.mark.usefixtures("asking")

ASKS = "May I learn from what you write"


def questions(chat: Chat) -> list[str]:
    """The consent questions in a chat."""
    return [each.text for each in chat.bot_messages if each.text.startswith(ASKS)]


async def test_the_question_comes_with_the_first_reply_and_never_again(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    await bot.ask(chat, ada, "hello")
    await bot.ask(chat, ada, "and again")
    await bot.say(chat, ada, "/start")

    assert len(questions(chat)) == 1


async def test_whoever_was_asked_and_has_not_said_yes_teaches_nothing_and_is_told_so(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")
    told = await chat.tap(ada, reply.id, "👍")
    await bot.settle()

    assert bot.store.examples.collect().every == ()
    assert told.text is not None
    assert "I do not learn from it" in told.text
    assert "I do not learn from them" in await bot.say(chat, ada, "/privacy")


async def test_one_tap_says_yes_and_then_what_was_rated_before_teaches(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")
    await chat.tap(ada, reply.id, "👍")
    await bot.settle()
    (question,) = [each for each in chat.bot_messages if each.text.startswith(ASKS)]

    await bot.tap(chat, ada, question, "Yes")

    assert len(bot.store.examples.collect().every) == 1
    assert "you take part in training" in await bot.say(chat, ada, "/privacy")


async def test_a_group_is_asked_with_the_first_thumb_in_one_message_for_everybody(
    bot: RunningBot, group: Chat, ada: User, bob: User
) -> None:
    reply = await bot.ask(group, ada, "@ratchet_bot hello")
    assert questions(group) == []
    for user in (ada, bob):
        await group.tap(user, reply.id, "👍")
        await bot.settle()
    assert len(questions(group)) == 1
    assert bot.store.examples.collect().every == ()

    (question,) = [each for each in group.bot_messages if each.text.startswith(ASKS)]
    for user in (ada, bob):
        await group.tap(user, question.id, "Yes")
        await bot.settle()

    (example,) = bot.store.examples.collect().unpaired
    assert set(example.raters) == {ada.id, bob.id}
    assert group.message(question.id).labels == ("Yes", "No")  # others may still decide


async def test_a_forged_answer_for_somebody_else_is_refused(
    bot: RunningBot, group: Chat, ada: User, bob: User
) -> None:
    reply = await bot.ask(group, ada, "@ratchet_bot hello")
    await group.tap(ada, reply.id, "👍")
    await bot.settle()
    (question,) = [each for each in group.bot_messages if each.text.startswith(ASKS)]

    told = await group.tap_data(bob, question.id, f"consent:yes:{ada.id}")

    assert told.text == "This question is for somebody else."
    assert bot.store.examples.collect().every == ()


async def pause() -> None:
    """Wait as long as somebody without access has to between two requests."""
    await asyncio.sleep(RIGHTS_SECONDS)


@pytest.mark.parametrize("how", ["denied", "shut out"])
async def test_whoever_lost_access_can_see_get_and_delete_what_is_held(
    start: Start, chat: Chat, ada: User, how: str
) -> None:
    bot = await start()
    await bot.ask(chat, ada, "my secret")
    if how == "denied":
        bot.store.people.decide(ada.id, Access.DENIED)
    else:
        await bot.close()
        bot = await start(access="allowlist")

    assert "you have no access to this bot" in await bot.say(chat, ada, "hello")
    assert "I keep: your Telegram id" in await bot.say(chat, ada, "/privacy")
    await pause()
    sent = await chat.send(ada, "/export")
    message = await chat.wait_reply(sent, final=lambda each: each.attachment is not None)
    assert message.attachment is not None
    await pause()
    question = await chat.wait_reply(await chat.send(ada, "/forget"))
    await pause()
    await bot.tap(chat, ada, question, "Delete")
    assert bot.count(TurnRow) == 0
