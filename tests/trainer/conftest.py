"""A tiny model to train adapters on, and a database that is migrated once."""

from pathlib import Path

import pytest
import torch

from bot.engine.local import Weights, load_weights
from tests.store.conftest import migrated_sqlite, sqlite

__all__ = ["migrated_sqlite", "sqlite", "tiny_weights"]


@pytest.fixture
def tiny_weights(tiny_model: Path) -> Weights:
    """Return the tiny model in fp32, where a small adapter makes a measurable difference."""
    return load_weights(
        str(tiny_model), models_folder=tiny_model, device="cpu", dtype=torch.float32
    )
