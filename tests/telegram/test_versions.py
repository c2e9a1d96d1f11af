"""Versions: `/adapters`, forward with `/promote`, back with `/rollback`, each asked back."""

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from loopback import BotApi, Chat, Message, User
from store.domain import Adapter, AdapterStatus, Check, GateReport
from tests.telegram.conftest import MakeVersion, Start
from tests.telegram.running import ADMIN_ID, RunningBot, SteppingEngine, eventually

REPORT = GateReport(
    checks=(
        Check(name="preference", value=0.71, limit="lower bound > 0.5", passed=True, detail="x"),
        Check(name="drift", value=0.9, limit="≤ 0.5", passed=False, detail="nats a token"),
    )
)


async def ask_back(bot: RunningBot, office: Chat, grace: User, command: str) -> Message:
    """Send a command that is asked back; return the question with its buttons."""
    asked = await office.send(grace, command)
    question = await office.wait_reply(asked)
    await bot.settle()
    return question


async def confirm(bot: RunningBot, office: Chat, grace: User, command: str) -> str:
    """Send a command that is asked back, and say yes; return what the question became."""
    question = await ask_back(bot, office, grace, command)
    done = await bot.tap(office, grace, question, "Yes")
    assert done.labels == ()
    return done.text


def put_in_use(bot: RunningBot, version: Adapter) -> None:
    """Promote a version, as the gate or another admin does."""
    bot.store.adapters.promote(version.name, base_model="fake", reason="a test")


def active(bot: RunningBot) -> str | None:
    """Return the name of the version in use."""
    adapter = bot.store.adapters.active()
    return adapter.name if adapter else None


async def test_without_versions_the_base_model_is_named(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    assert "the base model answers" in await bot.say(office, grace, "/adapters")


async def test_the_last_ten_versions_are_listed_with_where_they_stand(
    bot: RunningBot, make_version: MakeVersion, office: Chat, grace: User
) -> None:
    names = [make_version(bot).name for _ in range(11)]
    bot.store.adapters.reject(names[-2])
    bot.store.adapters.promote(names[-1], base_model="fake", reason="a test")

    *lines, _, change, _, hint = (await bot.say(office, grace, "/adapters")).splitlines()

    assert [line.split(" · ")[0] for line in lines] == names[1:]
    assert [line.split(" · ")[1] for line in lines[-3:]] == ["candidate", "rejected", "active"]
    assert change.endswith(f"{names[-1]} · a test")
    assert "/adapters NAME" in hint


async def test_a_version_is_shown_with_what_the_gate_said(
    bot: RunningBot, make_version: MakeVersion, office: Chat, grace: User
) -> None:
    bot.store.runs.queue("a test")
    version = make_version(bot, run_id=1)
    bot.store.adapters.evaluate(version.name, REPORT, run_id=1)

    told = await bot.say(office, grace, f"/adapters {version.name}")

    assert told == (
        f"{version.name} · candidate · run 1 · 2026-01-01 00:00 UTC\n\n"
        "✅ preference  0.71  lower bound > 0.5\n"
        "⛔ drift        0.9  ≤ 0.5\n\n"
        "drift: nats a token"
    )


async def test_a_version_that_the_gate_has_not_looked_at_says_so(
    bot: RunningBot, make_version: MakeVersion, office: Chat, grace: User
) -> None:
    told = await bot.say(office, grace, f"/adapters {make_version(bot).name}")

    assert "The gate has not checked it." in told


async def test_a_report_without_checks_is_shown_too(
    bot: RunningBot, make_version: MakeVersion, office: Chat, grace: User
) -> None:
    version = make_version(bot)
    bot.store.adapters.evaluate(version.name, GateReport(checks=()), run_id=None)

    told = await bot.say(office, grace, f"/adapters {version.name}")

    assert told.startswith(f"{version.name} · candidate")


@pytest.mark.parametrize("name", ["a7-00000000", "Versión", "../../etc/passwd", "%s{}"])
async def test_an_unknown_version_is_said_to_be_unknown(
    bot: RunningBot, office: Chat, grace: User, name: str
) -> None:
    assert await bot.say(office, grace, f"/adapters {name}") == f"there is no adapter {name}"


@pytest.mark.parametrize("damage", ["changed", "gone"])
@pytest.mark.parametrize("command", ["/adapters", "/promote"])
async def test_a_damaged_version_is_said_to_be_damaged_and_not_used(
    bot: RunningBot,
    make_version: MakeVersion,
    office: Chat,
    grace: User,
    damage: str,
    command: str,
) -> None:
    version = make_version(bot)
    weights = Path(version.path) / "adapter_model.safetensors"
    if damage == "changed":
        weights.write_bytes(weights.read_bytes() + b"\0")
    else:
        weights.unlink()

    told = await bot.say(office, grace, f"{command} {version.name}")

    assert version.name in told
    assert ("were changed" if damage == "changed" else "lacks adapter_model") in told
    assert active(bot) is None


@pytest.mark.parametrize(
    "arguments", ["", " --force", " a1 a2", f" {'a' * 51}", f" {'a' * 4000}", " —force"]
)
async def test_promoting_nothing_in_particular_says_how_to_do_it(
    bot: RunningBot, office: Chat, grace: User, arguments: str
) -> None:
    assert "Please name one version" in await bot.say(office, grace, f"/promote{arguments}")


async def test_a_name_that_no_button_can_carry_is_refused(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    told = await bot.say(office, grace, f"/promote {'é' * 50}")

    assert "went wrong" not in told


async def test_an_unknown_version_is_not_promoted(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    told = await bot.say(office, grace, "/promote a7-00000000")

    assert told == "there is no adapter a7-00000000"
    assert not office.bot_messages[-1].buttons
    assert active(bot) is None


async def test_a_version_is_promoted_once_an_admin_has_said_yes(
    bot: RunningBot, make_version: MakeVersion, office: Chat, grace: User
) -> None:
    version = make_version(bot)

    question = await ask_back(bot, office, grace, f"/promote {version.name}")
    assert (question.labels, active(bot)) == (("Yes", "No"), None)
    done = await bot.tap(office, grace, question, "Yes")

    assert done.text == f"{version.name} answers from now on."
    assert active(bot) == version.name
    (change,) = bot.store.adapters.history()
    assert (change.reason, change.person_id) == ("an admin promoted it", grace.id)


@pytest.mark.parametrize("command", ["/promote", "/rollback"])
async def test_no_changes_nothing(
    bot: RunningBot, make_version: MakeVersion, office: Chat, grace: User, command: str
) -> None:
    in_use, other = make_version(bot), make_version(bot)
    put_in_use(bot, in_use)
    asked = f"/promote {other.name}" if command == "/promote" else command

    question = await ask_back(bot, office, grace, asked)
    done = await bot.tap(office, grace, question, "No")

    assert (done.text, done.labels) == ("Nothing has changed.", ())
    assert active(bot) == in_use.name
    assert len(bot.store.adapters.history()) == 1


async def test_a_version_that_the_gate_rejected_is_refused(
    bot: RunningBot, make_version: MakeVersion, office: Chat, grace: User
) -> None:
    version = make_version(bot)
    bot.store.adapters.reject(version.name)

    told = await confirm(bot, office, grace, f"/promote {version.name}")

    assert f"{version.name} was rejected" in told
    assert "--force" in told
    assert active(bot) is None


@pytest.mark.bad_input("/promote of a rejected version")
@pytest.mark.parametrize("order", ["{} --force", "--force {}", "{} —force"])
async def test_a_rejected_version_is_promoted_by_force_and_that_is_kept(
    bot: RunningBot, make_version: MakeVersion, office: Chat, grace: User, order: str
) -> None:
    version = make_version(bot)
    bot.store.adapters.reject(version.name)

    await confirm(bot, office, grace, f"/promote {order.format(version.name)}")

    assert active(bot) == version.name
    (change,) = bot.store.adapters.history()
    assert change.reason == "an admin promoted it, forced"


@pytest.mark.bad_input("a base model that changed since the last run")
@pytest.mark.parametrize("force", ["", " --force"])
async def test_a_version_of_another_base_model_is_refused_even_by_force(
    bot: RunningBot, make_version: MakeVersion, office: Chat, grace: User, force: str
) -> None:
    version = make_version(bot, base_model="another")

    told = await confirm(bot, office, grace, f"/promote {version.name}{force}")

    assert "was trained on another, and fake is in use" in told
    assert active(bot) is None


async def test_yes_pressed_twice_promotes_once(
    bot: RunningBot, make_version: MakeVersion, office: Chat, grace: User
) -> None:
    version = make_version(bot)
    question = await ask_back(bot, office, grace, f"/promote {version.name}")

    for _ in range(2):
        await office.tap_data(grace, question.id, f"promote:{version.name}")
    await bot.settle()

    assert len(bot.store.adapters.history()) == 1
    assert bot.store.adapters.get(version.name).status is AdapterStatus.ACTIVE


async def test_the_next_reply_comes_from_the_new_version_and_why_names_it(
    bot: RunningBot, make_version: MakeVersion, office: Chat, chat: Chat, ada: User, grace: User
) -> None:
    version = make_version(bot)
    before = await bot.ask(chat, ada, "hello")

    await confirm(bot, office, grace, f"/promote {version.name}")
    after = await bot.ask(chat, ada, "hello again")

    assert (bot.turn(before).adapter, bot.turn(after).adapter) == (None, version.name)
    assert f"Adapter: {version.name}" in await bot.say(chat, ada, "/why")
    first = await bot.say(chat, ada, "/why", reply_to=before.id)
    assert "Adapter: none (the base model)" in first


async def test_a_reply_in_progress_finishes_on_the_version_it_began_with(
    start: Start, make_version: MakeVersion, office: Chat, chat: Chat, ada: User, grace: User
) -> None:
    engine = SteppingEngine(words=2)
    bot = await start(engine=engine)
    old, new = make_version(bot), make_version(bot)
    put_in_use(bot, old)
    asked = await chat.send(ada, "one two three four")
    await eventually(lambda: not engine.hold.is_set())

    asked_back = await office.send(grace, f"/promote {new.name}")
    question = await office.wait_reply(asked_back)
    await office.tap(grace, question.id, "Yes")
    await eventually(lambda: active(bot) == new.name)
    engine.hold.set()
    reply = await chat.wait_reply(asked)
    await bot.settle()
    later = await bot.ask(chat, ada, "and now?")

    assert reply.text == "You said: one two three four"
    assert (bot.turn(reply).adapter, bot.turn(later).adapter) == (old.name, new.name)


@pytest.mark.bad_input("/rollback with nothing behind")
async def test_there_is_nothing_to_roll_back_from_the_base_model(
    bot: RunningBot, make_version: MakeVersion, office: Chat, grace: User
) -> None:
    make_version(bot)

    told = await bot.say(office, grace, "/rollback")

    assert told == "There is nothing to roll back: the base model answers."


async def test_a_rollback_goes_to_the_version_before_and_then_to_the_base_model(
    bot: RunningBot, make_version: MakeVersion, office: Chat, chat: Chat, ada: User, grace: User
) -> None:
    first, second = make_version(bot), make_version(bot)
    for version in (first, second):
        put_in_use(bot, version)

    assert await confirm(bot, office, grace, "/rollback") == f"{first.name} answers again."
    assert bot.turn(await bot.ask(chat, ada, "one")).adapter == first.name

    assert await confirm(bot, office, grace, "/rollback") == "The base model answers again."
    assert bot.turn(await bot.ask(chat, ada, "two")).adapter is None
    assert "Adapter: none" in await bot.say(chat, ada, "/why")
    assert "nothing to roll back" in await bot.say(office, grace, "/rollback")
    change = bot.store.adapters.history()[0]
    assert (change.adapter, change.reason, change.person_id) == (
        None,
        "an admin rolled back",
        grace.id,
    )


async def test_a_rollback_asked_for_before_somebody_else_changed_the_version_is_not_done(
    bot: RunningBot, make_version: MakeVersion, office: Chat, grace: User
) -> None:
    first, second = make_version(bot), make_version(bot)
    put_in_use(bot, first)
    question = await ask_back(bot, office, grace, "/rollback")
    put_in_use(bot, second)

    done = await bot.tap(office, grace, question, "Yes")

    assert done.text == f"{first.name} is not in use any more; nothing has changed"
    assert active(bot) == second.name


async def test_a_rollback_confirmed_twice_goes_back_once(
    bot: RunningBot, make_version: MakeVersion, office: Chat, grace: User
) -> None:
    first, second = make_version(bot), make_version(bot)
    for version in (first, second):
        put_in_use(bot, version)
    question = await ask_back(bot, office, grace, "/rollback")

    for _ in range(2):
        await office.tap_data(grace, question.id, f"rollback:{second.name}")
    await bot.settle()

    assert active(bot) == first.name


async def test_two_admins_who_roll_back_at_once_go_back_once(
    start: Start,
    api: BotApi,
    make_version: MakeVersion,
    office: Chat,
    grace: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lin = api.user(8, first_name="Lin")
    other_office = api.private(lin)
    bot = await start(admins={ADMIN_ID, lin.id})
    first, second = make_version(bot), make_version(bot)
    for version in (first, second):
        put_in_use(bot, version)
    questions = [
        (chat, user, await ask_back(bot, chat, user, "/rollback"))
        for chat, user in ((office, grace), (other_office, lin))
    ]
    go_back, both_are_there = bot.store.adapters.rollback, threading.Barrier(2)

    def go_back_together(**how: Any) -> Adapter | None:
        with suppress(threading.BrokenBarrierError):
            both_are_there.wait(2)
        return go_back(**how)

    monkeypatch.setattr(bot.store.adapters, "rollback", go_back_together)
    await asyncio.gather(*(bot.tap(chat, user, asked, "Yes") for chat, user, asked in questions))

    assert active(bot) == first.name


async def test_a_question_that_was_deleted_is_answered_in_a_new_message(
    bot: RunningBot, make_version: MakeVersion, office: Chat, grace: User
) -> None:
    version = make_version(bot)
    question = await ask_back(bot, office, grace, f"/promote {version.name}")
    body = office.json(question)
    await office.delete(grace, question.id)

    bot.api.push(
        {
            "callback_query": {
                "id": "1",  # too old to be answered, too
                "from": grace.json(),
                "message": body,
                "chat_instance": "1",
                "data": f"promote:{version.name}",
            }
        }
    )
    await bot.settle()

    assert active(bot) == version.name
    assert office.bot_messages[-1].text == f"{version.name} answers from now on."
