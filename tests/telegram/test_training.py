"""Training from the chat: `/train`, its progress and its Cancel button, `/runs`, and who may."""

import pytest

from bot.telegram.timing import Timing
from loopback import Chat, Message, User
from store.domain import Progress, RunStatus
from store.tables import ActivationRow, ApprovalRow, RunRow
from tests.telegram.conftest import MakeVersion, Start
from tests.telegram.running import QUICK, RunningBot

COMMANDS = ["train", "runs", "adapters", "promote a", "rollback", "approve", "stats"]
CANCEL = "✖ Cancel"


@pytest.fixture
def timing() -> Timing:
    """Return the pauses with which the bot looks for news more than once a second."""
    return QUICK


async def train(bot: RunningBot, office: Chat, grace: User) -> Message:
    """Ask for a run; return the message that shows it."""
    asked = await office.send(grace, "/train")
    shown = await office.wait_reply(asked)
    await bot.settle()
    return shown


async def test_a_run_is_queued_and_its_message_can_cancel_it(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    shown = await train(bot, office, grace)

    (run,) = bot.store.runs.recent()
    assert (run.status, run.requested_by) == (RunStatus.QUEUED, grace.id)
    assert f"run {run.id}" in shown.text
    assert "is waiting" in shown.text
    assert shown.labels == (CANCEL,)


async def test_the_message_follows_how_far_the_run_is(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    shown = await train(bot, office, grace)
    bot.store.runs.take()
    progress = Progress(
        stage="training", step=3, steps=12, loss=0.512, share=0.4, seconds_left=90, examples=64
    )

    bot.store.runs.report_progress(1, progress)

    await bot.api.wait_for(lambda: "40% · training" in office.message(shown.id).text)
    now = office.message(shown.id)
    assert "step 3 of 12, loss 0.512 · 64 examples · about 90 s left" in now.text
    assert now.labels == (CANCEL,)


async def test_the_message_ends_with_the_outcome_and_without_a_button(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    shown = await train(bot, office, grace)
    bot.store.runs.take()

    bot.store.runs.finish(1, RunStatus.SKIPPED, "Nobody has rated anything yet.")

    await bot.api.wait_for(lambda: "Nobody has rated" in office.message(shown.id).text)
    assert office.message(shown.id).labels == ()


@pytest.mark.bad_input("two /train at once")
@pytest.mark.parametrize("running", [False, True], ids=["queued", "running"])
async def test_a_second_wish_is_told_of_the_run_there_is(
    bot: RunningBot, office: Chat, grace: User, running: bool
) -> None:
    await train(bot, office, grace)
    if running:
        bot.store.runs.take()

    shown = await train(bot, office, grace)

    assert shown.text.startswith("There is a run already.\n")
    assert "run 1" in shown.text
    assert shown.labels == (CANCEL,)
    assert bot.count(RunRow) == 1


async def test_every_message_of_a_run_ends_with_its_outcome(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    shown = [await train(bot, office, grace) for _ in range(2)]
    bot.store.runs.take()

    bot.store.runs.finish(1, RunStatus.SKIPPED, "Nobody has rated anything yet.")

    for each in shown:
        await bot.api.wait_for(
            lambda each=each: (
                "Nobody has rated" in (now := office.message(each.id)).text and not now.labels
            )
        )


async def test_a_run_after_one_that_has_ended_is_a_new_one(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    await train(bot, office, grace)
    bot.store.runs.take()
    bot.store.runs.finish(1, RunStatus.SKIPPED, "Nobody has rated anything yet.")

    shown = await train(bot, office, grace)

    assert "run 2" in shown.text
    assert "There is a run already" not in shown.text


async def test_a_run_that_waits_is_cancelled_at_once(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    shown = await train(bot, office, grace)

    now = await bot.tap(office, grace, shown, CANCEL)

    assert "It was cancelled before it began." in now.text
    assert now.labels == ()
    assert bot.store.runs.get(1).status is RunStatus.CANCELLED
    assert bot.store.runs.take() is None


async def test_a_run_at_work_is_asked_to_stop_and_its_message_tells_when_it_has(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    shown = await train(bot, office, grace)
    bot.store.runs.take()

    now = await bot.tap(office, grace, shown, CANCEL)
    assert "Run 1 is being stopped." in now.text
    assert bot.store.runs.beat(1) is True
    assert bot.store.runs.get(1).status is RunStatus.RUNNING

    bot.store.runs.finish(1, RunStatus.CANCELLED, "It was cancelled; nothing of it is in use.")
    await bot.api.wait_for(lambda: "nothing of it is in use" in office.message(shown.id).text)
    assert office.message(shown.id).labels == ()


async def test_a_run_that_is_being_stopped_is_shown_as_such_until_it_has_ended(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    shown = await train(bot, office, grace)
    bot.store.runs.take()
    await bot.tap(office, grace, shown, CANCEL)

    bot.store.runs.report_progress(1, Progress(stage="training", share=0.5, examples=64))
    await bot.look_for_news()

    now = office.message(shown.id)
    assert "being stopped" in now.text
    assert now.labels == ()


async def test_a_run_that_has_ended_is_not_cancelled_any_more(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    shown = await train(bot, office, grace)
    bot.store.runs.take()
    bot.store.runs.finish(1, RunStatus.PASSED, "a1 passed the gate.")

    await office.tap_data(grace, shown.id, "cancel:1")
    await bot.settle()

    run = bot.store.runs.get(1)
    assert (run.status, run.cancel_requested) == (RunStatus.PASSED, False)
    assert "a1 passed the gate." in office.message(shown.id).text


async def test_a_button_from_before_a_restart_still_cancels(
    start: Start, office: Chat, grace: User
) -> None:
    first = await start()
    shown = await train(first, office, grace)
    await first.close()

    now = await (await start()).tap(office, grace, shown, CANCEL)

    assert "It was cancelled before it began." in now.text


async def test_the_last_ten_runs_are_listed_newest_first(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    assert await bot.say(office, grace, "/runs") == "There are no runs yet. /train starts one."
    for number in range(1, 13):
        bot.store.runs.queue("a test")
        bot.store.runs.take()
        bot.store.runs.finish(number, RunStatus.REJECTED, f"outcome {number}")
    await office.wait_reply(0, final=lambda message: "outcome 12" in message.text)

    lines = (await bot.say(office, grace, "/runs")).splitlines()

    assert [line.partition("outcome ")[2] for line in lines] == [*map(str, range(12, 2, -1))]
    assert lines[0].startswith("⛔ run 12 · 01-01 00:00 UTC · ")


async def test_runs_that_failed_with_many_words_are_listed_too(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    for number in range(1, 11):
        bot.store.runs.queue("a test")
        bot.store.runs.take()
        bot.store.runs.finish(number, RunStatus.FAILED, "It failed: CUDA out of memory. " * 20)
    await office.wait_reply(0, final=lambda message: "run 10" in message.text)

    told = await bot.say(office, grace, "/runs")

    assert "run 10" in told
    assert "run 1 " in told


async def test_the_status_counts_the_runs_that_wait(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    await train(bot, office, grace)

    assert "Training runs waiting: 1" in await bot.say(office, grace, "/status")


@pytest.mark.parametrize("command", COMMANDS)
async def test_who_is_no_admin_has_none_of_these_commands(
    bot: RunningBot, chat: Chat, ada: User, command: str
) -> None:
    told = await bot.say(chat, ada, f"/{command}")

    assert told == "I do not know that command. /help lists those I know."
    assert bot.count(RunRow) == 0


@pytest.mark.parametrize("command", COMMANDS)
async def test_admins_have_them_in_private_only(
    bot: RunningBot, group: Chat, grace: User, command: str
) -> None:
    name, _, arguments = command.partition(" ")

    for text in (f"/{command}", f"/{name}@ratchet_bot {arguments}".strip()):
        assert await bot.say(group, grace, text) == ""
    assert bot.count(RunRow) == 0


async def test_help_lists_them_for_admins_alone(
    bot: RunningBot, chat: Chat, office: Chat, ada: User, grace: User
) -> None:
    names = [f"/{each.partition(' ')[0]}" for each in COMMANDS]

    for_admins = await bot.say(office, grace, "/help")
    for_others = await bot.say(chat, ada, "/help")

    assert [each for each in names if each not in for_admins] == []
    assert [each for each in names if each in for_others] == []


APPROVE = f"approve:1:{'0' * 16}"


@pytest.mark.parametrize(
    "action", ["cancel:1", "promote:{}", "force:{}", "rollback:{}", APPROVE, "no:"]
)
async def test_an_admins_button_pressed_by_somebody_else_is_refused_and_changes_nothing(
    bot: RunningBot, group: Chat, make_version: MakeVersion, ada: User, grace: User, action: str
) -> None:
    reply = await bot.ask(group, grace, "@ratchet_bot hello")
    await group.tap(grace, reply.id, "👍")
    bot.store.runs.queue("a test")
    other, active = make_version(bot), make_version(bot)
    bot.store.adapters.promote(active.name, base_model="fake", reason="a test")
    name = active.name if action.startswith("rollback") else other.name
    before = group.message(reply.id)

    answer = await group.tap_data(ada, reply.id, action.format(name))
    await bot.settle()

    assert answer.text == "Only admins can do that."
    assert bot.store.runs.get(1).status is RunStatus.QUEUED
    assert [each.adapter for each in bot.store.adapters.history()] == [active.name]
    assert bot.count(ApprovalRow) == 0
    assert group.message(reply.id).text == before.text


async def test_a_button_of_an_admin_who_is_one_no_longer_is_refused(
    start: Start, make_version: MakeVersion, office: Chat, grace: User
) -> None:
    first = await start()
    version = make_version(first)
    asked = await office.send(grace, f"/promote {version.name}")
    question = await office.wait_reply(asked)
    await first.close()

    second = await start(admins={7})
    answer = await office.tap(grace, question.id, "Yes")

    assert answer.text == "Only admins can do that."
    assert second.store.adapters.active() is None


@pytest.mark.parametrize(
    "data",
    [
        "cancel",
        "cancel:",
        "cancel:abc",
        "cancel:1.5",
        "cancel:-1",
        "cancel:77",
        "cancel:9999999999999999999999",
        pytest.param(
            "cancel:-9999999999999999999999",
        ),
        "promote:",
        "promote:a b",
        "promote:../../etc/passwd",
        "promote:a1\n",
        "promote:{}%s'; DROP TABLE adapters; --",
        "promote:Versión",
        "force:x",
        "rollback:",
        "rollback:x",
        "approve:",
        "approve:abc",
        "approve:77",
        pytest.param(
            "approve:9999999999999999999999",
        ),
        "no:way",
        "unknown:1",
    ],
    ids=ascii,
)
async def test_malformed_button_data_is_answered_and_breaks_nothing(
    bot: RunningBot, office: Chat, grace: User, data: str
) -> None:
    shown = await bot.ask(office, grace, "hello")
    await train(bot, office, grace)

    await office.tap_data(grace, shown.id, data, timeout=2)
    await bot.settle()

    told = " ".join(each.text for each in office.bot_messages)
    assert "went wrong" not in told
    assert bot.store.runs.get(1).status is RunStatus.QUEUED
    assert (bot.count(ActivationRow), bot.count(ApprovalRow)) == (0, 0)
    assert (await bot.ask(office, grace, "still there?")).text == "You said: still there?"
