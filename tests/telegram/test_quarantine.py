"""The quarantine: admins see whose ratings are held back, and let them teach after all."""

import pytest

from loopback import Chat, User
from tests.telegram.running import RunningBot


@pytest.fixture
def suspected(bot: RunningBot, ada: User) -> None:
    bot.store.people.see(ada.id, "Ada")
    bot.store.quarantine.hold(ada.id, "8 of 8 examples say nearly the same")


@pytest.mark.usefixtures("suspected")
async def test_an_admin_sees_who_is_held_back_and_why(
    bot: RunningBot, office: Chat, grace: User, ada: User
) -> None:
    told = await bot.say(office, grace, "/quarantine")

    assert f"Ada ({ada.id}): 8 of 8 examples say nearly the same" in told


@pytest.mark.usefixtures("suspected")
async def test_an_admin_lets_somebody_teach(
    bot: RunningBot, office: Chat, grace: User, ada: User
) -> None:
    await bot.say(office, grace, "/quarantine")
    shown = office.bot_messages[-1]

    after = await bot.tap(office, grace, shown, "Release Ada")

    assert after.text == "Nobody's ratings are held back."
    assert not after.buttons
    assert bot.store.quarantine.released() == {ada.id}
    assert bot.store.audit.recent(1)[0].action == f"release:{ada.id}"


@pytest.mark.usefixtures("suspected")
async def test_nobody_but_admins_sees_it(bot: RunningBot, chat: Chat, ada: User) -> None:
    told = await bot.say(chat, ada, "/quarantine")

    assert "examples say" not in told


async def test_where_nobody_is_held_back_it_says_so(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    assert await bot.say(office, grace, "/quarantine") == "Nobody's ratings are held back."
