"""Invitation links: so many people may enter, for so long, and nobody whom an admin keeps out."""

import pytest

from loopback import BotApi, Chat, User
from store.domain import Access
from tests.fakes import Clock
from tests.telegram.conftest import Start
from tests.telegram.running import RunningBot

WELCOME = "I am an assistant"
REFUSED = "Sorry, you have no access to this bot."
WEEK = 7 * 86_400


@pytest.fixture
async def closed(start: Start) -> RunningBot:
    """Return a bot that talks only with people whom an admin has let in."""
    return await start(access="allowlist")


async def invite(bot: RunningBot, office: Chat, grace: User, command: str = "/invite") -> str:
    """Make an invitation; return the message that Telegram sends when its link is opened."""
    told = await bot.say(office, grace, command)
    link = told.split()[-1]
    assert link.startswith("https://t.me/ratchet_bot?start=")
    return f"/start {link.partition('start=')[2]}"


async def test_whoever_opens_the_link_may_talk(
    closed: RunningBot, office: Chat, grace: User, chat: Chat, ada: User
) -> None:
    opened = await invite(closed, office, grace)

    assert (await closed.say(chat, ada, opened)).startswith(WELCOME)
    assert (await closed.ask(chat, ada, "hello")).text == "You said: hello"


async def test_an_invitation_is_for_one_person(
    closed: RunningBot, office: Chat, grace: User, chat: Chat, ada: User, api: BotApi, bob: User
) -> None:
    opened = await invite(closed, office, grace)
    await closed.say(chat, ada, opened)
    await closed.say(chat, ada, opened)

    assert (await closed.say(api.private(bob), bob, opened)).startswith(REFUSED)


async def test_an_invitation_can_be_for_many(
    closed: RunningBot, office: Chat, grace: User, chat: Chat, ada: User, api: BotApi, bob: User
) -> None:
    opened = await invite(closed, office, grace, "/invite 1 2")
    await closed.say(chat, ada, opened)

    assert (await closed.say(api.private(bob), bob, opened)).startswith(WELCOME)


async def test_an_invitation_expires(
    closed: RunningBot, office: Chat, grace: User, chat: Chat, ada: User, clock: Clock
) -> None:
    opened = await invite(closed, office, grace)
    clock.advance(seconds=WEEK)

    assert (await closed.say(chat, ada, opened)).startswith(REFUSED)


async def test_invitations_can_be_withdrawn(
    closed: RunningBot, office: Chat, grace: User, chat: Chat, ada: User
) -> None:
    opened = await invite(closed, office, grace)

    assert await closed.say(office, grace, "/invite off") == "Withdrawn: 1."
    assert (await closed.say(chat, ada, opened)).startswith(REFUSED)


async def test_who_was_denied_is_not_let_in_by_a_link(
    closed: RunningBot, office: Chat, grace: User, chat: Chat, ada: User
) -> None:
    closed.store.people.decide(ada.id, Access.DENIED)
    opened = await invite(closed, office, grace)

    assert (await closed.say(chat, ada, opened)).startswith(REFUSED)


@pytest.mark.bad_input("a made-up invitation")
@pytest.mark.parametrize("token", ["", "x", "x" * 64, "two words", "'; drop table people"])
async def test_a_made_up_token_lets_nobody_in(
    closed: RunningBot, office: Chat, grace: User, chat: Chat, ada: User, token: str
) -> None:
    await invite(closed, office, grace)

    assert (await closed.say(chat, ada, f"/start {token}")).startswith(REFUSED)


@pytest.mark.parametrize("wrong", ["0", "366", "1 0", "1 1001", "x", "1 2 3", "-1", "99999"])
async def test_what_is_no_number_of_days_or_people_says_how_to_do_it(
    bot: RunningBot, office: Chat, grace: User, wrong: str
) -> None:
    assert "/invite DAYS PEOPLE" in await bot.say(office, grace, f"/invite {wrong}")


async def test_only_admins_invite(bot: RunningBot, chat: Chat, ada: User) -> None:
    assert "do not know that command" in await bot.say(chat, ada, "/invite")


async def test_the_database_does_not_hold_the_token(
    closed: RunningBot, office: Chat, grace: User
) -> None:
    token = (await invite(closed, office, grace)).split()[1]

    with closed.store.database.reading() as session:
        held = session.connection().exec_driver_sql("SELECT * FROM invitations").all()
    assert len(held) == 1
    assert token not in str(held)
