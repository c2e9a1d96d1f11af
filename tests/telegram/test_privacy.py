"""Privacy: what a person can do about the data held of them."""

import asyncio
import io
import json
import re
import zipfile

import pytest

from loopback import BotApi, Chat, Message, User, any_message
from store.domain import ExampleCounts, Origin, OriginKind, Split
from store.people import CONSENT_VERSION
from store.tables import CorrectionRow, FeedbackRow, PersonRow, TurnRow
from tests.fakes import Clock
from tests.telegram.conftest import MakeVersion, Start
from tests.telegram.running import RunningBot, eventually, prompt_text


async def asked_to_forget(bot: RunningBot, chat: Chat, user: User) -> Message:
    """Send /forget; return the bot's question whether it should."""
    return await chat.wait_reply(await chat.send(user, "/forget"))


async def talked(bot: RunningBot, chat: Chat, user: User, text: str = "hello") -> Message:
    """Ask, rate and correct the reply as one person; return the reply."""
    reply = await bot.ask(chat, user, text)
    await chat.tap(user, reply.id, "👎")
    await chat.tap(user, reply.id, "✏️")
    prompt = await chat.wait_reply(reply.id, final=lambda each: bool(each.reply_to == reply.id))
    await bot.settle()
    await bot.say(chat, user, "a better one", reply_to=prompt.id)
    return reply


def exported(api: BotApi, message: Message) -> dict[str, str]:
    assert message.attachment is not None
    with zipfile.ZipFile(io.BytesIO(message.attachment.data)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


async def test_privacy_tells_what_is_kept_and_what_can_be_done(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    told = await bot.say(chat, ada, "/privacy")

    assert all(command in told for command in ("/export", "/forget", "/optout", "/optin"))
    assert "you take part in training" in told


async def test_opting_out_and_in_is_remembered(bot: RunningBot, chat: Chat, ada: User) -> None:
    assert "I will not learn from" in await bot.say(chat, ada, "/optout")
    person = bot.store.people.find(ada.id)
    assert person is not None
    assert person.opted_out
    assert "opted out" in await bot.say(chat, ada, "/privacy")

    await bot.say(chat, ada, "/optin")
    assert "you take part in training" in await bot.say(chat, ada, "/privacy")


async def test_an_export_is_a_file_with_everything(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User
) -> None:
    await talked(bot, chat, ada, "grüß Gott 😀")

    sent = await chat.send(ada, "/export")
    message = await chat.wait_reply(sent, final=lambda each: each.attachment is not None)

    files = exported(api, message)
    held = {name: json.loads(text) for name, text in files.items() if name.endswith(".json")}
    assert held["people.json"][0]["name"] == "Ada"
    assert [turn["question"] for turn in held["turns.json"]] == ["grüß Gott 😀"]
    assert [each["rating"] for each in held["ratings.json"]] == [-1]
    assert [each["text"] for each in held["corrections.json"]] == ["a better one"]
    assert "grüß Gott 😀" in files["conversations/1.md"]
    assert "README.txt" in files
    assert message.attachment is not None
    assert re.fullmatch(r"ratchet-export-\d{4}-\d\d-\d\d-1\.zip", message.attachment.name)


async def test_an_export_holds_nothing_of_other_peoples(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User, bob: User
) -> None:
    await bot.ask(api.private(bob), bob, "my secret")

    sent = await chat.send(ada, "/export")
    message = await chat.wait_reply(sent, final=any_message)

    assert "my secret" not in json.dumps(exported(api, message))


async def test_an_export_asked_for_in_a_group_is_sent_in_private(
    bot: RunningBot, chat: Chat, group: Chat, ada: User
) -> None:
    told = await bot.say(group, ada, "/export")

    assert told == "I have sent it to you in private."
    assert [each.attachment is not None for each in chat.bot_messages] == [True]
    assert not any(each.attachment for each in group.messages)


async def test_an_export_that_cannot_be_sent_in_private_says_what_to_do_and_that_helps(
    bot: RunningBot, api: BotApi, group: Chat, ada: User
) -> None:
    told = await bot.say(group, ada, "/export")  # Ada never wrote to the bot in private

    assert "in private" in told
    assert "error" not in told
    chat = api.private(ada)
    sent = await chat.send(ada, "/export")
    message = await chat.wait_reply(sent, final=lambda each: each.attachment is not None)
    assert exported(api, message)


async def test_forget_asks_first(bot: RunningBot, chat: Chat, ada: User) -> None:
    await talked(bot, chat, ada)

    question = await asked_to_forget(bot, chat, ada)

    assert question.labels == ("Delete", "Keep")
    assert bot.count(TurnRow) == 1


async def test_keeping_deletes_nothing(bot: RunningBot, chat: Chat, ada: User) -> None:
    await talked(bot, chat, ada)
    question = await asked_to_forget(bot, chat, ada)

    await chat.tap(ada, question.id, "Keep")
    await bot.settle()

    assert chat.message(question.id).text == "Nothing was deleted."
    assert not chat.message(question.id).buttons
    assert bot.count(TurnRow) == 1


async def test_deleting_takes_out_everything_of_the_person(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    await talked(bot, chat, ada)
    question = await asked_to_forget(bot, chat, ada)

    await chat.tap(ada, question.id, "Delete")
    await bot.settle()

    assert chat.message(question.id).text.startswith("Deleted: 1 ")
    tables = (TurnRow, FeedbackRow, CorrectionRow, PersonRow)
    assert [bot.count(table) for table in tables] == [0, 0, 0, 0]


async def test_deleting_leaves_other_people_alone(
    bot: RunningBot, group: Chat, ada: User, bob: User
) -> None:
    await bot.ask(group, ada, "@ratchet_bot from Ada")
    theirs = await bot.ask(group, bob, "@ratchet_bot from Bob")
    question = await asked_to_forget(bot, group, ada)

    await group.tap(ada, question.id, "Delete")
    await bot.settle()

    turn = bot.turn(theirs)
    assert turn.question == "from Bob"
    assert "from Ada" not in prompt_text(turn.messages)


@pytest.mark.parametrize("button", ["Delete", "Keep"])
async def test_only_who_was_asked_may_answer(
    bot: RunningBot, group: Chat, ada: User, bob: User, button: str
) -> None:
    await bot.ask(group, ada, "@ratchet_bot from Ada")
    await bot.ask(group, bob, "@ratchet_bot from Bob")
    question = await asked_to_forget(bot, group, ada)

    answer = await group.tap(bob, question.id, button)
    await bot.settle()

    assert answer.text == "This question is for somebody else."
    assert bot.count(TurnRow) == 2
    assert group.message(question.id).labels == ("Delete", "Keep")


async def test_deleting_twice_at_once_is_deleting_once(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    await talked(bot, chat, ada)
    question = await asked_to_forget(bot, chat, ada)

    await asyncio.gather(*(chat.tap(ada, question.id, "Delete") for _ in range(2)))
    await bot.settle()

    assert "Something went wrong" not in " ".join(each.text for each in chat.bot_messages)
    assert bot.count(TurnRow) == 0


async def test_a_deletion_confirmed_too_late_to_be_answered_is_done(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User
) -> None:
    await talked(bot, chat, ada)
    question = await asked_to_forget(bot, chat, ada)

    api.push(
        {
            "callback_query": {
                "id": "1",  # Telegram knows it no more
                "from": ada.json(),
                "message": chat.json(question),
                "chat_instance": "1",
                "data": f"forget:yes:{ada.id}",
            }
        }
    )
    await bot.settle()

    assert bot.count(TurnRow) == 0


async def test_forgetting_while_a_reply_is_written_leaves_nothing_and_ends_calmly(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User
) -> None:
    question = await asked_to_forget(bot, chat, ada)
    bot.engine.hold.clear()
    await chat.send(ada, "hello")
    await eventually(lambda: bot.engine.prompts)

    await chat.tap(ada, question.id, "Delete")
    await api.wait_for(lambda: chat.message(question.id).text.startswith("Deleted"))
    bot.engine.hold.set()
    await bot.settle()

    assert bot.count(TurnRow) == 0
    assert "Something went wrong" not in " ".join(each.text for each in chat.bot_messages)


async def test_a_thumb_on_a_reply_that_was_forgotten_says_so(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")
    question = await asked_to_forget(bot, chat, ada)
    await chat.tap(ada, question.id, "Delete")
    await bot.settle()

    answer = await chat.tap(ada, reply.id, "👍")

    assert answer.text == "I no longer have that reply."


async def test_versions_that_were_trained_on_what_is_deleted_are_named_to_everybody_concerned(
    bot: RunningBot, chat: Chat, ada: User, office: Chat, make_version: MakeVersion
) -> None:
    await talked(bot, chat, ada)
    run, _ = bot.store.runs.queue("this test")
    bot.store.runs.take(run.id)
    learned = Origin(kind=OriginKind.RATED, turn_id=1)
    bot.store.runs.choose(run.id, ExampleCounts(), {Split.TRAIN: [learned]})
    bot.store.runs.cancel(run.id)
    version = make_version(bot, run_id=run.id)
    question = await asked_to_forget(bot, chat, ada)

    await chat.tap(ada, question.id, "Delete")
    await bot.settle()

    assert f"I have learned from some of it ({version.name})" in chat.message(question.id).text
    assert f"learned from some of it: {version.name}." in office.bot_messages[-1].text


async def started(bot: RunningBot, chat: Chat, user: User) -> Message:
    """Send /start; return the question about training."""
    await bot.say(chat, user, "/start")
    return chat.bot_messages[-1]


@pytest.mark.parametrize(("button", "agreed"), [("Yes", True), ("No", False)])
async def test_at_the_first_start_people_are_asked_whether_they_may_be_learned_from(
    asking: None, bot: RunningBot, chat: Chat, ada: User, clock: Clock, button: str, agreed: bool
) -> None:
    question = await started(bot, chat, ada)
    assert question.labels == ("Yes", "No")

    await bot.tap(chat, ada, question, button)

    person = bot.store.people.find(ada.id)
    assert person is not None
    assert person.consented_to == (CONSENT_VERSION if agreed else None)
    assert (person.opted_out, person.decided_at) == (not agreed, clock())


async def test_who_has_decided_is_not_asked_again(
    asking: None, bot: RunningBot, chat: Chat, ada: User
) -> None:
    await bot.tap(chat, ada, await started(bot, chat, ada), "Yes")

    again = await started(bot, chat, ada)

    assert not again.labels


async def test_start_in_a_group_asks_nobody(
    asking: None, bot: RunningBot, group: Chat, ada: User
) -> None:
    assert not (await started(bot, group, ada)).labels


async def test_only_who_agreed_is_learned_from_where_that_is_asked_for(
    start: Start, chat: Chat, ada: User
) -> None:
    bot = await start(train_consent=True)
    reply = await bot.ask(chat, ada, "hello")
    await bot.tap(chat, ada, reply, "👍")
    assert bot.store.examples.collect().every == ()
    assert "until you say /optin" in await bot.say(chat, ada, "/privacy")

    await bot.say(chat, ada, "/optin")

    assert len(bot.store.examples.collect().every) == 1
    assert "you take part" in await bot.say(chat, ada, "/privacy")
