"""Announcements: admins are told how a run ended; a version is loaded without a word."""

from dataclasses import replace

import pytest

from bot.engine.errors import AdapterUnusable
from bot.telegram.timing import Timing
from loopback import BotApi, Chat, Message, User, server_error
from store.domain import Adapter, AdapterStatus, Check, GateReport, RunStatus, Sample
from tests.fakes import FakeEngine
from tests.telegram.conftest import MakeVersion, Start
from tests.telegram.running import ADMIN_ID, QUICK, RunningBot, eventually

LOWER_ADMIN_ID = 8
"""Id of an admin who is told before Grace."""

REPORT = GateReport(
    checks=(
        Check(name="preference", value=0.71, limit="lower bound > 0.5", passed=True, detail="x"),
        Check(name="drift", value=0.9, limit="≤ 0.5", passed=False, detail="nats a token"),
        Check(name="fresh replies", value=None, limit="≥ +0.00", passed=True),
    )
)
TABLE = """\
✅ preference     0.71  lower bound > 0.5
⛔ drift           0.9  ≤ 0.5
✅ fresh replies     –  ≥ +0.00

drift: nats a token"""
SAMPLES = [
    Sample(question="Is 1 < 2 & so on?", before="<i>No</i>", after="Yes."),
    Sample(question="Long?", before="old " * 1000, after="new " * 1000),
]


class WatchedEngine(FakeEngine):
    """A fake that remembers the versions it was asked to load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    async def load_adapter(self, adapter: Adapter) -> None:
        self.loaded.append(adapter.name)
        await super().load_adapter(adapter)


class PickyEngine(FakeEngine):
    """A fake that refuses one version."""

    refused = ""

    async def load_adapter(self, adapter: Adapter) -> None:
        if adapter.name == self.refused:
            raise AdapterUnusable("its weights are not finite")
        await super().load_adapter(adapter)


@pytest.fixture
def timing() -> Timing:
    """Return the pauses with which the bot looks for news more than once a second."""
    return QUICK


@pytest.fixture
def lower(api: BotApi) -> User:
    """Return another admin."""
    return api.user(LOWER_ADMIN_ID, first_name="Lin")


@pytest.fixture
def lower_office(api: BotApi, lower: User) -> Chat:
    """Return the other admin's private chat with the bot."""
    return api.private(lower)


def end_run(
    bot: RunningBot,
    status: RunStatus = RunStatus.SKIPPED,
    outcome: str = "Nobody has rated anything yet.",
) -> None:
    """Carry out a run as the trainer does, from the queue to its outcome."""
    queued, _ = bot.store.runs.queue("a test")
    bot.store.runs.take(queued.id)
    bot.store.runs.finish(queued.id, status, outcome)


async def told(chat: Chat, text: str) -> Message:
    """Wait until a message with that text is there."""
    return await chat.wait_reply(0, timeout=3, final=lambda message: text in message.text)


def count(chat: Chat, text: str) -> int:
    """Return how many messages hold this text."""
    return sum(text in each.text for each in chat.bot_messages)


async def test_every_admin_is_told_how_a_run_ended_with_the_gates_table_and_samples(
    start: Start, make_version: MakeVersion, office: Chat, lower_office: Chat
) -> None:
    bot = await start(admins={ADMIN_ID, LOWER_ADMIN_ID})
    bot.store.runs.queue("a test")
    bot.store.runs.take()
    version = make_version(bot, run_id=1)
    bot.store.adapters.evaluate(version.name, REPORT, run_id=1)
    bot.store.runs.keep_samples(1, [(None, each) for each in SAMPLES])

    bot.store.runs.finish(1, RunStatus.REJECTED, f"{version.name} did not pass: drift.")

    for chat in (office, lower_office):
        news = await told(chat, "did not pass")
        first, table, why, sample, long = news.text.split("\n\n")
        assert first == f"⛔ run 1 · 01-01 00:00 UTC · {version.name} did not pass: drift."
        assert f"{table}\n\n{why}" == TABLE
        assert sample == "Is 1 < 2 & so on?\nbefore <i>No</i>\nafter Yes."
        assert len(long) < 1000
        assert {each["type"] for each in news.entities} == {"pre", "bold", "italic"}


@pytest.mark.parametrize("status", [each for each in RunStatus if each.ended])
async def test_every_end_of_a_run_is_told(bot: RunningBot, office: Chat, status: RunStatus) -> None:
    end_run(bot, status, "So it ended.")

    assert "run 1" in (await told(office, "So it ended.")).text


async def test_every_run_is_told_of_once(bot: RunningBot, office: Chat) -> None:
    end_run(bot, outcome="outcome 1")
    end_run(bot, outcome="outcome 2")
    await told(office, "outcome 2")

    await bot.look_for_news()

    assert (count(office, "outcome 1"), count(office, "outcome 2")) == (1, 1)


async def test_a_restart_does_not_tell_again(start: Start, office: Chat) -> None:
    first = await start()
    end_run(first, outcome="So it ended.")
    await told(office, "So it ended.")
    await first.close()

    second = await start()
    await second.look_for_news()

    assert count(office, "So it ended.") == 1


async def test_what_ended_while_the_bot_was_away_is_told_at_its_start(
    start: Start, office: Chat
) -> None:
    first = await start()
    await first.close()
    end_run(first, outcome="So it ended.")

    await start()

    await told(office, "So it ended.")


async def test_who_asked_for_the_run_is_told_too_and_has_its_message_at_the_outcome(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    asked = await office.send(grace, "/train")
    shown = await office.wait_reply(asked)
    await bot.settle()

    end_run(bot, outcome="So it ended.")

    await bot.api.wait_for(lambda: count(office, "So it ended.") == 2)
    assert "So it ended." in office.message(shown.id).text


@pytest.mark.parametrize("trouble", ["blocked", "never seen"])
async def test_an_admin_who_cannot_be_told_does_not_keep_others_from_it(
    start: Start, api: BotApi, office: Chat, lower: User, trouble: str
) -> None:
    if trouble == "blocked":
        api.private(lower)
        api.block(lower)
    bot = await start(admins={ADMIN_ID, LOWER_ADMIN_ID})

    end_run(bot, outcome="outcome 1")
    await told(office, "outcome 1")
    end_run(bot, outcome="outcome 2")
    await told(office, "outcome 2")


async def test_an_admin_who_asked_for_a_run_and_then_blocked_the_bot_does_not_either(
    start: Start, api: BotApi, office: Chat, lower_office: Chat, lower: User
) -> None:
    bot = await start(admins={ADMIN_ID, LOWER_ADMIN_ID})
    asked = await lower_office.send(lower, "/train")
    await lower_office.wait_reply(asked)
    await bot.settle()
    api.block(lower)

    end_run(bot, outcome="So it ended.")

    await told(office, "So it ended.")


async def test_an_admin_who_deleted_the_message_of_a_run_is_told_how_it_ended(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    asked = await office.send(grace, "/train")
    shown = await office.wait_reply(asked)
    await bot.settle()
    await office.delete(grace, shown.id)

    end_run(bot, outcome="So it ended.")

    await told(office, "So it ended.")


async def test_what_telegram_did_not_take_is_told_later(
    start: Start, api: BotApi, office: Chat
) -> None:
    bot = await start(timing=replace(QUICK, calls=2))
    api.inject("sendMessage", server_error(), times=2)

    end_run(bot, outcome="So it ended.")
    await api.wait_for(lambda: len(api.calls_to("sendMessage")) >= 2)

    await told(office, "So it ended.")


async def test_what_could_not_be_told_before_the_bot_was_stopped_is_told_at_the_next_start(
    start: Start, api: BotApi, office: Chat
) -> None:
    first = await start(timing=replace(QUICK, call_again_seconds=30.0))
    api.inject("sendMessage", server_error())
    end_run(first, outcome="So it ended.")
    await api.wait_for(lambda: api.calls_to("sendMessage"))
    await first.close()

    await start()

    await told(office, "So it ended.")


LONG_REPORT = GateReport(
    checks=tuple(
        Check(
            name=f"language flips rise {number}",
            value=0.123,
            limit="lower bound > 0.5",
            passed=False,
            detail="AUC over 120 👍 and 80 👎 held out; 95% interval 0.41 to 0.55",
        )
        for number in range(13)
    )
)
LONG = "word " * 200
LONG_SAMPLES = [Sample(question=LONG, before=LONG, after=LONG)] * 3


@pytest.mark.parametrize("what", ["outcome", "gate and samples"])
async def test_news_longer_than_a_message_are_told_all_the_same(
    bot: RunningBot, make_version: MakeVersion, office: Chat, what: str
) -> None:
    bot.store.runs.queue("a test")
    bot.store.runs.take()
    outcome = "It failed."
    if what == "outcome":
        outcome += " Missing key: model.layers.0.mlp.up_proj.weight." * 100
    else:
        version = make_version(bot, run_id=1)
        bot.store.adapters.evaluate(version.name, LONG_REPORT, run_id=1)
        bot.store.runs.keep_samples(1, [(None, each) for each in LONG_SAMPLES])

    bot.store.runs.finish(1, RunStatus.FAILED, outcome)

    await told(office, "It failed.")


async def test_a_new_version_is_made_ready_before_somebody_asks(
    start: Start, make_version: MakeVersion
) -> None:
    engine = WatchedEngine()
    bot = await start(engine=engine)
    version = make_version(bot)
    assert not engine.loaded

    bot.store.adapters.promote(version.name, base_model="fake", reason="a run")

    await eventually(lambda: version.name in engine.loaded)


@pytest.mark.parametrize("merged", [True, False])
async def test_whether_the_active_version_could_be_merged_is_kept(
    start: Start, make_version: MakeVersion, merged: bool
) -> None:
    engine = WatchedEngine()
    bot = await start(engine=engine)
    version = make_version(bot)
    engine.unmerged = frozenset(() if merged else (version.name,))

    bot.store.adapters.promote(version.name, base_model="fake", reason="a run")

    def noted() -> object:
        return bot.store.adapters.get(version.name).notes.merged

    await eventually(lambda: noted() is not None)
    assert noted() is merged


async def test_a_version_that_cannot_be_used_is_withdrawn_and_admins_are_told_why(
    start: Start, make_version: MakeVersion, office: Chat
) -> None:
    engine = PickyEngine()
    bot = await start(engine=engine)
    good, bad = make_version(bot), make_version(bot)
    engine.refused = bad.name
    for version in (good, bad):
        bot.store.adapters.promote(version.name, base_model="fake", reason="a run")

    message = await told(office, "taken out of use")

    assert message.text == (
        f"⛔ {bad.name} was taken out of use: its weights are not finite. {good.name} answers."
    )
    assert bot.store.adapters.get(bad.name).status is AdapterStatus.REJECTED


async def test_an_active_version_that_cannot_be_used_is_told_once_and_news_go_on(
    start: Start, make_version: MakeVersion, office: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    bot = await start()
    version = make_version(bot, base_model="another")
    bot.store.adapters.promote(version.name, base_model="another", reason="a change of model")
    end_run(bot, outcome="outcome 1")
    await told(office, "outcome 1")

    await bot.look_for_news()

    assert caplog.text.count("is active and cannot be used") == 1
    assert count(office, f"⚠️ {version.name} is active and cannot be used") == 1
