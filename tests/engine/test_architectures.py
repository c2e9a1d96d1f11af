"""Models of other architectures are loaded, merged, batched, streamed and swapped alike."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from benchmarks.tiny_models import ARCHITECTURES, make_tiny_adapter, make_tiny_model
from bot.engine.base import Completion, SamplingParams
from bot.engine.local.local_engine import LocalEngine
from bot.engine.local.weights import Weights, load_weights
from store.domain import Adapter, Message
from tests.trainer.examples import candidate

QUESTIONS = (
    "What is the capital of France?",
    "What is it?",
    "the the the the the the the the the the the the the the the the the the the the the the",
)
GREEDY = SamplingParams(max_new_tokens=24)


def asked(question: str) -> tuple[Message, ...]:
    return (Message(role="user", content=question),)


@pytest.fixture(params=list(ARCHITECTURES))
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "model", architecture=request.param)


@pytest.fixture
def weights(model: Path, tmp_path: Path) -> Weights:
    return load_weights(str(model), models_folder=tmp_path, device="cpu", dtype=torch.float32)


@pytest.fixture(params=[0, 4], ids=["", "drafts"])
async def engine(
    weights: Weights, request: pytest.FixtureRequest, eager: None
) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(weights, draft_tokens=request.param)
    yield engine
    await engine.close()


@pytest.fixture
def adapter(model: Path, tmp_path: Path, weights: Weights) -> Adapter:
    return candidate(make_tiny_adapter(model, tmp_path / "adapter"), weights.name)


async def say(engine: LocalEngine, question: str, adapter: str | None = None) -> str:
    async with aclosing(engine.stream(asked(question), GREEDY, adapter=adapter)) as stream:
        items = [item async for item in stream]
    assert isinstance(items[-1], Completion)
    return items[-1].text


def generated(weights: Weights, folder: str | None = None) -> list[str]:
    """Return what transformers and PEFT generate, one question at a time."""
    fresh = load_weights(
        weights.name, models_folder=Path(weights.name), device="cpu", dtype=torch.float32
    )
    model = fresh.model if folder is None else PeftModel.from_pretrained(fresh.model, folder)
    texts = []
    for question in QUESTIONS:
        ids = torch.tensor([weights.template.encode(asked(question))])
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=GREEDY.max_new_tokens,
            do_sample=False,
        )
        texts.append(weights.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
    return texts


async def test_side_by_side_they_say_what_transformers_generates(
    engine: LocalEngine, weights: Weights
) -> None:
    said = await asyncio.gather(*(say(engine, question) for question in QUESTIONS))

    assert said == generated(weights)


async def test_with_an_adapter_they_say_what_peft_generates(
    engine: LocalEngine, weights: Weights, adapter: Adapter
) -> None:
    await engine.load_adapter(adapter)

    said = await asyncio.gather(*(say(engine, each, adapter.name) for each in QUESTIONS))

    assert said == generated(weights, adapter.path)


async def test_two_versions_at_once_say_what_each_says_alone(
    engine: LocalEngine, weights: Weights, adapter: Adapter
) -> None:
    await engine.load_adapter(adapter)

    said = await asyncio.gather(
        *(say(engine, each, name) for each in QUESTIONS for name in (None, adapter.name))
    )

    assert said[::2] == generated(weights)
    assert said[1::2] == generated(weights, adapter.path)
