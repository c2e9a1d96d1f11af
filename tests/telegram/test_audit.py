"""The audit log: commands of admins are kept, and only admins can read them."""

from loopback import Chat, User
from tests.telegram.running import RunningBot


def actions(bot: RunningBot) -> list[str]:
    return [entry.action for entry in bot.store.audit.recent(10)]


async def test_an_admins_commands_are_kept_in_their_words(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    await bot.say(office, grace, "/deny 7")
    await bot.say(office, grace, "/allow 7")

    told = await bot.say(office, grace, "/audit")

    assert actions(bot) == ["/audit", "/allow 7", "/deny 7"]
    assert [line.split(" ", 3)[3] for line in told.splitlines()] == [
        f"Grace ({grace.id}): /audit",
        f"Grace ({grace.id}): /allow 7",
        f"Grace ({grace.id}): /deny 7",
    ]


async def test_what_others_try_is_no_command_and_not_in_the_log(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    told = await bot.say(chat, ada, "/audit")

    assert "do not know that command" in told
    assert actions(bot) == []


async def test_documents_and_buttons_are_kept_too(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    await office.send_document(grace, "notes.md", b"# Notes\n\nThe door code is 1234.")
    await bot.settle()

    assert actions(bot) == ["document notes.md"]
