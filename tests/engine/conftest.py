"""Engines to test: the real one over a tiny random model."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from bot.engine.local import LocalEngine
from bot.engine.weights import Weights, load_weights
from store.adapters import hash_adapter
from store.domain import Adapter, AdapterStatus
from tests.tiny import make_tiny_adapter

MakeAdapter = Callable[..., Adapter]


@pytest.fixture
def tiny_weights(tiny_model: Path, tmp_path: Path) -> Weights:
    """The tiny model in fp32, where sums do not depend on their order enough to matter."""
    return load_weights(str(tiny_model), models_folder=tmp_path, device="cpu", dtype=torch.float32)


@pytest.fixture
async def local_engine(tiny_weights: Weights) -> AsyncIterator[LocalEngine]:
    """The local engine over the tiny model."""
    engine = LocalEngine(tiny_weights, queue_size=4)
    yield engine
    await engine.close()


@pytest.fixture
def make_adapter(tiny_model: Path, tmp_path: Path) -> MakeAdapter:
    """Makes adapters of the tiny model; `base_model` is what they claim to be trained on."""

    def make(base_model: str, *, seed: int = 1) -> Adapter:
        folder = make_tiny_adapter(tiny_model, tmp_path / f"adapter-{seed}", seed=seed)
        sha256 = hash_adapter(folder)
        return Adapter(
            name=f"a{seed}-{sha256[:8]}",
            sha256=sha256,
            base_model=base_model,
            path=str(folder),
            run_id=None,
            status=AdapterStatus.CANDIDATE,
            metrics={},
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
        )

    return make
