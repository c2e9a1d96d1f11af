"""Talking to the bot in private: replies, drafts, order, length, form and the plain commands."""

import pytest

from bot.telegram.commands import FOR_EVERYBODY
from loopback import BotApi, Chat, User, any_message
from loopback.text import utf16_length
from store.domain import TurnState
from store.tables import TurnRow
from tests.fakes import FakeEngine
from tests.telegram.conftest import Start
from tests.telegram.running import RunningBot, SteppingEngine, eventually, prompt_text

BUTTONS = ("👍", "👎", "🔄", "✏️")


async def test_a_private_message_is_answered_once_with_buttons(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    reply = await bot.ask(chat, ada, "hello there")

    assert [each.text for each in chat.bot_messages] == ["You said: hello there"]
    assert reply.labels == BUTTONS


async def test_an_answered_message_is_stored_as_a_final_turn(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    turn = bot.turn(await bot.ask(chat, ada, "hello there"))

    assert turn.state == TurnState.FINAL
    assert (turn.question, turn.completion) == ("hello there", "You said: hello there")
    assert (turn.person_id, turn.place.chat_id) == (ada.id, chat.id)
    assert turn.messages == bot.engine.prompts[0]


async def test_the_author_is_remembered_by_name(bot: RunningBot, chat: Chat, ada: User) -> None:
    await bot.ask(chat, ada, "hello")

    person = bot.store.people.find(ada.id)
    assert person is not None
    assert person.name == "Ada"


async def test_typing_is_shown_before_the_first_word(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User
) -> None:
    bot.engine.hold.clear()
    await chat.send(ada, "hello")

    await api.wait_for(lambda: api.calls_to("sendChatAction"))

    assert api.calls_to("sendChatAction")[0].params["action"] == "typing"
    assert not chat.draft_history


async def test_a_reply_in_private_is_drafted_while_it_is_written(
    start: Start, api: BotApi, chat: Chat, ada: User
) -> None:
    bot = await start(engine=SteppingEngine(2))
    asked = await chat.send(ada, "one two three")

    await api.wait_for(lambda: chat.drafts)
    assert [draft.text for draft in chat.drafts] == ["You said:"]
    assert not chat.bot_messages
    bot.engine.hold.set()

    reply = await chat.wait_reply(asked)
    assert reply.text == "You said: one two three"
    assert not chat.drafts


async def test_the_next_question_is_answered_in_the_light_of_the_last(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    await bot.ask(chat, ada, "first")
    await bot.ask(chat, ada, "second")

    assert [each.content for each in bot.engine.prompts[1][1:]] == [
        "first",
        "You said: first",
        "second",
    ]


async def test_messages_of_a_conversation_are_answered_in_their_order(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User
) -> None:
    bot.engine.hold.clear()
    for number in range(8):
        await chat.send(ada, f"number {number}")
    await eventually(lambda: bot.engine.prompts)
    bot.engine.hold.set()

    await api.wait_for(lambda: len(chat.bot_messages) == 8)
    assert [each.text for each in chat.bot_messages] == [
        f"You said: number {number}" for number in range(8)
    ]


async def test_a_conversation_does_not_wait_for_another_one(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User, bob: User
) -> None:
    other = api.private(bob)
    bot.engine.hold.clear()
    await chat.send(ada, "one")
    await chat.send(ada, "two")
    await eventually(lambda: bot.engine.prompts)
    await other.send(bob, "mine")
    await eventually(lambda: len(bot.engine.prompts) == 2)

    assert questions(bot) == ["one", "mine"]


async def test_a_text_that_begins_with_a_slash_is_answered_in_order_too(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User
) -> None:
    bot.engine.hold.clear()
    await chat.send(ada, "first")
    await eventually(lambda: bot.engine.prompts)
    await chat.send(ada, "/home/ada is full, why?")
    with pytest.raises(TimeoutError):
        await eventually(lambda: len(bot.engine.prompts) > 1, 0.5)
    bot.engine.hold.set()
    await api.wait_for(lambda: len(chat.bot_messages) == 2)

    assert questions(bot) == ["first", "/home/ada is full, why?"]


def questions(bot: RunningBot) -> list[str]:
    """Return the questions that the engine got so far."""
    return [prompt[-1].content for prompt in bot.engine.prompts]


async def test_the_ninth_waiting_message_is_told_to_come_back(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User
) -> None:
    bot.engine.hold.clear()
    for number in range(9):
        last = await chat.send(ada, f"number {number}")

    notice = await chat.wait_reply(last, final=any_message)
    assert "still answering 8 earlier messages" in notice.text
    bot.engine.hold.set()
    await bot.settle()
    assert bot.count(TurnRow) == 8


async def test_a_full_engine_says_that_it_is_busy(
    start: Start, api: BotApi, chat: Chat, ada: User, bob: User
) -> None:
    bot = await start(engine=FakeEngine(queue_size=1))
    bot.engine.hold.clear()
    await chat.send(ada, "first")
    await eventually(lambda: bot.engine.prompts)
    other = api.private(bob)

    notice = await other.wait_reply(await other.send(bob, "second"), final=any_message)

    assert "busy" in notice.text
    assert not notice.buttons


async def test_a_long_answer_is_split_with_buttons_under_its_last_part(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    words = [f"{number}{'😀' * 15}" for number in range(300)]
    bot.engine.reply = lambda messages: " ".join(words)
    await bot.ask(chat, ada, "tell me everything")

    parts = chat.bot_messages
    assert len(parts) >= 3
    assert all(utf16_length(part.text) <= 4096 for part in parts)
    assert [bool(part.buttons) for part in parts] == [False] * (len(parts) - 1) + [True]
    assert "".join(part.text for part in parts).replace(" ", "") == "".join(words)


async def test_every_part_of_a_long_answer_is_known_to_be_its_turns(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    bot.engine.reply = lambda messages: " ".join(["x" * 40] * 200)
    reply = await bot.ask(chat, ada, "tell me everything")

    assert bot.shown(chat, bot.turn(reply).id) == tuple(part.id for part in chat.bot_messages)


async def test_markdown_is_shown_as_entities(bot: RunningBot, chat: Chat, ada: User) -> None:
    bot.engine.reply = lambda messages: "😀 **bold** and `code` and [a link](https://example.org/x)"
    reply = await bot.ask(chat, ada, "show me")

    assert reply.text == "😀 bold and code and a link (https://example.org/x)"
    assert [(each["type"], each["offset"], each["length"]) for each in reply.entities][:2] == [
        ("bold", 3, 4),
        ("code", 12, 4),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Use vector<int> for that.",
        "if a < b and c > d: pass",
        "<b>not bold</b>",
        "snake_case_name, f(*args, **kwargs) and 2 * 3 * 4",
        "C:\\new",
    ],
)
async def test_what_looks_like_markup_survives(
    bot: RunningBot, chat: Chat, ada: User, text: str
) -> None:
    bot.engine.reply = lambda messages: text
    reply = await bot.ask(chat, ada, "say it")

    assert reply.text == text


async def test_a_reply_that_breaks_off_inside_a_code_block_arrives(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    bot.engine.reply = lambda messages: "```python\nfor each in "

    assert (await bot.say(chat, ada, "show me")) == "for each in"


async def test_an_empty_reply_of_the_model_is_said_to_be_empty(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    bot.engine.reply = lambda messages: "  \n "
    reply = await bot.ask(chat, ada, "say nothing")

    assert reply.text == "(The reply was empty.)"
    assert reply.labels == BUTTONS


async def test_a_reply_names_its_sources(bot: RunningBot, chat: Chat, ada: User) -> None:
    await bot.add_document("tea.md", "# Tea\n\n## Times\n\nTea is served at four o'clock.")
    reply = await bot.ask(chat, ada, "when is tea served?")

    assert reply.text.endswith("📎 Tea › Times")
    assert reply.entities[-1]["type"] == "italic"
    assert [passage.source for passage in bot.turn(reply).passages] == ["Tea › Times"]
    assert "four o'clock" in prompt_text(bot.engine.prompts[0])


async def test_new_begins_a_conversation_without_a_past(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    await bot.ask(chat, ada, "the password is swordfish")

    assert "new conversation" in await bot.say(chat, ada, "/new")
    await bot.ask(chat, ada, "what is it?")
    assert "swordfish" not in prompt_text(bot.engine.prompts[1])


async def test_new_waits_for_the_reply_that_is_being_written(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User
) -> None:
    bot.engine.hold.clear()
    await chat.send(ada, "first")
    await chat.send(ada, "/new")
    await chat.send(ada, "second")
    await eventually(lambda: bot.engine.prompts)
    bot.engine.hold.set()

    await api.wait_for(lambda: len(chat.bot_messages) == 3)
    assert [each.text[:9] for each in chat.bot_messages] == ["You said:", "A new con", "You said:"]
    assert "first" not in prompt_text(bot.engine.prompts[1])


async def test_why_as_an_answer_tells_how_that_reply_came_about(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    first = await bot.ask(chat, ada, "first")
    await bot.ask(chat, ada, "second")

    told = await bot.say(chat, ada, "/why", reply_to=first.id)

    assert f"Turn {bot.turn(first).id} " in told
    assert "Model: fake" in told
    assert "Adapter: none (the base model)" in told


async def test_why_alone_tells_of_the_last_reply(bot: RunningBot, chat: Chat, ada: User) -> None:
    await bot.ask(chat, ada, "first")
    last = await bot.ask(chat, ada, "second")

    assert f"Turn {bot.turn(last).id} " in await bot.say(chat, ada, "/why")


async def test_why_before_any_reply_says_how_to_use_it(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    assert "Reply to one of my messages with /why" in await bot.say(chat, ada, "/why")


async def test_why_of_a_message_that_is_no_reply_says_how_to_use_it(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    await bot.say(chat, ada, "/help")
    notice = chat.bot_messages[-1]

    assert "Reply to one of my messages with /why" in await bot.say(
        chat, ada, "/why", reply_to=notice.id
    )


async def test_start_tells_what_thumbs_and_privacy_mean(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    text = await bot.say(chat, ada, "/start")

    assert all(word in text for word in ("👍", "👎", "/privacy", "/forget", "/optout", "/help"))


async def test_help_lists_every_command_of_the_menu(bot: RunningBot, chat: Chat, ada: User) -> None:
    text = await bot.say(chat, ada, "/help")

    assert [each.command for each in FOR_EVERYBODY if f"/{each.command}" not in text] == []
    assert "/allow" not in text


async def test_help_tells_admins_what_admins_may_do(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    text = await bot.say(office, grace, "/help")

    assert all(name in text for name in ("/documents", "/remove", "/status", "/allow", "/deny"))


@pytest.mark.parametrize("command", ["/dance", "/status", "/allow 5"])
async def test_an_unknown_command_in_private_is_answered(
    bot: RunningBot, chat: Chat, ada: User, command: str
) -> None:
    assert "do not know that command" in await bot.say(chat, ada, command)
    assert bot.count(TurnRow) == 0


async def test_a_command_with_the_bots_own_name_is_obeyed(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    assert "/privacy" in await bot.say(chat, ada, "/help@Ratchet_Bot")
