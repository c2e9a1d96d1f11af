"""`/approve`: what people liked helps in its own chat; an admin lets it help in every other."""

import pytest

from loopback import BotApi, Chat, Message, User
from store.tables import ApprovalRow
from tests.store.talk import read_export
from tests.telegram.running import RunningBot, prompt_text, turn_id

QUESTION = "where is the harbour?"
USE_IT = "Use it in every chat"
BUTTONS = (USE_IT, "No")


@pytest.fixture
def bobs(api: BotApi, bob: User) -> Chat:
    """Return Bob's private chat with the bot."""
    return api.private(bob)


async def like(bot: RunningBot, chat: Chat, user: User, text: str) -> Message:
    """Ask, and like the reply."""
    reply = await bot.ask(chat, user, text)
    await chat.tap(user, reply.id, "👍")
    await bot.settle()
    return reply


async def approve(bot: RunningBot, office: Chat, grace: User) -> None:
    """Approve the only answer that waits, for every chat."""
    (shown,) = await waiting(bot, office, grace)
    await bot.tap(office, grace, shown, USE_IT)


async def waiting(bot: RunningBot, office: Chat, grace: User) -> list[Message]:
    """Return the answers that `/approve` shows."""
    sent = await office.send(grace, "/approve")
    await bot.settle()
    return [each for each in office.bot_messages if each.id > sent]


async def test_nothing_waits_until_something_was_liked(
    bot: RunningBot, chat: Chat, office: Chat, ada: User, grace: User
) -> None:
    reply = await bot.ask(chat, ada, QUESTION)
    await chat.tap(ada, reply.id, "👎")
    await bot.settle()

    (told,) = await waiting(bot, office, grace)

    assert told.text.startswith("No liked or corrected answer waits")
    assert told.labels == ()


async def test_liked_and_corrected_answers_are_listed_newest_first(
    bot: RunningBot, chat: Chat, office: Chat, ada: User, grace: User
) -> None:
    await like(bot, chat, ada, QUESTION)
    wrong = await bot.ask(chat, ada, "who keeps the lighthouse?")
    bot.store.feedback.correct(turn_id(wrong), ada.id, "Cleo keeps it.")

    corrected, liked = await waiting(bot, office, grace)

    assert corrected.text == "Question:\nwho keeps the lighthouse?\n\nAnswer:\nCleo keeps it."
    assert liked.text == f"Question:\n{QUESTION}\n\nAnswer:\nYou said: {QUESTION}"
    assert corrected.labels == liked.labels == BUTTONS


async def test_a_few_are_listed_at_a_time(
    bot: RunningBot, chat: Chat, office: Chat, ada: User, grace: User
) -> None:
    for number in range(6):
        await like(bot, chat, ada, f"number {number}?")

    *shown, told = await waiting(bot, office, grace)

    assert len(shown) == 5
    assert "There may be more" in told.text


async def test_a_liked_answer_helps_in_its_own_chat_without_being_asked(
    bot: RunningBot, chat: Chat, bobs: Chat, ada: User, bob: User
) -> None:
    await like(bot, chat, ada, QUESTION)
    await bot.say(chat, ada, "/new")

    here = await bot.ask(chat, ada, QUESTION)
    elsewhere = await bot.ask(bobs, bob, QUESTION)

    assert len(bot.turn(here).memories) == 1
    assert bot.turn(elsewhere).memories == ()
    assert "Examples from earlier answers: 0" in await bot.say(bobs, bob, "/why")


async def test_an_approved_answer_helps_in_every_chat_and_why_counts_it(
    bot: RunningBot, chat: Chat, office: Chat, bobs: Chat, ada: User, bob: User, grace: User
) -> None:
    liked = await like(bot, chat, ada, QUESTION)
    (shown,) = await waiting(bot, office, grace)

    done = await bot.tap(office, grace, shown, USE_IT)
    reply = await bot.ask(bobs, bob, QUESTION)

    assert done.text == f"{shown.text}\n\n✅ It helps in every chat now."
    assert done.labels == ()
    (memory,) = bot.turn(reply).memories
    assert memory.turn_id == turn_id(liked)
    prompt = prompt_text(bot.engine.prompts[-1])
    assert prompt.index(QUESTION) < prompt.index(f"You said: {QUESTION}")
    why = await bot.say(bobs, bob, "/why")
    assert "Examples from earlier answers: 1" in why
    assert "approved for every chat" in why
    assert QUESTION not in why


async def test_what_was_approved_waits_no_longer_and_may_be_approved_again(
    bot: RunningBot, chat: Chat, office: Chat, ada: User, grace: User
) -> None:
    liked = await like(bot, chat, ada, QUESTION)
    (shown,) = await waiting(bot, office, grace)
    data = str(shown.buttons[0]["callback_data"])
    assert data.startswith(f"approve:{turn_id(liked)}:")
    for _ in range(2):
        await office.tap_data(grace, shown.id, data)
    await bot.settle()

    (told,) = await waiting(bot, office, grace)

    assert told.text.startswith("No liked or corrected answer waits")


async def test_a_rating_taken_back_ends_it_everywhere(
    bot: RunningBot, chat: Chat, office: Chat, bobs: Chat, ada: User, bob: User, grace: User
) -> None:
    liked = await like(bot, chat, ada, QUESTION)
    await approve(bot, office, grace)

    await bot.tap(chat, ada, chat.message(liked.id), "✖")
    reply = await bot.ask(bobs, bob, QUESTION)

    assert bot.turn(reply).memories == ()
    assert f"You said: {QUESTION}" not in prompt_text(bot.engine.prompts[-1])


async def test_somebody_who_keeps_out_of_training_helps_nobody(
    bot: RunningBot, chat: Chat, office: Chat, bobs: Chat, ada: User, bob: User, grace: User
) -> None:
    await like(bot, chat, ada, QUESTION)
    await approve(bot, office, grace)

    await bot.say(chat, ada, "/optout")
    reply = await bot.ask(bobs, bob, QUESTION)

    assert bot.turn(reply).memories == ()


async def test_the_button_of_an_answer_that_was_erased_says_that_it_is_gone(
    bot: RunningBot, chat: Chat, office: Chat, ada: User, grace: User
) -> None:
    liked = await like(bot, chat, ada, QUESTION)
    turn = turn_id(liked)
    (shown,) = await waiting(bot, office, grace)
    bot.store.eraser.erase_person(ada.id)

    done = await bot.tap(office, grace, shown, USE_IT)

    assert f"there is no turn {turn} here" in done.text
    assert bot.count(ApprovalRow) == 0


async def test_the_button_of_an_answer_that_is_liked_no_longer_does_not_say_that_it_helps(
    bot: RunningBot, chat: Chat, office: Chat, ada: User, grace: User
) -> None:
    liked = await like(bot, chat, ada, QUESTION)
    (shown,) = await waiting(bot, office, grace)
    await bot.tap(chat, ada, chat.message(liked.id), "✖")

    done = await bot.tap(office, grace, shown, USE_IT)

    assert "It helps in every chat now" not in done.text


async def test_an_answer_that_cannot_be_shown_whole_cannot_be_approved(
    bot: RunningBot, chat: Chat, office: Chat, ada: User, grace: User
) -> None:
    bot.engine.reply = lambda messages: "😀" * 2500
    await like(bot, chat, ada, QUESTION)

    (shown,) = await waiting(bot, office, grace)

    assert "too long to be shown whole" in shown.text
    assert shown.labels == ("No",)


async def test_erasing_takes_their_words_out_of_what_others_were_helped_with(
    bot: RunningBot, chat: Chat, office: Chat, bobs: Chat, ada: User, bob: User, grace: User
) -> None:
    await like(bot, chat, ada, QUESTION)
    await approve(bot, office, grace)
    reply = await bot.ask(bobs, bob, "where is the harbour today?")
    assert len(bot.turn(reply).memories) == 1

    bot.store.eraser.erase_person(ada.id)

    turn = bot.turn(reply)
    assert f"You said: {QUESTION}" not in prompt_text(turn.messages)
    assert f"You said: {QUESTION}" not in str(turn.memories)


async def test_an_export_holds_no_words_of_others_that_were_of_help(
    bot: RunningBot, group: Chat, ada: User, bob: User
) -> None:
    await like(bot, group, ada, f"@ratchet_bot {QUESTION}")
    await bot.say(group, bob, "/new")
    reply = await bot.ask(group, bob, "@ratchet_bot where is the harbour today?")
    assert len(bot.turn(reply).memories) == 1

    assert f"You said: {QUESTION}" not in str(read_export(bot.store.database, bob.id))


async def test_a_liked_answer_that_is_given_again_is_no_example_for_itself(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    liked = await like(bot, chat, ada, QUESTION)

    await chat.tap(ada, liked.id, "🔄")
    await chat.wait_reply(liked.id)

    assert bot.engine.prompts[1] == bot.engine.prompts[0]


async def test_what_is_liked_after_somebody_was_erased_is_recalled_too(
    bot: RunningBot, chat: Chat, bobs: Chat, ada: User, bob: User
) -> None:
    await like(bot, chat, ada, "who keeps the lighthouse?")
    reply = await bot.ask(bobs, bob, QUESTION)
    bot.store.eraser.erase_person(ada.id)
    await bot.tap(bobs, bob, reply, "👍")
    await bot.say(bobs, bob, "/new")

    again = await bot.ask(bobs, bob, QUESTION)

    assert len(bot.turn(again).memories) == 1


async def test_who_lets_their_words_in_again_is_helped_by_them_again(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    await like(bot, chat, ada, QUESTION)
    await bot.say(chat, ada, "/optout")
    await bot.ask(chat, ada, "hello")
    await bot.say(chat, ada, "/optin")
    await bot.say(chat, ada, "/new")

    again = await bot.ask(chat, ada, QUESTION)

    assert len(bot.turn(again).memories) == 1
