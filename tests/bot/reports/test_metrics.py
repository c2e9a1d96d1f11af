"""Prometheus metrics that agree with what happened."""

from contextlib import aclosing

import pytest

from bot.engine.base import SamplingParams
from bot.engine.errors import EngineBusy, EngineError
from bot.reports.metrics import Metered, Metrics, StoreFigures
from store.database import Database
from store.domain import Message, Rating
from store.runs import Runs
from store.statistics import Statistics
from tests.conftest import MakeAdapter
from tests.fakes import FakeEngine
from tests.store.talk import ADA, BOB, rate, talk

HELLO = (Message(role="user", content="hello"),)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


async def reply(
    engine: Metered, *, adapter: str | None = None, pieces: int = 1000, tokens: int = 64
) -> None:
    """Take a reply, or only its first pieces."""
    sampling = SamplingParams(max_new_tokens=tokens)
    async with aclosing(engine.stream(HELLO, sampling, adapter=adapter)) as stream:
        async for _ in stream:
            pieces -= 1
            if not pieces:
                return


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"ratchet_{name}", labels) or 0.0


async def test_replies_are_counted_by_version_and_outcome(
    metrics: Metrics, make_adapter: MakeAdapter
) -> None:
    engine = Metered(FakeEngine(), metrics)
    adapter = make_adapter("fake")
    await engine.load_adapter(adapter)

    await reply(engine)
    await reply(engine, tokens=1)
    await reply(engine, adapter=adapter.name)
    await reply(engine, pieces=1)

    assert value(metrics, "replies_total", adapter="base", outcome="stop") == 1
    assert value(metrics, "replies_total", adapter="base", outcome="length") == 1
    assert value(metrics, "replies_total", adapter="base", outcome="cancelled") == 1
    assert value(metrics, "replies_total", adapter=adapter.name, outcome="stop") == 1
    assert value(metrics, "replies_under_way") == 0


async def test_another_version_that_answers_is_a_swap(
    metrics: Metrics, make_adapter: MakeAdapter
) -> None:
    engine = Metered(FakeEngine(), metrics)
    adapter = make_adapter("fake")
    await engine.load_adapter(adapter)

    for name in (None, None, adapter.name, adapter.name, None):
        await reply(engine, adapter=name)

    assert value(metrics, "swaps_total") == 2


async def test_the_version_that_answers_first_is_no_swap(
    metrics: Metrics, make_adapter: MakeAdapter
) -> None:
    engine = Metered(FakeEngine(), metrics)
    adapter = make_adapter("fake")
    await engine.load_adapter(adapter)

    await reply(engine, adapter=adapter.name)

    assert value(metrics, "swaps_total") == 0


async def test_the_first_piece_and_the_tokens_after_it_are_timed(metrics: Metrics) -> None:
    engine = Metered(FakeEngine(), metrics)

    await reply(engine)
    await reply(engine, tokens=1)

    assert value(metrics, "first_token_seconds_count") == 2
    assert value(metrics, "token_seconds_count") == 1, "of one token there is nothing between"


async def test_what_fails_or_finds_no_place_is_counted(metrics: Metrics) -> None:
    failing = FakeEngine()
    failing.failure = EngineError("no")
    with pytest.raises(EngineError):
        await reply(Metered(failing, metrics))
    broken = FakeEngine()
    broken.failure = RuntimeError("a bug")
    with pytest.raises(RuntimeError):
        await reply(Metered(broken, metrics))
    with pytest.raises(EngineBusy):
        await reply(Metered(FakeEngine(queue_size=0), metrics))

    assert value(metrics, "replies_total", adapter="base", outcome="failed") == 2
    assert value(metrics, "replies_total", adapter="base", outcome="busy") == 1


def test_what_the_store_counts_is_read_when_it_is_asked_for(
    metrics: Metrics, database: Database
) -> None:
    metrics.registry.register(StoreFigures(Statistics(database)))
    first, second = talk(database), talk(database)
    rate(database, first, Rating.UP, ADA)
    rate(database, first, Rating.UP, BOB)
    rate(database, second, Rating.DOWN, ADA)
    Runs(database).queue("this test")

    assert value(metrics, "ratings", adapter="base", rating="up") == 2
    assert value(metrics, "ratings", adapter="base", rating="down") == 1
    assert value(metrics, "runs", status="queued") == 1
    assert value(metrics, "updates_waiting") == 0
