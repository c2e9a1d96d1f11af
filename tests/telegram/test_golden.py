"""`/golden`: an admin chooses answers that every version must still know."""

from loopback import Chat, User
from tests.telegram.running import RunningBot, turn_id

QUESTION = "where is the harbour?"


async def told(bot: RunningBot, office: Chat, grace: User, text: str, **options: int) -> str:
    """Send a command and return the bot's answer."""
    sent = await office.send(grace, text, **options)
    await bot.settle()
    return next(each.text for each in office.bot_messages if each.id > sent)


async def test_a_reply_becomes_golden_and_is_so_no_longer(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    reply = await bot.ask(office, grace, QUESTION)

    assert (await told(bot, office, grace, "/golden", reply_to=reply.id)).startswith("Golden:")
    assert "already" in await told(bot, office, grace, "/golden", reply_to=reply.id)

    [kept] = bot.store.golden.all()
    assert (kept.prompt[0].content, kept.turn_id) == (QUESTION, turn_id(reply))
    assert (await told(bot, office, grace, "/golden off", reply_to=reply.id)).endswith("no longer.")
    assert bot.store.golden.all() == ()
    assert "was not" in await told(bot, office, grace, "/golden off", reply_to=reply.id)


async def test_an_answer_of_another_chat_is_named_by_its_number(
    bot: RunningBot, chat: Chat, office: Chat, ada: User, grace: User
) -> None:
    reply = await bot.ask(chat, ada, QUESTION)

    assert (await told(bot, office, grace, f"/golden {turn_id(reply)}")).startswith("Golden:")

    assert [each.turn_id for each in bot.store.golden.all()] == [turn_id(reply)]


async def test_what_cannot_be_golden_is_said(bot: RunningBot, office: Chat, grace: User) -> None:
    assert (await told(bot, office, grace, "/golden")).startswith("0 answers are golden")
    assert "cannot keep" in await told(bot, office, grace, "/golden 999")
    assert "0 answers" in await told(bot, office, grace, "/golden 99999999999999999999")


async def test_only_admins_choose(bot: RunningBot, chat: Chat, ada: User) -> None:
    reply = await bot.ask(chat, ada, QUESTION)

    await chat.send(ada, "/golden", reply_to=reply.id)
    await bot.settle()

    assert bot.store.golden.all() == ()
