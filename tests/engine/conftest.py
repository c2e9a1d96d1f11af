"""Engines to test: the real one over a tiny random model."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch

from bot.engine.local import batch
from bot.engine.local.local_engine import LocalEngine
from bot.engine.local.weights import Weights, load_weights
from bot.engine.vllm.vllm_engine import VllmEngine
from tests.vllm import FakeVllm


@pytest.fixture
def tiny_weights(tiny_model: Path, tmp_path: Path) -> Weights:
    """Return the tiny model in fp32, where the order of sums hardly matters."""
    return load_weights(str(tiny_model), models_folder=tmp_path, device="cpu", dtype=torch.float32)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check every draft, whatever it costs."""
    monkeypatch.setattr(
        batch, "choose_draft_length", lambda lookups: max(len(each.draft) for each in lookups)
    )


@pytest.fixture
async def vllm_engine(tiny_weights: Weights) -> AsyncIterator[VllmEngine]:
    """Yield the engine for vLLM over a loopback server."""
    async with FakeVllm(tiny_weights.tokenizer) as server:
        engine = await VllmEngine.connect(tiny_weights, [server.url], queue_size=4)
        yield engine
        await engine.close()


@pytest.fixture
async def local_engine(tiny_weights: Weights) -> AsyncIterator[LocalEngine]:
    """Yield the local engine over the tiny model."""
    engine = LocalEngine(tiny_weights, queue_size=4)
    yield engine
    await engine.close()
