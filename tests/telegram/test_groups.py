"""Groups: the bot answers who addresses it, in the right topic, and stores nothing of others."""

import pytest

from loopback import BotApi, Chat, User, any_message, flood
from store.tables import ConversationRow, PersonRow, TurnRow
from tests.telegram.conftest import GROUP_ID, Start
from tests.telegram.running import RunningBot, SteppingEngine, eventually, prompt_text


@pytest.fixture
def forum(api: BotApi, ada: User, bob: User) -> Chat:
    return api.group(GROUP_ID - 1, "Forum", [ada, bob], forum=True)


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("@ratchet_bot what is up?", "what is up?"),
        ("what is up, @Ratchet_Bot", "what is up,"),
        ("👨‍👩‍👧 @ratchet_bot say hi", "👨‍👩‍👧  say hi"),
    ],
)
async def test_a_mention_is_answered_and_taken_out_of_the_question(
    bot: RunningBot, group: Chat, ada: User, text: str, question: str
) -> None:
    reply = await bot.ask(group, ada, text)

    assert bot.turn(reply).question == question


async def test_the_reply_in_a_group_answers_the_message(
    bot: RunningBot, group: Chat, ada: User
) -> None:
    asked = await group.send(ada, "@ratchet_bot hello")

    reply = await group.wait_reply(asked)

    assert reply.reply_to == asked


async def test_an_answer_to_the_bot_is_answered(bot: RunningBot, group: Chat, ada: User) -> None:
    first = await bot.ask(group, ada, "@ratchet_bot hello")

    asked = await group.send(ada, "and then?", reply_to=first.id)

    assert (await group.wait_reply(asked)).text == "You said: and then?"


async def test_a_command_in_a_group_is_obeyed(bot: RunningBot, group: Chat, ada: User) -> None:
    assert "/privacy" in await bot.say(group, ada, "/help")
    assert "/privacy" in await bot.say(group, ada, "/help@ratchet_bot")


@pytest.mark.parametrize(
    "text",
    [
        "good morning everybody",
        "@other_bot what is up?",
        "@ratchet_bot2 what is up?",
        "ratchet_bot is a bot",
        "/help@other_bot",
        "/home/ada is full again",
        "// no comment",
    ],
)
async def test_what_is_not_meant_for_the_bot_is_neither_answered_nor_kept(
    bot: RunningBot, group: Chat, ada: User, text: str
) -> None:
    assert await bot.say(group, ada, text) == ""

    assert not bot.engine.prompts
    assert [bot.count(table) for table in (TurnRow, ConversationRow, PersonRow)] == [0, 0, 0]


@pytest.mark.parametrize("command", ["/dance", "/ban 5", "/status", "/allow 5"])
async def test_an_unknown_command_in_a_group_is_left_to_other_bots(
    bot: RunningBot, group: Chat, ada: User, command: str
) -> None:
    assert await bot.say(group, ada, command) == ""
    assert bot.count(TurnRow) == 0


async def test_who_commands_another_bot_in_a_group_is_not_remembered(
    bot: RunningBot, group: Chat, ada: User
) -> None:
    await bot.say(group, ada, "/dance")

    assert bot.store.people.find(ada.id) is None


async def test_an_answer_to_somebody_else_is_not_answered(
    bot: RunningBot, group: Chat, ada: User, bob: User
) -> None:
    said = await group.send(bob, "I like tea")

    assert await bot.say(group, ada, "so do I", reply_to=said) == ""


async def test_pictures_and_files_that_are_not_meant_for_the_bot_are_left_alone(
    bot: RunningBot, group: Chat, ada: User
) -> None:
    await group.send_photo(ada, caption="my cat")
    await group.send_sticker(ada)
    await group.send_voice(ada)
    await group.send_document(ada, "cat.txt", b"a cat")
    await bot.settle()

    assert not group.bot_messages
    assert bot.count(PersonRow) == 0


async def test_a_picture_that_mentions_the_bot_is_told_that_only_text_counts(
    bot: RunningBot, group: Chat, ada: User
) -> None:
    asked = await group.send_photo(ada, caption="@ratchet_bot who is this?")

    assert (await group.wait_reply(asked, final=any_message)).text == "I can only read text."


async def test_a_message_of_another_bot_is_not_answered(
    bot: RunningBot, api: BotApi, group: Chat, ada: User
) -> None:
    mention = {"type": "mention", "offset": 0, "length": 12}
    sent = group.add(ada, "@ratchet_bot hello", entities=(mention,))
    message = group.json(sent)
    message["from"] = {"id": 7, "is_bot": True, "first_name": "Parrot", "username": "parrot_bot"}
    api.push({"message": message})
    await bot.settle()

    assert not group.bot_messages
    assert not bot.engine.prompts


@pytest.mark.bad_input("an empty message")
async def test_an_empty_mention_is_asked_back(bot: RunningBot, group: Chat, ada: User) -> None:
    assert (
        await bot.say(group, ada, "@ratchet_bot") == "What would you like to know? Ask me anything."
    )
    assert not bot.engine.prompts


async def test_people_of_a_group_share_its_conversation(
    bot: RunningBot, group: Chat, ada: User, bob: User
) -> None:
    await bot.ask(group, ada, "@ratchet_bot my cat is called Tom")
    await bot.ask(group, bob, "@ratchet_bot what is it called?")

    assert "Tom" in prompt_text(bot.engine.prompts[1])


async def test_a_group_knows_nothing_of_a_private_chat(
    bot: RunningBot, chat: Chat, group: Chat, ada: User
) -> None:
    await bot.ask(chat, ada, "my secret is 1234")
    await bot.ask(group, ada, "@ratchet_bot what is my secret?")

    assert "1234" not in prompt_text(bot.engine.prompts[1])


async def test_topics_are_conversations_of_their_own(
    bot: RunningBot, api: BotApi, forum: Chat, ada: User
) -> None:
    tea, cake = api.topic(forum, "Tea"), api.topic(forum, "Cake")
    first = await bot.ask(forum, ada, "@ratchet_bot I like green", thread=tea)
    second = await bot.ask(forum, ada, "@ratchet_bot what do I like?", thread=cake)

    assert "green" not in prompt_text(bot.engine.prompts[1])
    assert [bot.turn(each).place.thread_id for each in (first, second)] == [tea, cake]


async def test_a_reply_is_in_the_topic_of_its_question(
    bot: RunningBot, api: BotApi, forum: Chat, ada: User
) -> None:
    tea = api.topic(forum, "Tea")
    topical = await bot.ask(forum, ada, "@ratchet_bot hello", thread=tea)
    general = await bot.ask(forum, ada, "@ratchet_bot hello")

    assert (topical.thread, general.thread) == (tea, None)


async def test_writing_in_a_topic_is_not_an_answer_to_the_bot(
    bot: RunningBot, api: BotApi, forum: Chat, ada: User
) -> None:
    tea = api.topic(forum, "Tea")
    await bot.ask(forum, ada, "@ratchet_bot hello", thread=tea)
    before = len(forum.bot_messages)

    await forum.send(ada, "just chatting", thread=tea)
    await bot.settle()

    assert len(forum.bot_messages) == before


async def test_topics_do_not_wait_for_each_other(
    bot: RunningBot, api: BotApi, forum: Chat, ada: User
) -> None:
    tea, cake = api.topic(forum, "Tea"), api.topic(forum, "Cake")
    bot.engine.hold.clear()
    await forum.send(ada, "@ratchet_bot one", thread=tea)
    await forum.send(ada, "@ratchet_bot two", thread=cake)

    await eventually(lambda: len(bot.engine.prompts) == 2)


async def test_a_reply_in_a_group_is_streamed_by_editing_one_message(
    start: Start, api: BotApi, group: Chat, ada: User
) -> None:
    bot = await start(engine=SteppingEngine(2))
    asked = await group.send(ada, "@ratchet_bot one two three")
    partial = await group.wait_reply(asked, final=any_message)
    assert (partial.text, partial.buttons) == ("You said:", ())
    bot.engine.hold.set()

    reply = await group.wait_reply(asked)

    assert (reply.id, reply.text) == (partial.id, "You said: one two three")
    assert len(group.bot_messages) == 1
    assert not api.calls_to("sendMessageDraft")


async def test_a_reply_whose_streamed_message_was_deleted_still_arrives(
    start: Start, group: Chat, ada: User
) -> None:
    bot = await start(engine=SteppingEngine(2))
    asked = await group.send(ada, "@ratchet_bot one two three")
    partial = await group.wait_reply(asked, final=any_message)
    await group.delete(ada, partial.id)
    bot.engine.hold.set()

    reply = await group.wait_reply(asked)

    assert reply.text == "You said: one two three"
    await bot.settle()
    assert bot.is_reply(group, reply)


async def test_a_question_deleted_meanwhile_is_answered_all_the_same(
    bot: RunningBot, group: Chat, ada: User
) -> None:
    bot.engine.hold.clear()
    asked = await group.send(ada, "@ratchet_bot hello")
    await eventually(lambda: bot.engine.prompts)
    await group.delete(ada, asked)
    bot.engine.hold.set()

    assert (await group.wait_reply(asked)).text == "You said: hello"


async def test_a_reply_that_is_done_before_its_first_words_were_sent_is_shown_once(
    start: Start, api: BotApi, group: Chat, ada: User
) -> None:
    bot = await start(engine=SteppingEngine(2))
    api.inject("sendMessage", flood(1))
    asked = await group.send(ada, "@ratchet_bot one two three")
    await api.wait_for(lambda: api.calls_to("sendMessage"))
    bot.engine.hold.set()  # while the first words wait for Telegram

    await group.wait_reply(asked)

    assert [each.text for each in group.bot_messages] == ["You said: one two three"]
