"""The buttons under a reply: thumbs, ✖, 🔄 and ✏️."""

import asyncio

import pytest

from loopback import Attachment, BotApi, Chat, MediaKind, User, any_message
from store.domain import Rating, SentKind
from store.tables import CorrectionRow, FeedbackRow, TurnRow
from tests.telegram.conftest import Start
from tests.telegram.running import RunningBot, turn_id

UP, DOWN = Rating.UP, Rating.DOWN


async def test_a_thumb_is_recorded_answered_and_shown(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")

    answer = await chat.tap(ada, reply.id, "👍")
    await bot.settle()

    assert answer.text == "👍 recorded. Thank you!"
    assert bot.ratings(reply) == {ada.id: UP}
    assert chat.message(reply.id).labels == ("👍 ✓", "👎", "🔄", "✏️", "✖")


@pytest.mark.bad_input("a double tap")
async def test_a_thumb_tapped_twice_counts_once(bot: RunningBot, chat: Chat, ada: User) -> None:
    reply = await bot.ask(chat, ada, "hello")

    await asyncio.gather(*(chat.tap(ada, reply.id, "👍") for _ in range(2)))
    await bot.settle()

    assert len(bot.store.feedback.revisions(turn_id(reply), ada.id)) == 1


async def test_the_other_thumb_replaces_the_first(bot: RunningBot, chat: Chat, ada: User) -> None:
    reply = await bot.ask(chat, ada, "hello")
    await chat.tap(ada, reply.id, "👍")

    answer = await chat.tap(ada, reply.id, "👎")
    await bot.settle()

    assert answer.text is not None
    assert "👎 recorded" in answer.text
    assert bot.ratings(reply) == {ada.id: DOWN}
    assert chat.message(reply.id).labels[:2] == ("👍", "👎 ✓")


async def test_the_cross_takes_a_rating_back(bot: RunningBot, chat: Chat, ada: User) -> None:
    reply = await bot.ask(chat, ada, "hello")
    await chat.tap(ada, reply.id, "👍")
    await bot.settle()

    answer = await chat.tap(ada, reply.id, "✖")
    await bot.settle()

    assert answer.text == "Your rating is taken back."
    assert bot.ratings(reply) == {}
    assert chat.message(reply.id).labels == ("👍", "👎", "🔄", "✏️")


async def test_the_last_of_quick_taps_counts(bot: RunningBot, chat: Chat, ada: User) -> None:
    for number in range(10):
        reply = await bot.ask(chat, ada, f"number {number}")
        taps = [asyncio.ensure_future(chat.tap(ada, reply.id, each)) for each in "👍👎"]
        await asyncio.gather(*taps)
        await bot.settle()

        assert bot.ratings(reply) == {ada.id: DOWN}, number
        assert chat.message(reply.id).labels[:2] == ("👍", "👎 ✓"), number


async def test_everybody_in_a_group_has_a_rating_and_the_buttons_count_them(
    bot: RunningBot, group: Chat, ada: User, bob: User, grace: User
) -> None:
    reply = await bot.ask(group, ada, "@ratchet_bot hello")

    await group.tap(ada, reply.id, "👍")
    await group.tap(bob, reply.id, "👍")
    await group.tap(grace, reply.id, "👎")
    await bot.settle()

    assert bot.ratings(reply) == {ada.id: UP, bob.id: UP, grace.id: DOWN}
    assert group.message(reply.id).labels[:2] == ("👍 2", "👎 1")


async def test_the_cross_takes_back_only_ones_own_rating(
    bot: RunningBot, group: Chat, ada: User, bob: User
) -> None:
    reply = await bot.ask(group, ada, "@ratchet_bot hello")
    await group.tap(ada, reply.id, "👍")
    await group.tap(bob, reply.id, "👍")
    await bot.settle()

    await group.tap(bob, reply.id, "✖")
    await bot.settle()

    assert bot.ratings(reply) == {ada.id: UP}
    assert group.message(reply.id).labels[0] == "👍 1"


async def test_who_has_no_rating_has_nothing_to_take_back(
    bot: RunningBot, group: Chat, ada: User, bob: User
) -> None:
    reply = await bot.ask(group, ada, "@ratchet_bot hello")
    await group.tap(ada, reply.id, "👍")
    await bot.settle()

    await group.tap(bob, reply.id, "✖")
    await bot.settle()

    assert bot.ratings(reply) == {ada.id: UP}


async def test_an_earlier_reply_can_be_rated(bot: RunningBot, chat: Chat, ada: User) -> None:
    first = await bot.ask(chat, ada, "first")
    second = await bot.ask(chat, ada, "second")

    await chat.tap(ada, first.id, "👎")
    await bot.settle()

    assert (bot.ratings(first), bot.ratings(second)) == ({ada.id: DOWN}, {})


@pytest.mark.bad_input("a button of a turn in another chat")
async def test_a_turn_of_another_chat_cannot_be_rated(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User, bob: User
) -> None:
    theirs = await bot.ask(chat, ada, "hello")
    other = api.private(bob)
    mine = await bot.ask(other, bob, "hello")

    answer = await other.tap_data(bob, mine.id, f"down:{turn_id(theirs)}")

    assert answer.text == "I no longer have that reply."
    assert bot.count(FeedbackRow) == 0


@pytest.mark.bad_input("a button that cannot be understood")
@pytest.mark.parametrize(
    "data", ["up", "up:", "up:x", "up:-1", "sideways:1", "up:1:2", "up:" + "9" * 40, "forget:yes"]
)
async def test_malformed_button_data_is_answered_and_harms_nothing(
    bot: RunningBot, chat: Chat, ada: User, data: str
) -> None:
    reply = await bot.ask(chat, ada, "hello")

    answer = await chat.tap_data(ada, reply.id, data)

    assert answer.text == "That button no longer works."
    assert bot.count(FeedbackRow) == 0


async def test_a_button_of_a_turn_that_is_gone_says_so(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")

    answer = await chat.tap_data(ada, reply.id, f"up:{10**17}")

    assert answer.text == "I no longer have that reply."


@pytest.mark.bad_input("a button that is too old")
async def test_a_tap_that_is_too_old_to_be_answered_is_recorded(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")

    api.push(
        {
            "callback_query": {
                "id": "1",  # Telegram knows it no more
                "from": ada.json(),
                "message": chat.json(reply),
                "chat_instance": "1",
                "data": f"up:{turn_id(reply)}",
            }
        }
    )
    await bot.settle()

    assert bot.ratings(reply) == {ada.id: UP}
    assert chat.message(reply.id).labels[0] == "👍 ✓"


async def test_a_thumb_on_a_reply_that_was_deleted_meanwhile_is_recorded(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")
    tap = asyncio.ensure_future(chat.tap(ada, reply.id, "👍"))
    await asyncio.sleep(0)
    await chat.delete(ada, reply.id)

    await tap
    await bot.settle()

    assert bot.ratings(reply) == {ada.id: UP}
    assert [each.text for each in chat.bot_messages] == []


async def test_answering_again_links_the_two_turns_and_both_can_be_rated(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    first = await bot.ask(chat, ada, "hello")
    await chat.tap(ada, first.id, "🔄")
    second = await chat.wait_reply(first.id)
    await bot.settle()

    await chat.tap(ada, first.id, "👎")
    await chat.tap(ada, second.id, "👍")
    await bot.settle()

    assert bot.turn(second).regenerates_id == turn_id(first)
    assert bot.turn(second).question == "hello"
    assert (bot.ratings(first), bot.ratings(second)) == ({ada.id: DOWN}, {ada.id: UP})


async def test_answering_again_does_not_see_the_first_answer(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")

    await chat.tap(ada, reply.id, "🔄")
    await chat.wait_reply(reply.id)

    assert bot.engine.prompts[1] == bot.engine.prompts[0]


async def test_answering_again_in_a_group_is_counted_for_who_asked_for_it(
    bot: RunningBot, group: Chat, ada: User, bob: User
) -> None:
    first = await bot.ask(group, ada, "@ratchet_bot hello")
    await group.tap(bob, first.id, "🔄")
    second = await group.wait_reply(first.id)
    await bot.settle()

    assert bot.turn(second).person_id == bob.id
    assert second.reply_to == first.id


async def test_a_correction_is_asked_for_and_linked(bot: RunningBot, chat: Chat, ada: User) -> None:
    reply = await bot.ask(chat, ada, "hello")
    await chat.tap(ada, reply.id, "✏️")
    prompt = await chat.wait_reply(reply.id, final=any_message)
    await bot.settle()

    told = await bot.say(chat, ada, " Good day to you. ", reply_to=prompt.id)

    (correction,) = bot.store.feedback.corrections(turn_id(reply))
    assert (correction.text, correction.person_id) == ("Good day to you.", ada.id)
    assert "✏️ recorded" in told
    assert bot.count(TurnRow) == 1


async def test_the_question_for_a_correction_opens_the_answer_field(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")
    await chat.tap(ada, reply.id, "✏️")

    prompt = await chat.wait_reply(reply.id, final=any_message)

    assert prompt.markup is not None
    assert prompt.markup["force_reply"] is True
    assert prompt.reply_to == reply.id


async def test_a_sticker_is_no_correction(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")
    await chat.tap(ada, reply.id, "✏️")
    prompt = await chat.wait_reply(reply.id, final=any_message)
    await bot.settle()
    sticker = Attachment(
        kind=MediaKind.STICKER,
        file_id="S1",
        file_path="stickers/1.webp",
        name="1.webp",
        mime_type="image/webp",
        data=b"webp",
    )
    sent = chat.add(ada, "", attachment=sticker, reply_to=prompt.id)

    api.push({"message": chat.json(sent)})

    notice = await chat.wait_reply(sent.id, final=any_message)
    assert "has to be text" in notice.text
    assert bot.count(CorrectionRow) == 0


async def test_a_command_is_no_correction(bot: RunningBot, chat: Chat, ada: User) -> None:
    reply = await bot.ask(chat, ada, "hello")
    await chat.tap(ada, reply.id, "✏️")
    prompt = await chat.wait_reply(reply.id, final=any_message)
    await bot.settle()

    await bot.say(chat, ada, "/help", reply_to=prompt.id)

    assert bot.count(CorrectionRow) == 0


async def test_a_correction_by_somebody_else_in_the_group_is_theirs(
    bot: RunningBot, group: Chat, ada: User, bob: User
) -> None:
    reply = await bot.ask(group, ada, "@ratchet_bot hello")
    await group.tap(ada, reply.id, "✏️")
    prompt = await group.wait_reply(reply.id, final=any_message)
    await bot.settle()

    await bot.say(group, bob, "Good day.", reply_to=prompt.id)

    (correction,) = bot.store.feedback.corrections(turn_id(reply))
    assert correction.person_id == bob.id


async def test_an_answer_to_a_reply_is_talk_and_no_correction(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")

    asked = await chat.send(ada, "and now?", reply_to=reply.id)

    assert (await chat.wait_reply(asked)).text == "You said: and now?"
    assert bot.count(CorrectionRow) == 0


async def test_the_question_for_a_correction_is_no_reply_that_can_be_rated(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")
    await chat.tap(ada, reply.id, "✏️")
    prompt = await chat.wait_reply(reply.id, final=any_message)
    await bot.settle()

    await chat.react(ada, prompt.id, ["👍"])
    await bot.settle()

    found = bot.store.conversations.shown_in(chat.id, prompt.id, SentKind.CORRECTION_PROMPT)
    assert found == turn_id(reply)
    assert bot.ratings(reply) == {}


@pytest.mark.parametrize(
    ("settings", "opted_out", "reason"),
    [
        ({}, True, "I do not learn from it: you have opted out (/optin)."),
        ({"train_consent": True}, None, "I do not learn from it until you say /optin."),
    ],
    ids=["no", "not asked"],
)
async def test_who_is_not_learned_from_is_not_told_otherwise(
    start: Start,
    chat: Chat,
    ada: User,
    settings: dict[str, bool],
    opted_out: bool | None,
    reason: str,
) -> None:
    bot = await start(**settings)
    reply = await bot.ask(chat, ada, "hello")
    if opted_out:
        bot.store.people.opt_out(ada.id, True)
    await chat.tap(ada, reply.id, "✏️")
    prompt = await chat.wait_reply(reply.id, final=any_message)
    await bot.settle()

    told = await bot.say(chat, ada, "Good day!", reply_to=prompt.id)

    assert told == f"✏️ recorded. {reason}"
