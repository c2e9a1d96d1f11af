"""The whole story in seconds: people rate, a run trains, the gate lets it through, the bot swaps.

On a tiny random model with real SQL and real Chroma. The gate's limits are wide open: what a tiny
random model says cannot be good. Refusals by the gate are tested in tests/trainer.
"""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from bot.app import Store, make_chat, open_store, opened_engine
from bot.chat import Chat
from bot.engine.source import model_name
from bot.reports.why import why
from examples.scratch import OPEN_GATE
from store.database import Database
from store.domain import AdapterStatus, Place, Rating, RatingSource, RunStatus, Turn
from store.settings import Settings, load_settings
from tests.fakes import FakeEmbedder
from trainer.proving.retention import load_retention_suite
from trainer.run import learn

SUITE = load_retention_suite()[:6]
HOME = Place(chat_id=7)
PERSON = 7


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return settings for a small run, without a sentence embedder, which this story leaves out."""
    for room in ("bot.app", "trainer.run", "trainer.tuning.launch"):
        monkeypatch.setattr(f"{room}.SentenceEmbedder", lambda name: FakeEmbedder())
    settings = load_settings(
        data_dir=tmp_path / "data",
        model=str(tiny_model),
        device="cpu",
        prompt_tokens=256,
        max_new_tokens=6,
        temperature=1.0,
        system_prompt="",
        memories=0,
        train_max_length=256,
        train_rehearsal=2,
        train_rank=4,
        train_learning_rate=1e-2,
        train_batch_size=16,
        **OPEN_GATE,
    )
    database = Database(settings.storage.database)
    database.upgrade()
    database.close()
    return settings


async def ask(chat: Chat, question: str) -> Turn:
    turn: Turn | None = None
    async with aclosing(chat.answer(HOME, PERSON, question)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Turn):
                turn = piece
    assert turn is not None
    return turn


async def chat_and_rate(store: Store, chat: Chat, count: int) -> list[Turn]:
    store.people.see(PERSON, "Pat")
    turns = []
    for number in range(count):
        await chat.start_new(HOME)
        turn = await ask(chat, f"Question {number}?")
        rating = Rating.UP if number % 2 else Rating.DOWN
        store.feedback.rate(turn.id, PERSON, rating, RatingSource.BUTTON)
        turns.append(turn)
    return turns


async def test_people_rate_a_run_trains_and_the_bot_swaps_and_goes_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.proving.evaluator.load_retention_suite", lambda: SUITE)
    monkeypatch.setattr("trainer.tuning.checkpoint_judge.load_development_checks", lambda: SUITE)
    with open_store(settings) as store:
        async with opened_engine(settings) as engine:
            chat = make_chat(store, engine)
            rated = await chat_and_rate(store, chat, 40)
            before = await ask(chat, "What is tea?")

            queued, _ = store.runs.queue("this test")
            store.runs.take(queued.id)
            status = await asyncio.to_thread(learn, settings, store.database, queued.id)

            run, adapter = store.runs.get(queued.id), store.adapters.of_run(queued.id)
            assert (status, run.outcome[-8:]) == (RunStatus.PROMOTED, "is live.")
            assert adapter is not None
            assert adapter.status is AdapterStatus.ACTIVE
            spoken = [turn for turn in rated if turn.completion.strip()]  # it draws what it says
            assert run.examples is not None
            assert run.examples.train + run.examples.held_out == len(spoken)
            report = store.adapters.report(adapter.name)
            assert report is not None
            assert report.passed

            after = await ask(chat, "What is tea?")
            store.adapters.rollback(reason="worse than it was")
            back = await ask(chat, "What is tea?")
            store.adapters.promote(
                adapter.name, base_model=model_name(settings.engine.model), reason="it was better"
            )
            forward = await ask(chat, "What is tea?")

    assert [turn.adapter for turn in (before, after, back, forward)] == [
        None,
        adapter.name,
        None,
        adapter.name,
    ]
    assert f"Adapter: {adapter.name}" in why(after)
