"""Versions are measured one after another, since they share one model's weights."""

import asyncio
import time
from typing import Any

import pytest

from bot.engine.base import SamplingParams
from bot.engine.local import LocalEngine, Weights
from store.domain import ExampleSet
from tests.fakes import FakeEmbedder
from tests.trainer.examples import rated
from trainer.proving.evaluator import Evaluator
from trainer.proving.predictor import RatingPredictor


async def test_two_versions_are_never_measured_at_once(
    tiny_weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.proving.evaluator.load_retention_suite", lambda: ())
    monkeypatch.setattr("trainer.proving.evaluator.SAMPLED_REPLIES", 2)
    monkeypatch.setattr("trainer.proving.evaluator.SAMPLING", SamplingParams(max_new_tokens=4))
    engine = LocalEngine(tiny_weights)
    evaluator = Evaluator(
        weights=tiny_weights,
        engine=engine,
        predictor=RatingPredictor(FakeEmbedder(), (), ()),
        held_out=ExampleSet(unpaired=(rated(1, held_out=True),)),
        system_prompt="",
    )
    passes = 0
    stream = engine.stream

    def counted(*inputs: Any, **options: Any) -> Any:
        assert passes == 0, "the engine writes while a version is measured"
        return stream(*inputs, **options)

    def around(work: Any) -> Any:
        def measured(*inputs: Any) -> Any:
            nonlocal passes
            assert passes == 0, "two versions are measured at once"
            passes += 1
            time.sleep(0.05)  # long enough for the engine to begin something else
            try:
                return work(*inputs)
            finally:
                passes -= 1

        return measured

    monkeypatch.setattr(engine, "stream", counted)
    monkeypatch.setattr(evaluator, "_measure", around(evaluator._measure))

    (first, _), _, (second, _) = await asyncio.gather(
        evaluator.evaluate(None),
        evaluator.greedy_replies(evaluator.prompts, None),
        evaluator.evaluate(None),
    )
    await engine.close()

    assert first == second
