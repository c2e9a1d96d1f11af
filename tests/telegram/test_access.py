"""Access: who may talk to the bot, who decides about it, and what everybody's menu shows."""

import pytest

from bot.telegram.access import WHOM
from bot.telegram.commands import FOR_ADMINS, FOR_EVERYBODY, FOR_GROUPS
from loopback import BotApi, Chat, User, any_message
from store.domain import Access
from store.tables import FeedbackRow, TurnRow
from tests.telegram.conftest import Start
from tests.telegram.running import ADMIN_ID, RunningBot, turn_id

REFUSED = "Sorry, you have no access to this bot."


async def test_an_open_bot_talks_with_everybody(bot: RunningBot, chat: Chat, ada: User) -> None:
    assert (await bot.ask(chat, ada, "hello")).text == "You said: hello"


async def test_an_allowlist_keeps_strangers_out_without_a_generation(
    start: Start, chat: Chat, ada: User
) -> None:
    bot = await start(access="allowlist")

    told = await bot.say(chat, ada, "hello")

    assert told.startswith(REFUSED)
    assert str(ada.id) in told
    assert not bot.engine.prompts
    assert bot.count(TurnRow) == 0


async def test_an_allowlist_lets_in_who_was_allowed(start: Start, chat: Chat, ada: User) -> None:
    bot = await start(access="allowlist")
    bot.store.people.decide(ada.id, Access.ALLOWED)

    assert (await bot.ask(chat, ada, "hello")).text == "You said: hello"


async def test_an_allowlist_lets_admins_in(start: Start, office: Chat, grace: User) -> None:
    bot = await start(access="allowlist")

    assert (await bot.ask(office, grace, "hello")).text == "You said: hello"


async def test_who_was_denied_stays_out_of_an_open_bot(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    bot.store.people.decide(ada.id, Access.DENIED)

    assert (await bot.say(chat, ada, "hello")).startswith(REFUSED)
    assert not bot.engine.prompts


async def test_an_admin_cannot_be_locked_out(bot: RunningBot, office: Chat, grace: User) -> None:
    bot.store.people.decide(grace.id, Access.DENIED)

    assert (await bot.ask(office, grace, "hello")).text == "You said: hello"


async def test_a_stranger_gets_one_polite_answer_and_then_silence(
    start: Start, chat: Chat, ada: User
) -> None:
    bot = await start(access="allowlist")

    for text in ("hello", "/start", "/new", "hello?"):
        await bot.say(chat, ada, text)

    assert len(chat.bot_messages) == 1


async def test_every_stranger_gets_an_answer(
    start: Start, api: BotApi, chat: Chat, ada: User, bob: User
) -> None:
    bot = await start(access="allowlist")
    await bot.say(chat, ada, "hello")

    assert (await bot.say(api.private(bob), bob, "hello")).startswith(REFUSED)


async def test_strangers_who_talk_among_themselves_in_a_group_are_left_alone(
    start: Start, group: Chat, ada: User, bob: User
) -> None:
    bot = await start(access="allowlist")

    assert await bot.say(group, ada, "good morning") == ""
    assert await bot.say(group, bob, "/dance@other_bot") == ""


async def test_a_stranger_who_commands_another_bot_is_left_alone(
    start: Start, group: Chat, ada: User
) -> None:
    bot = await start(access="allowlist")

    assert await bot.say(group, ada, "/dance") == ""


async def test_a_strangers_tap_is_answered_and_records_nothing(
    start: Start, group: Chat, ada: User, grace: User
) -> None:
    bot = await start(access="allowlist")
    reply = await bot.ask(group, grace, "@ratchet_bot hello")

    answers = [await group.tap(ada, reply.id, button) for button in ("👍", "🔄", "✏️")]

    assert {answer.text for answer in answers} == {"You have no access to this bot."}
    assert (bot.count(FeedbackRow), bot.count(TurnRow)) == (0, 1)


async def test_a_strangers_reaction_records_nothing(
    start: Start, group: Chat, ada: User, grace: User
) -> None:
    bot = await start(access="allowlist")
    reply = await bot.ask(group, grace, "@ratchet_bot hello")

    await group.react(ada, reply.id, ["👍"])
    await bot.settle()

    assert bot.ratings(reply) == {}
    assert bot.store.people.find(ada.id) is None


async def test_access_taken_away_ends_ratings_too(bot: RunningBot, chat: Chat, ada: User) -> None:
    reply = await bot.ask(chat, ada, "hello")
    bot.store.people.decide(ada.id, Access.DENIED)

    await chat.tap_data(ada, reply.id, f"up:{turn_id(reply)}")
    await chat.react(ada, reply.id, ["👍"])
    await bot.settle()

    assert bot.ratings(reply) == {}


async def test_an_admin_lets_somebody_in(
    start: Start, chat: Chat, office: Chat, ada: User, grace: User
) -> None:
    bot = await start(access="allowlist")
    await bot.say(chat, ada, "hello")

    assert await bot.say(office, grace, f"/allow {ada.id}") == "Ada may talk to me."
    assert (await bot.ask(chat, ada, "hello")).text == "You said: hello"


async def test_an_admin_keeps_somebody_out(
    bot: RunningBot, chat: Chat, office: Chat, ada: User, grace: User
) -> None:
    await bot.ask(chat, ada, "hello")

    assert await bot.say(office, grace, f"/deny {ada.id}") == "Ada may not talk to me."
    assert (await bot.say(chat, ada, "hello")).startswith(REFUSED)


async def test_somebody_can_be_allowed_before_they_write(
    start: Start, office: Chat, chat: Chat, ada: User, grace: User
) -> None:
    bot = await start(access="allowlist")

    assert await bot.say(office, grace, f"/allow {ada.id}") == f"{ada.id} may talk to me."
    await bot.ask(chat, ada, "hello")


async def test_a_forwarded_message_says_who_is_meant(
    bot: RunningBot, api: BotApi, office: Chat, ada: User, grace: User
) -> None:
    forwarded = office.add(grace, "hello")
    sent = office.add(
        grace,
        "/deny",
        entities=({"type": "bot_command", "offset": 0, "length": 5},),
        reply_to=forwarded.id,
    )
    message = office.json(sent)
    message["reply_to_message"]["forward_origin"] = {
        "type": "user",
        "date": 0,
        "sender_user": ada.json(),
    }
    api.push({"message": message})

    await office.wait_reply(sent.id, final=any_message)

    person = bot.store.people.find(ada.id)
    assert person is not None
    assert person.access == Access.DENIED


@pytest.mark.parametrize("arguments", ["", " Ada", " 1 2", " -5", " 99999999999999999999", " ١٢x"])
async def test_deciding_about_nobody_says_how_to_do_it(
    bot: RunningBot, office: Chat, grace: User, arguments: str
) -> None:
    assert "Please give me the person's id" in await bot.say(office, grace, f"/allow{arguments}")


@pytest.mark.parametrize("command", ["/allow", "/deny"])
async def test_only_admins_decide(
    bot: RunningBot, chat: Chat, ada: User, bob: User, command: str
) -> None:
    assert "do not know that command" in await bot.say(chat, ada, f"{command} {bob.id}")
    assert bot.store.people.find(bob.id) is None


@pytest.mark.parametrize("command", ["/allow 2", "/deny 2", "/status", "/documents", "/remove 1"])
async def test_admins_decide_in_private_only(
    bot: RunningBot, group: Chat, grace: User, command: str
) -> None:
    assert await bot.say(group, grace, command) == ""
    assert bot.store.people.find(2) is None


async def test_an_admin_sees_how_the_bot_is(
    bot: RunningBot, chat: Chat, office: Chat, ada: User, grace: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")
    await chat.tap(ada, reply.id, "👍")
    await bot.settle()

    status = await bot.say(office, grace, "/status")

    assert "Answers given: 1" in status
    assert "Ratings: 1 👍, 0 👎" in status
    assert "secret" not in status


async def test_everybody_has_a_menu_of_what_they_may_do(bot: RunningBot, api: BotApi) -> None:
    everybody, admins = (
        [each.command for each in FOR_EVERYBODY],
        [each.command for each in FOR_ADMINS],
    )

    await api.wait_for(lambda: api.commands({"type": "chat", "chat_id": ADMIN_ID}))

    assert api.commands({"type": "all_private_chats"}) == everybody
    assert api.commands({"type": "all_group_chats"}) == [each.command for each in FOR_GROUPS]
    assert api.commands({"type": "chat", "chat_id": ADMIN_ID}) == admins


async def ask_for_access(bot: RunningBot, chat: Chat, user: User) -> None:
    """Be turned away, and tap the button under the answer."""
    await bot.say(chat, user, "hello")
    await bot.tap(chat, user, chat.bot_messages[0], "Ask for access")


async def test_a_stranger_asks_with_a_button_and_is_told_when_an_admin_lets_them_in(
    start: Start, chat: Chat, ada: User, office: Chat, grace: User
) -> None:
    bot = await start(access="allowlist")
    await ask_for_access(bot, chat, ada)
    await bot.tap(chat, ada, chat.bot_messages[0], "Ask for access")
    [request] = office.bot_messages
    assert request.text == f"Ada, {ada.id}, asks for access."

    told = await bot.tap(office, grace, request, "Let in")

    assert told.text == "Ada may talk to me."
    assert chat.bot_messages[-1].text.startswith("You may talk to me now.")
    assert (await bot.ask(chat, ada, "hello")).text == "You said: hello"
    assert bot.store.audit.recent(1)[0].action == f"access:allow:{ada.id}"


async def test_who_is_kept_out_cannot_ask_again(
    start: Start, chat: Chat, ada: User, office: Chat, grace: User
) -> None:
    bot = await start(access="allowlist")
    await ask_for_access(bot, chat, ada)
    await bot.tap(office, grace, office.bot_messages[0], "Keep out")
    await bot.tap(chat, ada, chat.bot_messages[0], "Ask for access")

    assert len(office.bot_messages) == 1
    person = bot.store.people.find(ada.id)
    assert person is not None
    assert person.access is Access.DENIED


async def test_only_admins_answer_a_request(start: Start, chat: Chat, ada: User) -> None:
    bot = await start(access="allowlist")
    await bot.say(chat, ada, "hello")
    await chat.tap_data(ada, chat.bot_messages[0].id, f"access:allow:{ada.id}")
    await bot.settle()

    person = bot.store.people.find(ada.id)
    assert person is not None
    assert person.access is Access.UNDECIDED


async def test_people_are_let_in_by_their_name_in_telegram_and_listed(
    start: Start, api: BotApi, office: Chat, grace: User
) -> None:
    bot = await start(access="allowlist")
    eve = api.user(5, first_name="Eve", username="Eve_1")
    await bot.say(api.private(eve), eve, "hello")

    assert await bot.say(office, grace, "/people") == "Nobody was let in or kept out yet."
    assert await bot.say(office, grace, "/allow @nobody_else") == WHOM
    assert await bot.say(office, grace, "/allow @eve_1") == "Eve may talk to me."
    await bot.say(office, grace, "/deny 77")
    assert (await bot.say(office, grace, "/people")).splitlines() == [
        "5 @Eve_1 Eve: let in",
        "77 : kept out",
    ]


async def test_a_link_that_is_refused_says_why(start: Start, chat: Chat, ada: User) -> None:
    bot = await start(access="allowlist")
    told = await bot.say(chat, ada, "/start nosuchtoken")
    assert "That invitation is no longer valid." in told


async def test_a_name_that_was_given_up_lets_nobody_else_in(
    start: Start, api: BotApi, office: Chat, grace: User
) -> None:
    bot = await start(access="allowlist")
    people = bot.store.people
    people.see(5, "Mallory", username="alice")
    people.see(5, "Mallory", username="")
    assert await bot.say(office, grace, "/allow @alice") == WHOM
    people.see(5, "Mallory", username="alice")
    people.see(6, "Alice", username="Alice")
    assert await bot.say(office, grace, "/allow @alice") == "Alice may talk to me."


async def test_an_old_request_changes_no_later_decision(
    start: Start, chat: Chat, ada: User, office: Chat, grace: User
) -> None:
    bot = await start(access="allowlist")
    await ask_for_access(bot, chat, ada)
    request = office.bot_messages[0]
    bot.store.people.decide(ada.id, Access.DENIED)

    told = await bot.tap(office, grace, request, "Let in")

    assert told.text == f"{ada.id} was kept out already."
    person = bot.store.people.find(ada.id)
    assert person is not None
    assert person.access is Access.DENIED
